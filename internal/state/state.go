// Package state keeps files in the state folder, which survives the daemon and reboots:
// /var/lib/meshd of the service, SOCKET.state beside another control socket.
//
// A file is written whole or not at all: a reader sees the one before or the new one, also after a
// power cut. What is read may have been put there by somebody else, so nothing but regular files of
// a bounded size are opened. Calls wait as long as the file system does: whoever cannot wait calls
// from a goroutine of its own.
package state

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	folderMode = 0o750 // as the unit's StateDirectoryMode=
	// The folder keeps others out. Within it the service reads what root's daemon has left.
	fileMode = 0o644
)

// ErrNotRegular says that there is something else than a regular file; test with errors.Is.
var ErrNotRegular = errors.New("not a regular file")

// ErrTooLarge says that a file has more bytes than the caller wants; test with errors.Is.
var ErrTooLarge = errors.New("the file is too large")

// Read returns the content of a file in a folder, of at most most bytes. A symbolic link, a FIFO or a
// device in its place is ErrNotRegular. The error is fs.ErrNotExist if there is nothing.
func Read(folder, name string, most int64) ([]byte, error) {
	path := filepath.Join(folder, name)
	// O_NONBLOCK: a FIFO would wait for a writer.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) { // a link, a socket
		return nil, fmt.Errorf("%s: %w", path, ErrNotRegular)
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w", path, ErrNotRegular)
	}
	doc, err := io.ReadAll(io.LimitReader(file, most+1))
	if err == nil && int64(len(doc)) > most {
		return nil, fmt.Errorf("%s: %w: the limit is %d bytes", path, ErrTooLarge, most)
	}
	return doc, err
}

// Write makes a file in a folder have a content, whole or not at all, and makes the folder if need be.
// It returns when the content would survive a power cut. After an error the file is as before, or new.
func Write(folder, name string, content []byte) error {
	if err := replace(folder, name, content, (*os.File).Sync); err != nil {
		return err
	}
	// The new name is in the folder, which has to reach the disk, too.
	dir, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// Note is Write for what need not survive a power cut: it does not wait for the disk.
func Note(folder, name string, content []byte) error {
	return replace(folder, name, content, func(*os.File) error { return nil })
}

// replace writes a file beside its place, calls settle with it, and renames it there.
func replace(folder, name string, content []byte, settle func(*os.File) error) error {
	if err := os.MkdirAll(folder, folderMode); err != nil {
		return err
	}
	// The same name each time: a run that was killed leaves one file and not many. O_EXCL: nothing that
	// has the name by now is followed or written to.
	beside := filepath.Join(folder, "."+name+".new")
	if err := os.Remove(beside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err == nil {
		err = settle(file)
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(beside, filepath.Join(folder, name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(beside))
	}
	return nil
}

// Remove removes a file from a folder, and tells whether it was there.
func Remove(folder, name string) (removed bool, err error) {
	err = os.Remove(filepath.Join(folder, name))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	return err == nil, err
}

// Author returns the id of a user other than root and the one of this process who may have written a
// file in a folder; else that of this process. What the file says is that user's word: nothing may be
// done because of it with more rights than that user has. The error is fs.ErrPermission if all users
// may change the folder or the file.
func Author(folder, name string) (user uint32, err error) {
	dir, err := os.Stat(folder) // it may be a link of root's; the file must be none, see Read
	if err != nil {
		return 0, err
	}
	file, err := os.Lstat(filepath.Join(folder, name))
	if err != nil {
		return 0, err
	}
	for _, info := range []fs.FileInfo{dir, file} {
		if info.Mode().Perm()&0o022 != 0 {
			return 0, fmt.Errorf("%s can be changed by others (mode %v): %w", info.Name(), info.Mode(),
				fs.ErrPermission)
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
			return stat.Uid, nil
		}
	}
	return uint32(os.Geteuid()), nil
}
