package auto

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane"
)

// With receive = "fou", and with "auto" where the host is fit for it, the kernel itself has the mesh's port,
// and the user engine's sockets have another one (dataplane.Wanted.Apart). Packets move as with tcx first;
// then the port changes hands, and no datagram
// is lost meanwhile:
//
//	raise   sockets at another port -> programs hand datagrams to those -> the old ones are closed
//	        -> the kernel has the port -> programs leave datagrams to it
//	lower   programs leave no datagrams to the kernel -> it has the port no more -> sockets at it
//	        -> the others are closed
//
// An earlier meshd may have left the port with the kernel, and programs that use it. Then nothing can be
// bound to it, and sockets are apart from the beginning.

// mayApart tells whether the kernel may have the port, as far as the file says.
func mayApart(w dataplane.Wanted) bool {
	return mayUse(w) != dataplane.Never && w.Kernel.MayFOU()
}

// look finds out whether an earlier meshd has left the port with the kernel.
func (e *Engine) look(w dataplane.Wanted) {
	e.apartPort, e.apart = e.kernel.HoldsPort(w)
	e.apart = e.apart && mayApart(w)
}

// find sees to it, before sockets are bound, that the kernel has the port if e.apart says so, and has not
// if it does not.
func (e *Engine) find(ctx context.Context, w dataplane.Wanted) error {
	switch {
	case e.applied == nil:
		if e.look(w); !e.apart {
			return e.kernel.ReleasePort()
		}
	case e.apart && mayUse(w) == dataplane.Never: // programs may go before Apply
		return e.lower(ctx)
	}
	return nil
}

// settle takes the port from the kernel, before programs are told to do without. Then raise tells whether
// the kernel is to get it after all else is done.
func (e *Engine) settle(ctx context.Context, w dataplane.Wanted) (raise bool, undo func() error, err error) {
	can := mayApart(w)
	if can {
		err := e.kernel.CanFOU(w)
		can = err == nil || e.apart && e.mayTry(err)
	}
	undo = func() error { return nil }
	switch {
	case e.apart && can:
		return false, undo, e.kernel.HandTo(e.user.Port())
	case !e.apart:
		return can, undo, nil
	}
	if err := e.release(ctx, w); err != nil {
		return false, nil, err
	}
	return false, func() error { // the ways back of other steps have sockets apart again
		e.apart = e.applied != nil
		return e.kernel.HandTo(e.user.Port())
	}, nil
}

// release takes the port from the kernel, and has sockets of the user engine ready that have it.
func (e *Engine) release(ctx context.Context, w dataplane.Wanted) error {
	w.Apart = false
	if err := e.kernel.ReleasePort(); err != nil {
		return fmt.Errorf("take the mesh's port from the kernel: %w", err)
	}
	if _, err := e.user.Prepare(ctx, w); err != nil {
		return fmt.Errorf("take the mesh's port back: %w", err)
	}
	e.apart, e.apartPort, e.tries = false, 0, 0
	e.awaiting.Store(false)
	return nil
}

// move brings the port to where it belongs, once packets move as wanted.
func (e *Engine) move(ctx context.Context, w dataplane.Wanted, raise bool) (undo func() error, err error) {
	undo = func() error { return nil }
	switch {
	case e.apart && !e.kernel.Forwards(): // no program hands datagrams to sockets
		return undo, e.lower(ctx)
	case e.apart:
		return undo, e.check(ctx, w)
	case !e.apart && !raise:
		return undo, e.kernel.HandTo(0)
	case !raise || !e.kernel.Forwards():
		return undo, nil
	}
	return func() error {
		if e.apart {
			return e.lower(ctx)
		}
		return nil
	}, e.raise(ctx, w)
}

// raise has the kernel take the port. If it cannot, everything is as before, and status tells why.
func (e *Engine) raise(ctx context.Context, w dataplane.Wanted) error {
	w.Apart = true
	undo, err := e.user.Prepare(ctx, w)
	if err != nil {
		e.log.Warn("sockets cannot leave the mesh's port: programs receive by tcx", "error", err, "event", "no_fou")
		return nil
	}
	if err := e.kernel.HandTo(e.user.Port()); err != nil {
		return errors.Join(err, undo())
	}
	e.apart, e.applied = true, &w
	if _, _, err = e.user.Apply(ctx, w); err == nil {
		_, _, err = e.kernel.Apply(ctx, w)
	}
	if err != nil {
		return e.lower(ctx)
	}
	return e.check(ctx, w)
}

// portTries is how many times the kernel tries to take the port, a second apart. A service manager closes
// the sockets that it has kept for a next meshd only after Apply.
const portTries = 5

// mayTry tells whether the kernel is to try again, after an error, while programs go on by tcx.
func (e *Engine) mayTry(err error) bool {
	return errors.Is(err, unix.EADDRINUSE) && e.tries < portTries
}

// check looks whether the kernel could take the port. If not, and another try is in vain, sockets take it
// back.
func (e *Engine) check(ctx context.Context, w dataplane.Wanted) error {
	err := e.kernel.CanFOU(w)
	again := err != nil && e.mayTry(err)
	e.awaiting.Store(again)
	switch {
	case again:
		e.tries++
		return nil
	case err != nil:
		return e.lower(ctx)
	}
	e.tries = 0
	return nil
}

// lower has the sockets take the port back from the kernel, with the rest as of the last Apply.
func (e *Engine) lower(ctx context.Context) error {
	w := *e.applied
	if err := e.release(ctx, w); err != nil {
		return err
	}
	w.Apart = false
	e.applied = &w
	if _, _, err := e.user.Apply(ctx, w); err != nil {
		return err
	}
	if err := e.kernel.HandTo(0); err != nil || !e.kernel.Forwards() {
		return err
	}
	_, _, err := e.kernel.Apply(ctx, w)
	return err
}
