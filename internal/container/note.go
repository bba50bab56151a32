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

// note records the written files: path -> SHA-256 of the content, in hex.
type note map[string]string

// Bounds of a note. meshd writes two files; the note also keeps those of earlier settings
// that could not be removed.
const (
	maxNote  = 64 << 10 // bytes
	maxFiles = 64
)

// What is wrong with a note; test with errors.Is.
var (
	errNoNote   = errors.New("it is not a note of meshd")
	errWritable = errors.New("users other than its owner can write it")
	errAuthor   = errors.New("another user may have written it")
)

// parseNote reads the content of a note. Any user may have written it.
func parseNote(doc []byte) (note, error) {
	n := note{}
	if err := json.Unmarshal(doc, &n); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoNote, err)
	}
	if n == nil { // the document is `null`
		return nil, errNoNote
	}
	if len(n) > maxFiles {
		return nil, fmt.Errorf("%w: it lists %d files, the limit is %d", errNoNote, len(n), maxFiles)
	}
	for path, sum := range n {
		if !filepath.IsAbs(path) || filepath.Clean(path) != path {
			return nil, fmt.Errorf("%w: %q must be an absolute path without \".\", \"..\" or \"//\"", errNoNote, path)
		}
		if raw, err := hex.DecodeString(sum); err != nil || len(raw) != sha256.Size {
			return nil, fmt.Errorf("%w: %q is not the SHA-256 of %s", errNoNote, sum, path)
		}
	}
	return n, nil
}

// says returns a function that reports whether a content is the one that the note records
// for path. The form is checked, too: a forged note can name any file with its hash.
func (n note) says(path string) func(content []byte) bool {
	return func(content []byte) bool { return hash(content) == n[path] && looksLikeOurs(content) }
}

// me returns the effective user id of this process.
func me() uint32 { return uint32(os.Geteuid()) }

// openedNote is an open note.
type openedNote struct {
	written note
	author  uint32        // id of the user who may have put the note there
	file    *foreign.File // nil if nothing is there, or no ordinary file; the caller closes it
}

// openNote opens and reads a note. The result is an empty note if none exists, and, with an
// error, if it cannot be read or another user than its owner could have written it.
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
			err = fmt.Errorf("%w (mode %#o)", errWritable, n.file.Mode())
		}
		if err == nil {
			n.written, err = parseNote(doc)
		}
	}
	if err != nil {
		err = fmt.Errorf("read the note of written files %s: %w", path, err)
	}
	return n, err
}

// readNote returns the note of this process's own user. The daemon removes what a note lists
// with its own rights, so it ignores the notes of other users, with an error.
func readNote(path string) (note, error) {
	n, err := openNote(path)
	if n.file == nil {
		return note{}, err
	}
	defer n.file.Close()
	if err == nil && n.author != me() {
		err = fmt.Errorf("ignore the note %s: %w (user %d): `meshd cleanup` removes it and the files it lists",
			path, errAuthor, n.author)
	}
	if err != nil {
		return note{}, err
	}
	return n.written, nil
}

// save writes the note if it differs from the one in place.
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
		return fmt.Errorf("write the note of written files: %w", err)
	}
	return nil
}
