package source

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Reasons not to read what is at a path; test with errors.Is.
var (
	ErrNotRegular = errors.New("not a regular file")
	ErrTooLarge   = errors.New("the file is too large")
)

// notRegular says what is at the path in the place of a regular file. It is ErrNotRegular.
type notRegular string

func (n notRegular) Error() string        { return "it is " + string(n) }
func (n notRegular) Is(target error) bool { return target == ErrNotRegular }

// A Place tells what of a file system keeps changes of a file from being noticed.
type Place struct {
	// Nameless: no folder has the file any more. A mount of one file shows it for ever, while an
	// editor has put a new file in its place.
	Nameless bool
	// System is the name of a file system that others can change without this kernel's notice, such
	// as "nfs" or "overlay"; empty for others.
	System string
}

// elsewhere are file systems with changes that inotify does not tell of: those of other hosts, and
// those of the lower layers of an overlay (inotify(7), "Limitations and caveats"). The numbers are
// those of linux/magic.h and statfs(2).
var elsewhere = map[uint32]string{
	unix.NFS_SUPER_MAGIC:       "nfs",
	unix.SMB_SUPER_MAGIC:       "smb",
	unix.CIFS_SUPER_MAGIC:      "cifs",
	unix.SMB2_SUPER_MAGIC:      "smb3",
	unix.FUSE_SUPER_MAGIC:      "fuse",
	unix.V9FS_MAGIC:            "9p",
	unix.CEPH_SUPER_MAGIC:      "ceph",
	unix.AFS_SUPER_MAGIC:       "afs",
	unix.AFS_FS_MAGIC:          "afs",
	unix.CODA_SUPER_MAGIC:      "coda",
	unix.OCFS2_SUPER_MAGIC:     "ocfs2",
	0x01161970:                 "gfs2",
	0x0BD00BD0:                 "lustre",
	0x786F4256:                 "vboxsf",
	unix.OVERLAYFS_SUPER_MAGIC: "overlay",
}

// open returns the regular file at a path, and follows symbolic links as open(2) does. Anything else
// is found and never opened: opening a FIFO waits for a writer, opening a device may start it. The
// caller closes the file.
func open(path string) (file *os.File, place Place, err error) {
	// O_PATH looks and does not open: no driver, no lease and no FIFO hears of it.
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, place, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, place, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, place, notRegular(kindOf(stat.Mode))
	}
	place.Nameless = stat.Nlink == 0
	var system unix.Statfs_t
	if err := unix.Fstatfs(fd, &system); err == nil { // without it the file can be read all the same
		place.System = elsewhere[uint32(system.Type)]
	}
	// The descriptor leads to what was looked at, whatever has the path by now. Without O_NONBLOCK the
	// call would wait for somebody to give up a lease (fcntl(2), F_SETLEASE).
	fd, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, place, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), place, nil
}

// kindOf says what a file that is not regular is, by its mode (inode(7)).
func kindOf(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFIFO:
		return "a FIFO (named pipe)"
	case unix.S_IFSOCK:
		return "a socket"
	case unix.S_IFCHR, unix.S_IFBLK:
		return "a device"
	}
	return "something else"
}

// readAll returns the content of the regular file at a path, of at most most bytes. It waits as long
// as the file system does.
func readAll(path string, most int64) (doc []byte, place Place, err error) {
	file, place, err := open(path)
	if err != nil {
		return nil, place, err
	}
	defer file.Close()
	doc, err = io.ReadAll(io.LimitReader(file, most+1))
	if err != nil {
		return nil, place, err
	}
	if int64(len(doc)) > most {
		return nil, place, fmt.Errorf("%w: the limit is %d MiB", ErrTooLarge, most>>20)
	}
	return doc, place, nil
}
