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

// mode makes the files readable for all: runtimes run as other users.
const mode = 0o644

// maxFile bounds a file that is read, in bytes; meshd's own are smaller than 2,000.
const maxFile = 64 << 10

// Files keeps the two files as Settings ask for. A note beside the control socket records
// what was written, so that the next run and CleanUp know which files are meshd's. Files
// must not be used by several goroutines at once.
type Files struct {
	note    string // path of the note
	written note
}

// New reads the note at a path. If another user may have put the note there, New returns
// an error, and Files that ignore the note; Files are valid in any case.
func New(notePath string) (*Files, error) {
	written, err := readNote(notePath)
	return &Files{note: notePath, written: written}, err
}

// An Outcome is the result of one Set.
type Outcome struct {
	News   []string // for the log: a sentence for each file that another program changed
	Failed error    // joined errors of files that could not be written
	Left   error    // joined errors of unwanted files that could not be removed
}

// Set writes the files that differ from s, and then removes those that s does not want. It
// goes on after a failure. Set replaces only files that meshd or flannel wrote: any other
// file at a path is an error in Failed.
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

// put writes a file if its content or mode is not the wanted one. news is a sentence for
// the log if another program has touched the file.
func (f *Files) put(path string, content []byte) (news string, err error) {
	have, err := foreign.ReadFile(path, maxFile)
	known, was := f.written[path]
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if was && known == hash(content) {
			news = path + " was removed by another program: restored"
		}
	case errors.Is(err, foreign.ErrNotRegular):
		return "", fmt.Errorf("%w: not replacing it: choose another path, or \"\" to write no file", err)
	case err != nil && !errors.Is(err, foreign.ErrTooLarge):
		return "", reason(err)
	case err == nil && bytes.Equal(have.Content, content) && have.Mode == mode:
		return "", nil
	case was && known == hash(content):
		news = path + " was changed by another program: restored"
	case !was && !looksLikeOurs(have.Content):
		return "", fmt.Errorf("%w: move it away, or choose another path", errNotOurs)
	case !was && !bytes.Equal(have.Content, content):
		news = path + " was written by another program: replaced"
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", reason(err)
	}
	return news, reason(replace(path, content, mode))
}

// errNotOurs says that a path holds a file of another program, which stays.
var errNotOurs = errors.New("the file belongs to another program")

// replace writes a file whole or not at all (rename(2)), with a mode that the umask does not
// change.
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

// reason returns the cause of a failed call without the path. The path may be that of a
// temporary file with a random name: with it, each failure would look like a new one, and
// the log reports only new ones.
func reason(err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path.Err
	}
	if link, ok := errors.AsType[*os.LinkError](err); ok {
		return link.Err
	}
	return err
}

// CleanUp removes the files that the note at a path lists, and the note. If cniConf is not
// empty, CleanUp also removes a CNI configuration of meshd's at that path: the note is on a
// tmpfs and does not survive a reboot, the configuration does. A file that was changed
// since stays. CleanUp calls report before it looks at a path, and again with removed set
// after it has removed the file. It goes on after a failure and returns all errors, joined.
//
// CleanUp runs as root and trusts nothing that it finds: the author of the note, or the
// owner of a folder on the way to a file, could have prepared it (see package foreign). It
// removes what a note lists with the rights of the note's author. CleanUp blocks as long as
// the file systems on the way do, which for a FUSE mount may be forever.
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

// remove removes a file with the rights of a user if written accepts its content. Without
// the user's rights, root would remove any file that the daemon, which has fewer rights,
// could have put into its note.
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

// looksLikeOurs reports whether a file has the form of those written here. flannel's
// subnet.env has it, too: meshd takes over from flannel.
func looksLikeOurs(content []byte) bool {
	return bytes.HasPrefix(content, []byte("FLANNEL_")) || isConfList(content)
}

// isConfList reports whether a file begins as those of ConfList do.
func isConfList(content []byte) bool {
	const head = "{\n  \"cniVersion\": \"" + cniVersion + "\",\n  \"name\": \"" + cniNetwork + "\",\n"
	return bytes.HasPrefix(content, []byte(head))
}

// hash returns the SHA-256 of content in hex, as notes have it.
func hash(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}
