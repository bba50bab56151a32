// Package lastgood keeps the file that is in force, for a start at which the file on disk is bad: after
// a power cut in the middle of an edit, say. A host whose only way in is the mesh must not lose it for
// a typing error.
//
// The text is kept as it is, so that its hash is the one that peers know and its lines are those of the
// file. A last line says what it is, which also shows whether the text is whole:
//
//	[network]
//	...
//	# meshd: "/etc/mesh.toml" was in force at 2026-11-27T09:30:00Z sha256 9f86d081...
package lastgood

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"example.org/meshd/internal/foreign"
	"example.org/meshd/internal/state"
)

// Name is the name of the file in the state folder.
const Name = "last-good.toml"

const (
	mark    = "\n# meshd: "
	inForce = " was in force at "
	sum     = " sha256 "
	// maxLine bounds the last line: a path of PATH_MAX bytes, each of which may need four in quotes.
	maxLine = 4*4096 + 200
)

// Reasons why there is no last good file to run; test with errors.Is.
var (
	ErrNone    = errors.New("no last good file is kept")
	ErrDamaged = errors.New("the last good file is damaged")
	ErrOther   = errors.New("the last good file belongs to another file")
)

// A File is a text that was in force.
type File struct {
	Path  string    // of the file that had the text
	Text  string    // byte for byte
	Since time.Time // when it came into force, to the second
	// Sealed is what must never leave bare from now on; nil: the file does not ask for encryption.
	Sealed []netip.Prefix
}

// Path returns the path of the last good file in a state folder.
func Path(folder string) string { return filepath.Join(folder, Name) }

// Read returns the last good file of a state folder, which must have been kept for the file at a path.
// most bounds its text in bytes. It returns soon after ctx ends, whatever the file system does.
func Read(ctx context.Context, folder, path string, most int64) (File, error) {
	type answer struct {
		file File
		err  error
	}
	found := make(chan answer, 1)
	go func() {
		f, err := read(folder, path, most)
		found <- answer{f, err}
	}()
	select {
	case one := <-found:
		return one.file, one.err
	case <-ctx.Done():
		return File{}, fmt.Errorf("read %s: %w", Path(folder), context.Cause(ctx))
	}
}

// read is Read that waits as long as the file system does.
func read(folder, path string, most int64) (File, error) {
	doc, err := state.Read(folder, Name, most+maxLine)
	if errors.Is(err, fs.ErrNotExist) {
		return File{}, ErrNone
	}
	if err != nil {
		return File{}, fmt.Errorf("read the last good file: %w", err)
	}
	f, err := decode(doc)
	switch {
	case err != nil:
		return File{}, fmt.Errorf("%s: %w", Path(folder), err)
	case f.Path != path:
		return File{}, fmt.Errorf("%s: %w, %s", Path(folder), ErrOther, f.Path)
	}
	return f, nil
}

// Write keeps a file as the last good one. One with the same text stays as it is, with its time. After
// an error the one before is still there. It waits as long as the disk does.
func Write(folder string, f File) error {
	if f.Sealed != nil {
		if err := noteSealed(folder, f); err != nil {
			return err
		}
	}
	if had, err := read(folder, f.Path, int64(len(f.Text))); err != nil || !had.same(f) {
		if err := state.Write(folder, Name, encode(f)); err != nil {
			return fmt.Errorf("keep the file in force: %w", err)
		}
	}
	if f.Sealed == nil {
		return noteSealed(folder, f)
	}
	return nil
}

// Forget removes the last good file of a state folder, and tells whether there was one; so it does with the
// note that packets are encrypted. Root does so with the rights of the user who may have put them there
// (package foreign).
func Forget(folder string) (removed bool, err error) {
	removed, err = forget(Path(folder))
	_, noteErr := forget(filepath.Join(folder, SealedName))
	return removed, errors.Join(err, noteErr)
}

// forget removes one file.
func forget(path string) (removed bool, err error) {
	f, err := foreign.OpenFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = f.Remove(f.Author())
	return err == nil, err
}

// encode returns what is kept of a file.
func encode(f File) []byte {
	hash := sha256.Sum256([]byte(f.Text))
	last := mark + strconv.Quote(f.Path) + inForce + f.Since.UTC().Format(time.RFC3339) +
		sum + hex.EncodeToString(hash[:]) + "\n"
	return []byte(f.Text + last)
}

// decode takes nothing but what encode writes.
func decode(kept []byte) (File, error) {
	at := bytes.LastIndex(kept, []byte(mark))
	if at < 0 {
		return File{}, fmt.Errorf("%w: its last line is missing", ErrDamaged)
	}
	doc, line := kept[:at], string(kept[at+len(mark):])
	quoted, rest, found := strings.Cut(line, inForce)
	for found { // a path may have these words in it
		if path, err := strconv.Unquote(quoted); err == nil {
			return verify(path, rest, string(doc), kept)
		}
		var more string
		more, rest, found = strings.Cut(rest, inForce)
		quoted += inForce + more
	}
	return File{}, fmt.Errorf("%w: its last line is not understood", ErrDamaged)
}

// verify completes a File from the rest of the last line. The whole must be what encode makes of it:
// so nothing is overlooked, and a text that was cut or changed is none.
func verify(path, rest, text string, kept []byte) (File, error) {
	at, _, _ := strings.Cut(rest, sum)
	since, err := time.Parse(time.RFC3339, at)
	if err != nil {
		return File{}, fmt.Errorf("%w: its time is not understood", ErrDamaged)
	}
	f := File{Path: path, Text: text, Since: since}
	if !bytes.Equal(encode(f), kept) { // which does not write Sealed
		return File{}, fmt.Errorf("%w: its text is not what was kept", ErrDamaged)
	}
	return f, nil
}
