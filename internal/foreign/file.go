package foreign

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// What is wrong with a file; test with errors.Is.
var (
	ErrNotRegular = errors.New("it is no ordinary file")
	ErrTooLarge   = errors.New("it is too large")
)

// A File is an ordinary file that was found and not opened for reading yet. Its methods are
// for one goroutine at a time. Whoever opened it closes it.
type File struct {
	folder *Folder // nil if only Read is wanted
	name   string
	fd     int // O_PATH: nothing happens to a FIFO or a device
	stat   unix.Stat_t
}

// OpenFile finds the file at a path. An error that is fs.ErrNotExist says that there is none.
func OpenFile(path string) (*File, error) {
	folder, err := Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	f, err := find(folder.fd, filepath.Base(path))
	if err != nil {
		folder.Close()
		return nil, err
	}
	f.folder = folder
	return f, nil
}

// find looks at a name without following or opening what is there.
func find(folder int, name string) (*File, error) {
	fd, err := unix.Openat(folder, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := &File{name: name, fd: fd}
	err = unix.Fstat(fd, &f.stat)
	if err == nil && f.stat.Mode&unix.S_IFMT != unix.S_IFREG {
		err = ErrNotRegular
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Close closes the file.
func (f *File) Close() {
	_ = unix.Close(f.fd)
	if f.folder != nil {
		f.folder.Close()
	}
}

// Mode returns the permission bits of the file.
func (f *File) Mode() fs.FileMode { return fs.FileMode(f.stat.Mode & 0o777) }

// Author returns the user id of whoever may have put the file there, on whose behalf anything
// must be done that is done because of it: the one whose folder it is in, or its owner. It is
// the user of this process if neither is another user.
func (f *File) Author() uint32 {
	if by := f.folder.owner(); int(by) != os.Geteuid() || !others(f.stat.Uid) {
		return by
	}
	return f.stat.Uid
}

// Read returns the content, of max bytes at most.
func (f *File) Read(max int64) ([]byte, error) {
	if f.stat.Size > max {
		return nil, ErrTooLarge
	}
	// The very file that was looked at, whatever has its name now. Not blocking: its owner may
	// hold a lease (fcntl(2)).
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: f.name, Err: err}
	}
	file := os.NewFile(uintptr(fd), f.name)
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, max+1))
	if err == nil && int64(len(content)) > max {
		return nil, ErrTooLarge
	}
	return content, err
}

// Remove removes the file, unless another one has its name by now, on behalf of a user: with
// that user's rights, or with those of whoever may remove it anyway if user is the one of this
// process. That is the owner of its folder; in one like /tmp, where anybody may have put it,
// the owner of the file.
func (f *File) Remove(user uint32) error {
	if int(user) == os.Geteuid() {
		user = f.folder.owner()
		if f.folder.shared() && f.folder.stat.Mode&unix.S_ISVTX != 0 {
			user = f.stat.Uid
		}
	}
	var now unix.Stat_t
	if err := unix.Fstatat(f.folder.fd, f.name, &now, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "stat", Path: f.name, Err: err}
	}
	if now.Dev != f.stat.Dev || now.Ino != f.stat.Ino {
		return errors.New("another program has just replaced it")
	}
	return f.folder.unlink(f.name, user, 0)
}

// Found is an ordinary file as ReadFile saw it.
type Found struct {
	Content []byte
	Mode    fs.FileMode // permission bits
}

// ReadFile reads the ordinary file at a path, of max bytes at most, for whoever trusts the way
// to it: a symbolic link there is ErrNotRegular, as is a FIFO.
func ReadFile(path string, max int64) (Found, error) {
	f, err := find(unix.AT_FDCWD, path)
	if err != nil {
		return Found{}, err
	}
	defer f.Close()
	content, err := f.Read(max)
	return Found{content, f.Mode()}, err
}
