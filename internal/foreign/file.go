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

// Reasons to refuse a file or a folder; test with errors.Is.
var (
	ErrNotRegular = errors.New("not a regular file")
	ErrTooLarge   = errors.New("the file is too large")
	ErrReplaced   = errors.New("another program has replaced the file")
)

// A File is a regular file that was found but not yet opened for reading. Its methods must
// not be called by several goroutines at once. The caller of OpenFile closes it.
type File struct {
	folder *Folder     // nil if the file was not opened for Author and Remove
	name   string      // in folder
	fd     int         // O_PATH: opening it this way has no effect on a FIFO or a device
	stat   unix.Stat_t // as the file was when it was found
}

// OpenFile finds the regular file at a path, following the rules of this package. The error
// is fs.ErrNotExist if nothing is there, and ErrNotRegular for anything but a file.
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

// find looks at a name in a folder. It does not follow a link and does not open the file.
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

// Close releases the file's descriptors. The file must not be used afterwards.
func (f *File) Close() {
	_ = unix.Close(f.fd)
	if f.folder != nil {
		f.folder.Close()
	}
}

// Mode returns the permission bits of the file.
func (f *File) Mode() fs.FileMode { return fs.FileMode(f.stat.Mode & 0o777) }

// Names returns how many names the file has: one, unless there are hard links.
func (f *File) Names() uint64 { return uint64(f.stat.Nlink) }

// Author returns the id of the user who may have put the file there: the owner of the
// folder, or else the owner of the file. If both are root or the user of this process,
// Author returns the latter. Whatever is done because of the file's content must be done
// with the author's rights.
func (f *File) Author() uint32 {
	if by := f.folder.owner(); int(by) != os.Geteuid() || !others(f.stat.Uid) {
		return by
	}
	return f.stat.Uid
}

// Read returns the content. The error is ErrTooLarge if it has more than max bytes.
func (f *File) Read(max int64) ([]byte, error) {
	if f.stat.Size > max {
		return nil, ErrTooLarge
	}
	// The descriptor leads to the file that was checked, whatever has its name by now. An open
	// without O_NONBLOCK would wait for the owner to give up a lease (fcntl(2), F_SETLEASE).
	path := fmt.Sprintf("/proc/self/fd/%d", f.fd)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
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

// Remove removes the file with the rights of a user. The error is ErrReplaced if another
// file has the name by now.
//
// If user is the user of this process, Remove takes the rights of a user who may remove
// the file in any case: the owner of its folder or, in a sticky folder such as /tmp, to
// which every user can add files, the owner of the file.
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
		return ErrReplaced
	}
	return f.folder.unlink(f.name, user, 0)
}

// Found is what ReadFile found at a path.
type Found struct {
	Content []byte
	Mode    fs.FileMode // permission bits
}

// ReadFile reads the regular file at a path, of at most max bytes. It follows symbolic links
// on the way, so the caller must trust all folders on it. At the end of the path a symbolic
// link, a FIFO or a device is ErrNotRegular.
func ReadFile(path string, max int64) (Found, error) {
	f, err := find(unix.AT_FDCWD, path)
	if err != nil {
		return Found{}, err
	}
	defer f.Close()
	content, err := f.Read(max)
	return Found{content, f.Mode()}, err
}
