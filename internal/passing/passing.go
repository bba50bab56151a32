// Package passing tells reasons that pass by themselves from reasons that stay. It is the one place
// that decides so: whatever fails for a passing reason is tried again after a pause, never refused
// for good.
package passing

import (
	"context"
	"errors"
	"slices"
	"syscall"
)

// reasons are errors of the kernel that tell about a moment and not about the request.
var reasons = []syscall.Errno{
	syscall.EMFILE, syscall.ENFILE, // no descriptor is free (RLIMIT_NOFILE, fs.file-max)
	syscall.ENOMEM, syscall.ENOBUFS, // no memory at the moment, or a netlink buffer is full
	syscall.EADDRINUSE,                             // another program has the port, perhaps one that is ending
	syscall.EAGAIN, syscall.EBUSY, syscall.ETXTBSY, // somebody has a lock or a lease
	syscall.EINTR, syscall.ETIMEDOUT,
	syscall.ESTALE, syscall.EIO, syscall.EREMOTEIO, // a network file system has lost its server
	syscall.EHOSTDOWN, syscall.ENOTCONN, // the same, by CIFS and by a FUSE program that ended
}

// Is tells whether err has a passing reason in it, such as no free descriptor, no memory, a busy
// port, or a deadline. nil has none. An error that joins several counts if one of them passes: the
// others are tried again along with it.
func Is(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) ||
		slices.ContainsFunc(reasons, func(reason syscall.Errno) bool { return errors.Is(err, reason) })
}
