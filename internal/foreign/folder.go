// Package foreign opens, reads and removes what another user may have prepared, so that root,
// who cleans up behind a service with fewer rights, does nothing for that service's user which
// this user could not do himself.
//
// It is a room of its own because two rooms need it, for files and for pins of BPF programs,
// and because nothing in it may be simplified without an attack in mind. Three rules hold:
//
//	way     A way is walked folder by folder with open descriptors, so that nobody can put
//	        another folder in the place of one that was looked at. Symbolic links are followed
//	        only where root or we ourselves put them, and never below a folder of another user.
//	open    Only ordinary files are opened, never a FIFO or a device: open(2) of those may
//	        block for ever or set a device going. What is read has a bound.
//	remove  A name is removed with the rights of the user whose folder it is in (setfsuid(2)),
//	        or of the user who asked for it. So the kernel refuses what that user may not do,
//	        whatever was exchanged between the look and the removal.
//
// Calls block as long as the file system below them does; who cannot wait needs a deadline.
package foreign

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// others tells whether a user is neither root nor the one this program runs as.
func others(uid uint32) bool { return uid != 0 && int(uid) != os.Geteuid() }

// A Folder is an open folder, which stays the same one whatever is renamed. Its methods are for
// one goroutine at a time. Whoever opened it closes it.
type Folder struct {
	path string
	fd   int // O_PATH
	stat unix.Stat_t
	user uint32 // whose folders, besides root's and ours, the way led through; 0 if there are none
}

// Open opens the folder at a path. An error that is fs.ErrNotExist says that there is none.
func Open(path string) (*Folder, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	f, err := top()
	left := strings.Split(path, "/")
	for links := 0; err == nil && len(left) > 0; {
		name := left[0]
		left = left[1:]
		if name == "" || name == "." {
			continue
		}
		var next *Folder
		var target string
		next, target, err = f.step(name)
		if err == nil && target != "" {
			if links++; links > maxLinks {
				err = &fs.PathError{Op: "open", Path: path, Err: unix.ELOOP}
				break
			}
			left = append(strings.Split(target, "/"), left...)
			if !filepath.IsAbs(target) {
				continue
			}
			next, err = top()
		}
		f.Close()
		f = next
	}
	if err != nil {
		if f != nil {
			f.Close()
		}
		return nil, err
	}
	return f, nil
}

// maxLinks is how many symbolic links a way may lead through, as for the kernel (MAXSYMLINKS).
const maxLinks = 40

func top() (*Folder, error) {
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: "/", Err: err}
	}
	f := &Folder{path: "/", fd: fd}
	if err := unix.Fstat(fd, &f.stat); err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "stat", Path: "/", Err: err}
	}
	return f, nil
}

// step opens a folder in this one, or returns the target of a symbolic link that may be followed.
func (f *Folder) step(name string) (next *Folder, target string, err error) {
	path := filepath.Join(f.path, name)
	if f.shared() && f.stat.Mode&unix.S_ISVTX == 0 {
		return nil, "", fmt.Errorf("%w: not going on to %s", f.changeable(), path)
	}
	n := &Folder{path: path, user: f.user}
	if n.fd, err = unix.Openat(f.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err != nil {
		return nil, "", &fs.PathError{Op: "open", Path: path, Err: err}
	}
	if err = unix.Fstat(n.fd, &n.stat); err == nil {
		target, err = n.admit(f)
	}
	if err != nil || target != "" {
		n.Close()
		return nil, target, err
	}
	return n, "", nil
}

// admit decides whether what was opened in a folder may be used, or followed.
func (f *Folder) admit(in *Folder) (target string, err error) {
	owner := f.stat.Uid
	switch f.stat.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		// In a shared folder anybody may make a second name of a link of root's.
		if in.user != 0 || in.shared() || others(owner) {
			return "", fmt.Errorf("%s is a symbolic link, which another user may have put there: not followed", f.path)
		}
		return f.readlink()
	case unix.S_IFDIR:
	default:
		return "", &fs.PathError{Op: "open", Path: f.path, Err: unix.ENOTDIR}
	}
	if others(owner) {
		if f.user != 0 && f.user != owner {
			return "", fmt.Errorf("%s belongs to user %d, the way to it to user %d: not used", f.path, owner, f.user)
		}
		f.user = owner
	}
	// A folder of root's behind one of another user's was made there by root: rename(2) moves a
	// folder out of the one it is in only for who may write into the folder itself (vfs_rename).
	return "", nil
}

func (f *Folder) readlink() (string, error) {
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(f.fd, "", target)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: f.path, Err: err}
	}
	return string(target[:n]), nil
}

// shared tells whether others than its owner can make names in the folder. Access control
// lists show in the bits of the group.
func (f *Folder) shared() bool { return f.stat.Mode&0o022 != 0 }

