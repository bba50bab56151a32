// Package foreign opens, reads and removes files that another user may have prepared. Root
// uses it to clean up after a service with fewer rights: root then does nothing that the
// user of the service could not do itself.
//
// The package is a room of its own because two rooms need it, for files and for pins of BPF
// programs, and because every simplification of it needs a check against attacks. Three
// rules hold:
//
//	way     A path is walked folder by folder with open descriptors, so that a folder
//	        cannot be exchanged after it was checked. Symbolic links are followed only if
//	        root or this process's user made them, never below a folder of another user.
//	open    Only regular files are opened, never a FIFO or a device: open(2) of those may
//	        block forever or start a device. Each read has a bound.
//	remove  A name is removed with the rights of the owner of its folder (setfsuid(2)), or
//	        of the user who asked for the removal. The kernel then refuses what that user
//	        may not do, whatever was exchanged between check and removal.
//
// Calls block as long as the file system below does. A caller that cannot wait needs a
// deadline of its own.
package foreign

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// others reports whether a user is neither root nor the user of this process.
func others(uid uint32) bool { return uid != 0 && int(uid) != os.Geteuid() }

// A Folder is an open folder. It stays the same folder when names on its path change. Its
// methods must not be called by several goroutines at once. The caller that opened the
// folder closes it.
type Folder struct {
	path string // when it was opened, for messages
	fd   int    // O_PATH
	stat unix.Stat_t
	user uint32 // the one other user who owns folders of the path; 0: there is none
}

// Open opens the folder at a path by the rules of this package. The error is fs.ErrNotExist
// if it does not exist, and ErrUntrusted if another user could have changed the way to it.
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

// maxLinks is the most symbolic links that a path may lead through, the kernel's MAXSYMLINKS.
const maxLinks = 40

// top opens the root folder.
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

// step opens a folder in this one, or returns the target of a symbolic link that may be
// followed.
func (f *Folder) step(name string) (next *Folder, target string, err error) {
	path := filepath.Join(f.path, name)
	if f.shared() && f.stat.Mode&unix.S_ISVTX == 0 {
		return nil, "", fmt.Errorf("%w: not opening %s", f.changeable(), path)
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

// admit decides whether an object that was opened in a folder may be used. For a symbolic
// link that may be followed it returns the target.
func (f *Folder) admit(in *Folder) (target string, err error) {
	owner := f.stat.Uid
	switch f.stat.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		// In a shared folder any user can make a second name of root's link (link(2)).
		if in.user != 0 || in.shared() || others(owner) {
			return "", fmt.Errorf("%s is a symbolic link that another user may have made: %w", f.path, ErrUntrusted)
		}
		return f.readlink()
	case unix.S_IFDIR:
	default:
		return "", &fs.PathError{Op: "open", Path: f.path, Err: unix.ENOTDIR}
	}
	if others(owner) {
		if f.user != 0 && f.user != owner {
			return "", fmt.Errorf("%s belongs to user %d, a folder above it to user %d: %w",
				f.path, owner, f.user, ErrUntrusted)
		}
		f.user = owner
	}
	// Root's folder below a folder of another user was made there by root: to move a folder to
	// another parent, rename(2) asks for write access to the folder itself (vfs_rename).
	return "", nil
}

// ErrUntrusted says that another user could have changed what is at a path; test with
// errors.Is.
var ErrUntrusted = errors.New("not trusted")

// readlink returns the target of the symbolic link that was opened.
func (f *Folder) readlink() (string, error) {
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(f.fd, "", target)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: f.path, Err: err}
	}
	return string(target[:n]), nil
}

// shared reports whether users other than its owner can make names in the folder. With an
// access control list the group's bits are its mask (acl(5)), so they show those users, too.
func (f *Folder) shared() bool { return f.stat.Mode&0o022 != 0 }

// changeable returns the error of a folder that is shared.
func (f *Folder) changeable() error {
	return fmt.Errorf("%s can be changed by others (mode %#o): %w", f.path, f.stat.Mode&0o7777, ErrUntrusted)
}

// owner returns the user whose rights are used to remove names in the folder.
func (f *Folder) owner() uint32 {
	if others(f.stat.Uid) {
		return f.stat.Uid
	}
	return uint32(os.Geteuid())
}

// Close releases the folder's descriptor. The folder must not be used afterwards.
func (f *Folder) Close() { _ = unix.Close(f.fd) }

// Path returns the path of the folder at the time it was opened.
func (f *Folder) Path() string { return f.path }

