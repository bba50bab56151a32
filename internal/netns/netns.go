// Package netns tells network namespaces from one another, also from those that are gone: the number
// of an inode of nsfs comes again once its namespace has ended.
package netns

import (
	"os"

	"golang.org/x/sys/unix"
)

// An Identity names a network namespace of this boot.
type Identity struct {
	Inode  uint64 // in nsfs; another namespace may get the number later
	Cookie uint64 // no other namespace of this boot ever has it; 0: the kernel has none (before 5.14)
}

// Current returns the identity of the calling thread's network namespace.
func Current() (Identity, error) {
	const path = "/proc/thread-self/ns/net"
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		return Identity{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Identity{}, os.NewSyscallError("socket", err)
	}
	defer unix.Close(socket)
	// net_gen_cookie: a counter that never goes back.
	cookie, err := unix.GetsockoptUint64(socket, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		cookie = 0
	}
	return Identity{Inode: s.Ino, Cookie: cookie}, nil
}
