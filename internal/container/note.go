package container

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"example.org/meshd/internal/foreign"
)

// note says what was written: path -> SHA-256 of the content, in hex.
type note map[string]string

// Bounds of a note: a daemon writes two files, and notes those that it could not remove.
const (
	maxNote  = 64 << 10 // bytes
	maxFiles = 64
)

// parseNote reads a note's content, which may be anybody's.
func parseNote(doc []byte) (note, error) {
	n := note{}
	if err := json.Unmarshal(doc, &n); err != nil {
		return nil, err
	}
	if n == nil {
		return nil, errors.New("it is null")
	}
	if len(n) > maxFiles {
		return nil, fmt.Errorf("it names %d files, and meshd never writes more than %d", len(n), maxFiles)
	}
	for path, sum := range n {
		if !filepath.IsAbs(path) || filepath.Clean(path) != path {
			return nil, fmt.Errorf("%q must be an absolute path without \".\", \"..\" or \"//\"", path)
		}
		if raw, err := hex.DecodeString(sum); err != nil || len(raw) != sha256.Size {
			return nil, fmt.Errorf("%q is not the SHA-256 of %s", sum, path)
		}
	}
	return n, nil
}

// says returns what tells whether a file's content is what the note says was written.
func (n note) says(path string) func(content []byte) bool {
	return func(content []byte) bool { return hash(content) == n[path] && looksLikeOurs(content) }
}

// me returns the user id of this process.
func me() uint32 { return uint32(os.Geteuid()) }

// openedNote is a note that was found.
type openedNote struct {
	written note
	author  uint32        // user id of who may have put it there
	file    *foreign.File // nil if there is none, or nothing that could be a note
}

// openNote returns an empty note if there is none, or one that nobody understands.
func openNote(path string) (n openedNote, err error) {
	n.written = note{}
	n.file, err = foreign.OpenFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return n, nil
	}
	if err == nil {
		n.author = n.file.Author()
		var doc []byte
		if doc, err = n.file.Read(maxNote); err == nil && n.file.Mode()&0o022 != 0 {
			err = fmt.Errorf("others than its owner may write it (mode %#o)", n.file.Mode())
		}
		if err == nil {
			n.written, err = parseNote(doc)
		}
	}
	if err != nil {
		err = fmt.Errorf("read what files were written: %s: %w", path, err)
	}
	return n, err
}

// readNote returns what this process's user noted. It would do what a note says with its own
// rights, so it does not believe other users'.
func readNote(path string) (note, error) {
	n, err := openNote(path)
	if n.file == nil {
		return note{}, err
	}
	defer n.file.Close()
	if err == nil && n.author != me() {
		err = fmt.Errorf("%s may be user %d's: ignored; `meshd cleanup` removes it with the files", path, n.author)
	}
	if err != nil {
		return note{}, err
	}
	return n.written, nil
}

// save writes the note if it says something new.
func (n note) save(path string) error {
	before, err := readNote(path)
	if err == nil && maps.Equal(before, n) {
		return nil
	}
	doc, err := json.Marshal(n)
	if err == nil {
		err = reason(replace(path, append(doc, '\n'), 0o600))
	}
	if err != nil {
		return fmt.Errorf("remember what files were written: %w", err)
	}
	return nil
}