func (f *Folder) changeable() error {
	return fmt.Errorf("%s can be changed by others than its owner (mode %#o)", f.path, f.stat.Mode&0o7777)
}

// owner returns with whose rights names in the folder are removed.
func (f *Folder) owner() uint32 {
	if others(f.stat.Uid) {
		return f.stat.Uid
	}
	return uint32(os.Geteuid())
}

// Close closes the folder.
func (f *Folder) Close() { _ = unix.Close(f.fd) }

// Path returns where the folder was when it was opened.
func (f *Folder) Path() string { return f.path }

// Folder opens a folder in this one; a symbolic link is an error.
func (f *Folder) Folder(name string) (*Folder, error) {
	next, target, err := f.step(name)
	if err == nil && target != "" {
		return nil, fmt.Errorf("%s is a symbolic link to %q: not followed", filepath.Join(f.path, name), target)
	}
	return next, err
}

// Make opens the folder of that name, which it makes with mode 0700 if there is none.
func (f *Folder) Make(name string) (*Folder, error) {
	if err := unix.Mkdirat(f.fd, name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, &fs.PathError{Op: "mkdir", Path: filepath.Join(f.path, name), Err: err}
	}
	return f.Folder(name)
}

// Own tells, by an error, if the folder is not one that the user of this process alone can change.
func (f *Folder) Own() error {
	switch me := os.Geteuid(); {
	case int(f.stat.Uid) != me:
		return fmt.Errorf("%s belongs to user %d, and meshd runs as user %d", f.path, f.stat.Uid, me)
	case f.shared():
		return f.changeable()
	}
	return nil
}

// Give makes a folder of ours one of another user's, with mode 0700, and what is in it, but for
// folders, that user's, too. It has nothing to do if the folder is the user's already; one of yet
// another user, or one that others can change and so may have filled, is an error.
func (f *Folder) Give(user, group int) error {
	if int(f.stat.Uid) == user {
		return nil
	}
	if err := f.Own(); err != nil {
		return err
	}
	names, err := f.Names()
	if err != nil {
		return err
	}
	for _, name := range names {
		var s unix.Stat_t
		err := unix.Fstatat(f.fd, name, &s, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil && s.Mode&unix.S_IFMT != unix.S_IFDIR {
			err = unix.Fchownat(f.fd, name, user, group, unix.AT_SYMLINK_NOFOLLOW)
		}
		if err != nil {
			return &fs.PathError{Op: "chown", Path: filepath.Join(f.path, name), Err: err}
		}
	}
	if err := unix.Fchownat(f.fd, "", user, group, unix.AT_EMPTY_PATH); err != nil {
		return &fs.PathError{Op: "chown", Path: f.path, Err: err}
	}
	return f.chmod(0o700)
}

// LetPass lets every user pass through the folder, without letting anybody look around.
func (f *Folder) LetPass() error {
	if f.stat.Mode&0o001 != 0 {
		return nil
	}
	return f.chmod(f.stat.Mode&0o7777 | 0o001)
}

func (f *Folder) chmod(mode uint32) error {
	if err := unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", f.fd), mode); err != nil {
		return &fs.PathError{Op: "chmod", Path: f.path, Err: err}
	}
	return nil
}

// maxNames bounds how many names of a folder are read: another user may have made any number.
const maxNames = 100_000

// Names returns the names in the folder, in no order.
func (f *Folder) Names() ([]string, error) {
	fd, err := unix.Openat(f.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: f.path, Err: err}
	}
	dir := os.NewFile(uintptr(fd), f.path)
	defer dir.Close()
	names, err := dir.Readdirnames(maxNames)
	if errors.Is(err, io.EOF) { // it is empty
		return nil, nil
	}
	return names, err
}

// Unlink removes a name that is no folder's, with the rights of the folder's owner.
func (f *Folder) Unlink(name string) error { return f.unlink(name, f.owner(), 0) }

// RemoveFolder removes an empty folder in this one, with the rights of this one's owner.
func (f *Folder) RemoveFolder(name string) error {
	return f.unlink(name, f.owner(), unix.AT_REMOVEDIR)
}

func (f *Folder) unlink(name string, user uint32, flags int) error {
	err := as(user, func() error { return unix.Unlinkat(f.fd, name, flags) })
	if err != nil && others(user) {
		err = fmt.Errorf("with the rights of user %d: %w", user, err)
	}
	if err != nil {
		return &fs.PathError{Op: "remove", Path: filepath.Join(f.path, name), Err: err}
	}
	return nil
}

// Holds tells whether the folder is in a file system of a type (statfs(2)), such as
// unix.BPF_FS_MAGIC.
func (f *Folder) Holds(magic uint32) (bool, error) {
	var s unix.Statfs_t
	if err := unix.Fstatfs(f.fd, &s); err != nil {
		return false, &fs.PathError{Op: "statfs", Path: f.path, Err: err}
	}
	return uint32(s.Type) == magic, nil // the type is signed on some machines
}
