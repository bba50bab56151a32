package kernel

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// undisturbed calls a function that loads programs on a thread that takes no signals meanwhile; other threads
// take them. A signal has the verifier give up with EAGAIN (bpf_check in kernel/bpf/verifier.c), and the
// library tries again: with signals that come faster than the verifier reads a program, that would never end.
// The thread takes those of faults in the program itself.
func undisturbed(load func() error) (err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	faults := []unix.Signal{unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGTRAP, unix.SIGSYS}
	for _, s := range faults {
		all.Val[0] &^= 1 << (s - 1)
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &before); err != nil {
		return fmt.Errorf("block signals: %w", err)
	}
	// It fails for wrong arguments alone.
	defer func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil) }()
	return load()
}
