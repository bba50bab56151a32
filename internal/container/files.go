package container

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/renameio/v2"

	"example.org/meshd/internal/foreign"
)

// mode is that of the files: runtimes are not of our group.
const mode = 0o644

// maxFile bounds a file that is read, in bytes; ours have less than 2,000.
const maxFile = 64 << 10

// Files keeps files as Settings ask for. A note beside the control socket remembers what
// was written, so that another run, or CleanUp, knows what is ours. Not for several
// goroutines at once.
type Files struct {
	note    string
	written note
}

// New returns the files that a note at a path tells of. A note that another user may have put
// there is an error, and not believed.
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
		if err := remove(path, me(), func(string, bool) {}, f.written.says(path)); err != nil {
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
	have, err := foreign.ReadFile(path, maxFile)
	known, was := f.written[path]
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if was && known == hash(content) {
			news = path + " was removed by another program: restored"
		}
	case errors.Is(err, foreign.ErrNotRegular):
		return "", fmt.Errorf("%w, and would be replaced by one: choose another path, or \"\" for none", err)
	case err != nil && !errors.Is(err, foreign.ErrTooLarge):
		return "", reason(err)
	case err == nil && bytes.Equal(have.Content, content) && have.Mode == mode:
		return "", nil
	case was && known == hash(content):
		news = path + " was changed by another program: restored"
	case !was && !looksLikeOurs(have.Content):
		return "", errors.New("it is another program's: move it away, or choose another path")
	case !was && !bytes.Equal(have.Content, content):
		news = path + ", which another program had written, is replaced"
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
// CNI at cniConf, whose note a reboot has taken; "" is none. A file that somebody changed since
// is his, and stays. CleanUp calls report before it looks at a path, and with removed set once
// the file is gone.
//
// Root does not trust what it finds: whoever wrote the note, or has a folder on the way to a
// file, could have prepared it (package foreign). What a note says is done with the rights of
// its author. File systems of others may never answer, and then CleanUp does not return.
func CleanUp(notePath, cniConf string, report func(path string, removed bool)) error {
	report(notePath, false)
	n, err := openNote(notePath)
	errs := []error{err}
	for _, path := range slices.Sorted(maps.Keys(n.written)) {
		errs = append(errs, remove(path, n.author, report, n.written.says(path)))
	}
	if cniConf != "" && n.written[cniConf] == "" {
		errs = append(errs, remove(cniConf, me(), report, isConfList))
	}
	if n.file != nil {
		if err := n.file.Remove(n.author); err != nil {
			errs = append(errs, fmt.Errorf("remove %s: %w", notePath, reason(err)))
		}
		n.file.Close()
	}
	return errors.Join(errs...)
}

// remove removes a file if it is what was written, on behalf of a user. Root must not remove
// whatever the daemon, who has fewer rights, may have noted.
func remove(path string, user uint32, report func(string, bool), written func([]byte) bool) error {
	report(path, false)
	f, err := foreign.OpenFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", path, reason(err))
	}
	defer f.Close()
	content, err := f.Read(maxFile)
	if errors.Is(err, foreign.ErrTooLarge) || err == nil && !written(content) {
		return nil
	}
	if err == nil {
		err = f.Remove(user)
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", path, reason(err))
	}
	report(path, true)
	return nil
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