// Folder opens a folder in this one. A symbolic link is an error, even one of root's: the
// caller knows the name, not a place that it leads to.
func (f *Folder) Folder(name string) (*Folder, error) {
	next, target, err := f.step(name)
	if err == nil && target != "" {
		path := filepath.Join(f.path, name)
		return nil, fmt.Errorf("%s is a symbolic link to %q: %w", path, target, ErrUntrusted)
	}
	return next, err
}

// Make opens the folder of a name in this one, and makes it with mode 0700 if it does not
// exist.
func (f *Folder) Make(name string) (*Folder, error) {
	if err := unix.Mkdirat(f.fd, name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, &fs.PathError{Op: "mkdir", Path: filepath.Join(f.path, name), Err: err}
	}
	return f.Folder(name)
}

// Own returns an error unless the user of this process owns the folder and no other user can
// change it.
func (f *Folder) Own() error {
	switch me := os.Geteuid(); {
	case int(f.stat.Uid) != me:
		return fmt.Errorf("%s belongs to user %d, and meshd runs as user %d: %w",
			f.path, f.stat.Uid, me, ErrUntrusted)
	case f.shared():
		return f.changeable()
	}
	return nil
}

// Give passes the folder, and everything in it but folders, to a user and a group, and sets
// its mode to 0700. If the folder is the user's already, Give does nothing. If it belongs to
// a third user, or others could have filled it, the error is that of Own.
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

// LetPass lets every user reach names in the folder that the user knows, without listing it:
// it sets the execute bit for others.
func (f *Folder) LetPass() error {
	if f.stat.Mode&0o001 != 0 {
		return nil
	}
	return f.chmod(f.stat.Mode&0o7777 | 0o001)
}

// chmod sets the mode by way of /proc: fchmod(2) refuses O_PATH descriptors.
func (f *Folder) chmod(mode uint32) error {
	if err := unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", f.fd), mode); err != nil {
		return &fs.PathError{Op: "chmod", Path: f.path, Err: err}
	}
	return nil
}

// maxNames bounds how many names of a folder are read: another user can make any number.
const maxNames = 100_000

// Names returns the names in the folder, at most 100,000 of them, in no particular order.
func (f *Folder) Names() ([]string, error) {
	fd, err := unix.Openat(f.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: f.path, Err: err}
	}
	dir := os.NewFile(uintptr(fd), f.path)
	defer dir.Close()
	names, err := dir.Readdirnames(maxNames)
	if errors.Is(err, io.EOF) { // Readdirnames says so of an empty folder
		return nil, nil
	}
	return names, err
}

// Unlink removes a name in this folder, with the rights of the folder's owner. The name
// must not be a folder's.
func (f *Folder) Unlink(name string) error { return f.unlink(name, f.owner(), 0) }

// RemoveFolder removes an empty folder in this one, with the rights of this one's owner.
func (f *Folder) RemoveFolder(name string) error {
	return f.unlink(name, f.owner(), unix.AT_REMOVEDIR)
}

// unlink removes a name with the rights of a user; flags are those of unlinkat(2).
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

// ErrLocked says that another process holds a lock; test with errors.Is.
var ErrLocked = errors.New("another process has locked the folder")

// Lock locks the folder, for this process alone or together with others that do not want it alone
// (flock(2)), without a wait: the error is ErrLocked if that cannot be now. The lock lasts until the
// file is closed or the process ends.
func (f *Folder) Lock(alone bool) (*os.File, error) {
	fd, err := unix.Openat(f.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: f.path, Err: err}
	}
	how := unix.LOCK_SH | unix.LOCK_NB
	if alone {
		how = unix.LOCK_EX | unix.LOCK_NB
	}
	if err := unix.Flock(fd, how); err != nil {
		_ = unix.Close(fd)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrLocked
		}
		return nil, &fs.PathError{Op: "lock", Path: f.path, Err: err}
	}
	return os.NewFile(uintptr(fd), f.path), nil
}

// Changed returns when a name was last made or removed in the folder, as of when it was opened.
func (f *Folder) Changed() time.Time { return time.Unix(f.stat.Mtim.Unix()) }

// Holds reports whether the folder is on a file system of a type (statfs(2)), such as
// unix.BPF_FS_MAGIC.
func (f *Folder) Holds(magic uint32) (bool, error) {
	var s unix.Statfs_t
	if err := unix.Fstatfs(f.fd, &s); err != nil {
		return false, &fs.PathError{Op: "statfs", Path: f.path, Err: err}
	}
	return uint32(s.Type) == magic, nil // the type is signed on some machines
}
