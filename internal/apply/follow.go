package apply

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"example.org/meshd/internal/foreign"
)

// patience is how long Alone waits for another program, and attempt how long until it looks again.
const (
	patience = 5 * time.Second
	attempt  = 10 * time.Millisecond
)

// Alone calls follow while no other program does so for the same state folder. A slow one could otherwise
// write the text before over a newer one, which would look like an edit. It returns the error of follow, or
// foreign.ErrLocked if another program has not ended after 5 s or at the end of ctx.
func Alone(ctx context.Context, folder string, follow func() error) error {
	f, err := foreign.Open(folder)
	if errors.Is(err, fs.ErrNotExist) { // nothing was ever applied
		return follow()
	}
	if err != nil {
		return err
	}
	defer f.Close()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		lock, err := f.Lock(true)
		if err == nil {
			defer lock.Close()
			return follow()
		}
		if !errors.Is(err, foreign.ErrLocked) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for another meshd that writes it: %w", err)
		case <-time.After(attempt):
		}
	}
}

// Owed returns the text that root is to write to the file at a path, which has a content: meshd runs that
// text in its place, and root has asked for the file to follow. ok is false if the file is as it should be,
// or decides itself. Everything in the state folder is the word of the service's user: only regular files
// without links are read, of a bounded size, and the caller writes nothing that a check rejects.
func Owed(folder, path string, content []byte) (text []byte, ok bool, err error) {
	doc, err := readForeign(filepath.Join(folder, RecordName), maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read what was applied: %w", err)
	}
	r, err := parseRecord(doc)
	switch {
	case err != nil:
		return nil, false, fmt.Errorf("read what was applied: %w", err)
	case r.Path != path, !r.Follow, !r.covers(sumOf(content)):
		return nil, false, nil
	}
	text, err = readForeign(filepath.Join(folder, FilesName, r.Sum+suffix), MaxFile)
	if err == nil && sumOf(text) != r.Sum {
		err = errors.New("it is damaged")
	}
	if err != nil {
		return nil, false, fmt.Errorf("read the file in force: %w", err)
	}
	return text, true, nil
}

// Forget removes the record from a state folder: the file decides from now on. History stays.
func Forget(folder string) error {
	f, err := foreign.OpenFile(filepath.Join(folder, RecordName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Remove(f.Author())
}

// errLinked says that a file may change under another name, which is somewhere else.
var errLinked = errors.New("it has several names (hard links)")

// readForeign reads a regular file without links that another user may have put there.
func readForeign(path string, most int64) ([]byte, error) {
	f, err := foreign.OpenFile(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if f.Names() != 1 {
		return nil, errLinked
	}
	return f.Read(most)
}
