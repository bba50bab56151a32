// Package source gets the bytes of one file that people edit, and tells when there may be new ones.
// It knows nothing of what the bytes mean.
//
// A file system may answer late or never: a server of NFS is gone, a program behind FUSE hangs. So no
// caller waits for one. A read runs in a goroutine of its own and has a deadline:
//
//	open.go    finds what is at the path, and opens nothing but regular files
//	source.go  reads with a deadline, one read at a time
//	watch.go   hears of changes by inotify
//	follow.go  reads after each change and every 30 s, and delivers what was read
package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"time"

	"example.org/meshd/internal/passing"
)

// deadline is how long one read may take. A local file of 8 MiB takes 10 ms.
const deadline = 5 * time.Second

// ErrNoAnswer says that a file system did not answer within the deadline. It is a passing reason
// (package passing).
var ErrNoAnswer = fmt.Errorf("the file system does not answer: %w", context.DeadlineExceeded)

// A Reading is what was found at the path at one time. It is never changed.
type Reading struct {
	Doc []byte
	Sum string // SHA-256 of Doc in lower-case hex
	Err error  // why the content is not known; then Doc and Sum are empty
	// Order grows with each read of a Reader: of two readings, the one with the greater Order is newer.
	Order uint64
	Place Place
	// Again is how long until the file is read again without a change, because Err passes; 0: it stays.
	Again time.Duration
}

// Holding returns a reading of a text that is in no file.
func Holding(doc []byte) Reading {
	sum := sha256.Sum256(doc)
	return Reading{Doc: doc, Sum: hex.EncodeToString(sum[:])}
}

// Identity is equal for two readings that found the same: the SHA-256 of the content in lower-case
// hex, or the words of the error.
func (r Reading) Identity() string {
	if r.Err != nil {
		return "error: " + r.Err.Error()
	}
	return r.Sum
}

// empty tells whether there is no content. A save in place shows an empty file for a moment, and
// some editors none at all.
func (r Reading) empty() bool {
	return r.Err == nil && len(r.Doc) == 0 || errors.Is(r.Err, fs.ErrNotExist)
}

// A Reader reads one file, never more than one time at once: while a read hangs, others wait for it
// within their own deadline. Its methods may be called from any goroutine.
type Reader struct {
	path string
	most int64
	read func(path string, most int64) ([]byte, Place, error)

	one   chan struct{} // holds an element while a read is under way
	order atomic.Uint64
}

// NewReader returns a Reader of the file at a path, of at most most bytes.
func NewReader(path string, most int64) *Reader {
	return &Reader{path: path, most: most, read: readAll, one: make(chan struct{}, 1)}
}

// Path returns the path, as it was given.
func (r *Reader) Path() string { return r.path }

// Read returns what is in the file now. It returns within the deadline and soon after ctx ends, then
// with ErrNoAnswer or the error of ctx. A read that hangs goes on in the background, alone.
func (r *Reader) Read(ctx context.Context) Reading {
	ctx, cancel := context.WithTimeoutCause(ctx, deadline, ErrNoAnswer)
	defer cancel()
	select {
	case r.one <- struct{}{}:
	case <-ctx.Done():
		return Reading{Err: r.explain(context.Cause(ctx)), Order: r.order.Load()}
	}
	order, found := r.order.Add(1), make(chan Reading, 1)
	go func() {
		defer func() { <-r.one }()
		doc, place, err := r.read(r.path, r.most)
		one := Reading{Doc: doc, Place: place, Order: order, Err: r.explain(err)}
		if err == nil {
			sum := sha256.Sum256(doc)
			one.Sum = hex.EncodeToString(sum[:])
		}
		found <- one
	}()
	select {
	case one := <-found:
		return one
	case <-ctx.Done():
		return Reading{Err: r.explain(context.Cause(ctx)), Order: order}
	}
}

// explain says what could not be read and, where that helps, what to do.
func (r *Reader) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("cannot read the file: %w: the service runs as user meshd: "+
			"make the file readable for all: `chmod 644 %s`", err, r.path)
	}
	return fmt.Errorf("cannot read the file: %w", err)
}

// passes tells whether a later read may find what this one did not, though nobody edits the file.
func (r Reading) passes() bool { return passing.Is(r.Err) }

// Read returns the content of the file at a path once, by the rules of a Reader.
func Read(ctx context.Context, path string, most int64) ([]byte, error) {
	one := NewReader(path, most).Read(ctx)
	return one.Doc, one.Err
}
