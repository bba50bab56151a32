package user

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// The loops of a worker: the one from the TUN, and behind it one from each socket.
const (
	tunToWire = iota
	wireToTun // the first of them
)

// life is what a loop and its engine tell each other about its end, and about
// being well. Waking the loop's Read makes it look.
type life struct {
	stopping atomic.Bool   // it shall end
	drained  time.Time     // then, even if more arrives; good once stopping is set
	sign     chan int      // of life, one at a time: how many there were to read
	ended    chan struct{} // closed
}

func newLife() life { return life{sign: make(chan int, 1), ended: make(chan struct{})} }

// end is the loop's last act.
func (l *life) end() { close(l.ended) }

// woken is called by a loop whose Read was ended by wake, with the count of what
// there was to read. It returns true if the loop shall return: when it is to stop,
// and nothing more was there or it has had its time.
func (l *life) woken(n int, wake func() error) bool {
	select {
	case l.sign <- n:
	default: // nobody has looked at the last one
	}
	if !l.stopping.Load() {
		return false
	}
	return n == 0 || time.Now().After(l.drained) || wake() != nil
}

// How long a loop that shall stop goes on forwarding what its queue holds, which a
// flood fills as fast, and after how long without its end it is said to hang.
const (
	drainTime = 100 * time.Millisecond
	patience  = 2 * time.Second
)

// stop ends the loops of workers, all at once.
func stop(workers []*worker) error {
	var errs []error
	drained := time.Now().Add(drainTime)
	for _, w := range workers {
		for i := range w.loops {
			if l := &w.loops[i]; !l.stopping.Load() { // nobody else writes it
				l.drained = drained
				l.stopping.Store(true)
			}
		}
		if !w.ended() { // else its descriptors may be closed
			errs = append(errs, w.wake())
		}
	}
	timeout := time.After(patience)
	for _, w := range workers {
		for i := range w.loops {
			select {
			case <-w.loops[i].ended:
			case <-timeout:
				return errors.Join(append(errs, fmt.Errorf("packet loops have not ended within %v", patience))...)
			}
		}
	}
	return errors.Join(errs...)
}

// ended tells whether all loops have.
func (w *worker) ended() bool {
	for i := range w.loops {
		select {
		case <-w.loops[i].ended:
		default:
			return false
		}
	}
	return true
}

// wake ends the Read in progress of all loops.
func (w *worker) wake() error {
	err := w.Tun.Wake()
	for i := range w.Sockets {
		if one := w.Sockets[i].Wire.Wake(); one != nil {
			err = errors.Join(err, one)
		}
	}
	return err
}

// name returns which of the loops one is, for people.
func (w *worker) name(loop int) string {
	switch {
	case loop == tunToWire:
		return "tun to wire"
	case len(w.Sockets) == 1:
		return "wire to tun"
	}
	return fmt.Sprintf("wire to tun, at %s", w.Sockets[loop-wireToTun].Bind)
}

// alive waits for a sign of life from all loops.
func (w *worker) alive(ctx context.Context) error {
	for i := range w.loops {
		select {
		case <-w.loops[i].sign: // an old one
		default:
		}
	}
	if err := w.wake(); err != nil && !w.loops[tunToWire].stopping.Load() {
		return fmt.Errorf("wake the packet loops: %w", err)
	}
	for i := range w.loops {
		l, name := &w.loops[i], w.name(i)
		select {
		case <-l.sign:
		case <-l.ended:
			if !l.stopping.Load() {
				return fmt.Errorf("the packet loop %q has ended", name)
			}
		case <-ctx.Done():
			return fmt.Errorf("the packet loop %q hangs: %w", name, ctx.Err())
		}
	}
	return nil
}

// drained waits until the loop from the TUN has found its queue empty.
func (w *worker) drained(ctx context.Context) error {
	l := &w.loops[tunToWire]
	for {
		select {
		case <-l.sign: // an old one
		default:
		}
		if err := w.Tun.Wake(); err != nil {
			return fmt.Errorf("wake the packet loop %q: %w", w.name(tunToWire), err)
		}
		select {
		case n := <-l.sign:
			if n == 0 {
				return nil
			}
		case <-l.ended:
			return nil // nothing more is forwarded
		case <-ctx.Done():
			return fmt.Errorf("the packet loop %q does not find its queue empty: %w", w.name(tunToWire), ctx.Err())
		}
	}
}
