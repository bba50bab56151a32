package control

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"
)

// How handlers call the Source. Most of its calls take a lock of the daemon's or ask the kernel,
// so any of them may be slow, and a fault may leave one stuck. What must hold all the same:
//
//	no lock      of the server is held while a call runs
//	no asker     that has hung up keeps its connection for long: its handler returns, though
//	             the call goes on
//	no route     costs more than a bounded number of goroutines, however often it is asked
//
//	flight       one call into the Source, in a goroutine of its own
//	shared       what is the same for all who ask, such as the status: one flight at a time
//	             serves all of them
//	slots        what differs from asker to asker, such as a route: a bounded number of flights

// A flight is one call that runs in a goroutine of its own.
type flight[T any] struct {
	began time.Time
	ended time.Time     // set before done is closed
	value T             // likewise; nobody may change it
	panic any           // likewise: what the call panicked with
	done  chan struct{} // closed when the call has returned
}

// launch begins a call. landed, which may be nil, runs after it and before done is closed.
func launch[T any](call func() T, landed func()) *flight[T] {
	f := &flight[T]{began: time.Now(), done: make(chan struct{})}
	go func() {
		defer close(f.done)
		defer func() {
			f.panic = recover() // else a fault of one answer would end the daemon
			f.ended = time.Now()
			if landed != nil {
				landed()
			}
		}()
		f.value = call()
	}()
	return f
}

// wait waits for the call, or for ctx, whose error it returns. A panic of the call goes on in
// the asker, where net/http logs it and closes the connection.
func (f *flight[T]) wait(ctx context.Context) (value T, err error) {
	select {
	case <-f.done:
	case <-ctx.Done():
		return value, ctx.Err()
	}
	if f.panic != nil {
		panic(f.panic)
	}
	return f.value, nil
}

// A shared value is made when somebody asks for it, by one call at a time, for all who wait. Its
// methods may be called from any goroutine.
type shared[T any] struct {
	call func() T

	mu      sync.Mutex // never held while call runs
	last    *flight[T] // the newest that has landed; nil before
	running *flight[T] // nil if none is on its way
}

// since returns a value of a call that began at or after a moment. Whoever changes something and
// asks then sees the change: a call that was under way before does not count.
func (s *shared[T]) since(ctx context.Context, moment time.Time) (T, error) {
	return s.get(ctx, func(f *flight[T]) bool { return !f.began.Before(moment) })
}

// get returns the newest value if it is good enough, else the first one made that is.
func (s *shared[T]) get(ctx context.Context, good func(*flight[T]) bool) (T, error) {
	for {
		f := s.current(good)
		value, err := f.wait(ctx)
		if err != nil || good(f) {
			return value, err
		}
	}
}

// current returns the newest flight: the last one if it is good, else the one that runs, else a
// new one.
func (s *shared[T]) current(good func(*flight[T]) bool) *flight[T] {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last != nil && good(s.last) {
		return s.last
	}
	if s.running == nil {
		s.running = launch(s.call, s.land)
	}
	return s.running
}

// land notes that the flight on its way has arrived.
func (s *shared[T]) land() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last, s.running = s.running, nil
}

// slots bound how many calls of one kind run at a time. A stuck call keeps its slot.
type slots chan struct{}

// maxCalls is how many slots the routes have whose calls take no time to speak of.
const maxCalls = 16

// calling runs a call in one of the slots and returns its value. It returns an error if ctx ends
// first, or if there is no slot.
func calling[T any](ctx context.Context, s slots, call func() T) (value T, err error) {
	if err := s.take(ctx); err != nil {
		return value, err
	}
	return launch(call, s.free).wait(ctx)
}

// errBusy tells that all slots stay taken.
var errBusy = errors.New("meshd is busy with earlier requests of this kind: try again later")

// take waits for a slot, for readerPatience at most.
func (s slots) take(ctx context.Context) error {
	patience := time.NewTimer(readerPatience)
	defer patience.Stop()
	select {
	case s <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-patience.C:
		return errBusy
	}
}

// free gives a slot back.
func (s slots) free() { <-s }

// linger returns a context that ends readerPatience after the asker of a request has hung up. To
// net/http a client that has closed its sending side only, such as `nc -N`, has hung up, too, and
// it still reads: it gets its answer unless the call is stuck. The caller calls stop.
func linger(r *http.Request) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	forget := context.AfterFunc(r.Context(), func() { time.AfterFunc(readerPatience, cancel) })
	return ctx, func() { forget(); cancel() }
}

// busy answers that the Source did not return in time.
func busy(w http.ResponseWriter) {
	fail(w, http.StatusServiceUnavailable, "busy", errBusy.Error())
}
