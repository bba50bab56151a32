package state

import (
	"errors"
	"time"
)

// patience is how long a file system may take where somebody waits for it.
const patience = 3 * time.Second

// ErrHangs says that the file system does not answer; test with errors.Is. What was asked for may still
// happen.
var ErrHangs = errors.New("the file system does not answer")

// Timely calls what may hang, such as Read and Write, and gives up after 3 s.
func Timely(call func() ([]byte, error)) ([]byte, error) {
	type result struct {
		doc []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		doc, err := call()
		done <- result{doc, err}
	}()
	select {
	case r := <-done:
		return r.doc, r.err
	case <-time.After(patience):
		return nil, ErrHangs
	}
}
