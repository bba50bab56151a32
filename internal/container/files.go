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

// mode is that of the files: runtimes are not of our group.
const mode = 0o644

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

// An Outcome is what became of files.
type Outcome struct {
	News   []string // what people may want to know, a sentence each
	Failed error    // what could not be written
	Left   error    // what is not wanted any more and could not be removed
}

// Set writes what is not as it should be, and then removes what is not wanted any more.
// What can be done is done, whatever fails. Only our own files are replaced, those of
// flannel, and such as have been ours.
func (f *Files) Set(s Settings) (o Outcome) {
	wanted := s.contents()
	var failed, left []error
	for _, path := range slices.Sorted(maps.Keys(wanted)) {
		sum := hash(wanted[path])
		news, err := f.put(path, wanted[path])
		if err != nil {
			failed = append(failed, fmt.Errorf("write %s: %w", path, err))
			continue
		}
		if news != "" {
			o.News = append(o.News, news)
		}
		f.written[path] = sum
	}
	for _, path := range slices.Sorted(maps.Keys(f.written)) {
		if wanted[path] != nil {
			continue
		}
		if _, err := remove(path, f.written[path]); err != nil {
			left = append(left, err)
			continue
		}
		delete(f.written, path)
	}
	o.Failed = errors.Join(append(failed, f.written.save(f.note))...)
	o.Left = errors.Join(left...)
	return o
}

// put writes a file that is not as it should be.
func (f *Files) put(path string, content []byte) (news string, err error) {
	info, err := os.Lstat(path)
	switch {
	case err == nil && !info.Mode().IsRegular():
		return "", errors.New("it is no ordinary file, and would be replaced by one: choose another path, or \"\" for none")
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", reason(err)
	}
	known, was := f.written[path]
	if err == nil {
		have, err := os.ReadFile(path)
		switch {
		case err != nil:
			return "", reason(err)
		case bytes.Equal(have, content) && info.Mode().Perm() == mode:
			return "", nil
		case was && known == hash(content):
			news = path + " was changed by another program: restored"
		case !was && !looksLikeOurs(have):
			return "", errors.New("it is another program's: move it away, or choose another path")
		case !was && !bytes.Equal(have, content):
			news = path + ", which another program had written, is replaced"
		}
	} else if was && known == hash(content) {
		news = path + " was removed by another program: restored"
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", reason(err)
	}
	return news, reason(replace(path, content, mode))
}

// replace writes a file whole or not at all, with a mode whatever the umask.
func replace(path string, content []byte, mode fs.FileMode) error {
	pending, err := renameio.NewPendingFile(path, renameio.WithStaticPermissions(mode))
	if err != nil {
		return err
	}
	defer func() { _ = pending.Cleanup() }()
	if _, err := pending.Write(content); err != nil {
		return err
	}
	return pending.CloseAtomicallyReplace()
}

// reason returns why a call failed without the name of a file that exists for a moment
// only, which would make each failure look like a new one.
func reason(err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path.Err
	}
	if link, ok := errors.AsType[*os.LinkError](err); ok {
		return link.Err
	}
	return err
}

// CleanUp removes what the note at a path tells of, and the note, and a configuration for
// CNI at cniConf, whose note a reboot has taken. A file that somebody changed since is his,
// and stays. It returns what it removed.
func CleanUp(notePath, cniConf string) (removed []string, err error) {
	written, err := readNote(notePath)
	errs := []error{err}
	if content, err := os.ReadFile(cniConf); err == nil && isConfList(content) && written[cniConf] == "" {
		written[cniConf] = hash(content)
	}
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
		return true, fmt.Errorf("remove %s: %w", path, reason(err))
	}
	return true, nil
}

// looksLikeOurs tells whether a file is of the kind that is written here: flannel's
// subnet.env has the same form, and is to be taken over.
func looksLikeOurs(content []byte) bool {
	return bytes.HasPrefix(content, []byte("FLANNEL_")) || isConfList(content)
}

// isConfList tells whether a file is a configuration for CNI as ConfList has it.
func isConfList(content []byte) bool {
	return bytes.HasPrefix(content, []byte("{\n  \"cniVersion\": \""+cniVersion+"\",\n  \"name\": \""+cniNetwork+"\",\n"))
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
		err = reason(replace(path, append(doc, '\n'), 0o600))
	}
	if err != nil {
		return fmt.Errorf("remember what files were written: %w", err)
	}
	return nil
}
