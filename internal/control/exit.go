package control

import (
	"context"
	"errors"
)

// exits are the exit codes of programs that ask a daemon, by error. They are promised in the
// manual pages, and one table serves both directions so that they cannot drift apart.
var exits = []struct {
	err  error
	code int
}{{ErrNotRunning, 3}, {ErrPermission, 4}, {ErrMismatch, 5}, {context.DeadlineExceeded, 6}}

// ExitCode returns the exit code for an error of a Client: 0 for nil, and 1 for an error without
// a code of its own.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	for _, e := range exits {
		if errors.Is(err, e.err) {
			return e.code
		}
	}
	return 1
}

// ErrorOf returns the error that an exit code stands for, or nil. It lets a program pass on what
// went wrong in another one that it started.
func ErrorOf(code int) error {
	for _, e := range exits {
		if e.code == code {
			return e.err
		}
	}
	return nil
}
