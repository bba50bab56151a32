package control

import (
	"context"
	"errors"
)

// exits are the exit codes of programs that ask a daemon, by what went wrong.
var exits = []struct {
	err  error
	code int
}{{ErrNotRunning, 3}, {ErrPermission, 4}, {ErrMismatch, 5}, {context.DeadlineExceeded, 6}}

// ExitCode returns the exit code for the error of a Client: 0 for none, and 1 for one
// that has no code of its own.
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

// ErrorOf returns the error that an exit code stands for, nil if it stands for none.
func ErrorOf(code int) error {
	for _, e := range exits {
		if e.code == code {
			return e.err
		}
	}
	return nil
}
