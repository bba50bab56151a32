package container

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/renameio/v2"
)

// Files keeps files as Settings ask for. A note beside the control socket remembers what
// was written, so that another run, or CleanUp, knows what is ours. Not for several
// goroutines at once.
type Files struct {
	note    string
	written note
}

// note says what was written: path -> SHA-256 of the content, in hex.
type note map[string]string

// New returns the files that a note at a path tells of.
func New(notePath string) (*Files, error) {
	written, err := readNote(notePath)
	return &Files{note: notePath, written: written}, err
}

// Set writes what is not as it should be, and removes what is not wanted any more. It
// returns the paths of those files that it had written before and found changed or
// removed by somebody else. What can be done is done, whatever fails.
func (f *Files) Set(s Settings) (restored []string, err error) {
	wanted := s.contents()
	var errs []error
	for _, path := range slices.Sorted(maps.Keys(f.written)) {
		if wanted[path] == nil {
			_, err := remove(path, f.written[path])
			errs = append(errs, err)
			delete(f.written, path)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(wanted)) {
		changed, err := put(path, wanted[path])
		sum := hash(wanted[path])
		if err == nil {
			if changed && f.written[path] == sum {
				restored = append(restored, path)
			}
			f.written[path] = sum
		}
		errs = append(errs, err)
	}
	return restored, errors.Join(append(errs, f.written.save(f.note))...)
}

// put writes a file that is not as it should be.
func put(path string, content []byte) (changed bool, err error) {
	const mode = 0o644 // runtimes are not of our group
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return false, fmt.Errorf("write %s: it is no ordinary file, and would be replaced by one: choose another path, or \"\" for none", path)
	}
	have, err := os.ReadFile(path)
	if err == nil && bytes.Equal(have, content) {
		info, err := os.Stat(path)
		if err == nil && info.Mode().Perm() == mode {
			return false, nil
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return true, fmt.Errorf("write %s: %w", path, err)
	}
	if err := renameio.WriteFile(path, content, mode, renameio.WithStaticPermissions(mode)); err != nil {
		return true, fmt.Errorf("write %s: %w", path, err)
	}
	return true, nil
}

// CleanUp removes what the note at a path tells of, and the note. A file that somebody
// changed since is his, and stays. It returns what it removed.
func CleanUp(notePath string) (removed []string, err error) {
	written, err := readNote(notePath)
	errs := []error{err}
	for _, path := range slices.Sorted(maps.Keys(written)) {
		ours, err := remove(path, written[path])
		if ours && err == nil {
			removed = append(removed, path)
		}
		errs = append(errs, err)
	}
	if err := os.Remove(notePath); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	return removed, errors.Join(errs...)
}

// remove removes a file if it is what was written. Root must not remove whatever the
// daemon, who has fewer rights, may have noted: so it has to look like ours, too.
func remove(path, sum string) (ours bool, err error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && (hash(content) != sum || !looksLikeOurs(content)) {
		return false, nil
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil {
		return true, fmt.Errorf("remove %s: %w", path, err)
	}
	return true, nil
}

func looksLikeOurs(content []byte) bool {
	return bytes.HasPrefix(content, []byte("FLANNEL_")) || bytes.HasPrefix(content, []byte("{\n  \"cniVersion\": "))
}

func hash(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// readNote returns an empty note if there is none, or one that nobody understands.
func readNote(path string) (note, error) {
	n := note{}
	doc, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return n, nil
	}
	if err == nil {
		err = json.Unmarshal(doc, &n)
	}
	if err != nil {
		return note{}, fmt.Errorf("read what files were written: %s: %w", path, err)
	}
	return n, nil
}

// save writes the note if it says something new.
func (n note) save(path string) error {
	before, err := readNote(path)
	if err == nil && maps.Equal(before, n) {
		return nil
	}
	doc, err := json.Marshal(n)
	if err == nil {
		err = renameio.WriteFile(path, append(doc, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("remember what files were written: %w", err)
	}
	return nil
}
