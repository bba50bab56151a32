package user

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/udp"
	"example.org/meshd/internal/mesh"
)

var (
	_ dataplane.Engine = (*Engine)(nil)
	_ dataplane.Echoer = (*Engine)(nil)
	_ dataplane.Keeper = (*Engine)(nil)
)

// ending is why a set of loops has to be made anew.
type ending struct{ err error }

// supervised is a loop whose engine hears of its end.
type supervised struct {
	dataplane.Loop
	broke func(error)
}

// Run implements dataplane.Loop.
func (s supervised) Run(ctx context.Context) error {
	err := s.Loop.Run(ctx)
	if err != nil {
		s.broke(fmt.Errorf("%s: %w", s.Loop, err))
	}
	return err
}

// queuesOf returns what an engine needs queues and sockets for.
func queuesOf(w dataplane.Wanted) queues {
	return queues{device: w.Interface, binds: w.Binds, count: w.Queues, offload: w.Offload, spread: w.Spread,
		apart: w.Apart, apartPort: w.ApartPort}
}

// have returns what is open already and may be used again, now or as an earlier meshd left it.
func (u *Engine) have() *endpoints {
	if open := u.open.Load(); open != nil {
		return open
	}
	return u.left
}

// Prepare implements dataplane.Engine.
func (u *Engine) Prepare(_ context.Context, w dataplane.Wanted) (undo func() error, err error) {
	have, before := u.have(), u.prepared
	var next *endpoints
	wanted := queuesOf(w)
	if open := u.open.Load(); open == nil || u.broken.Load() != nil || !open.queues.same(&wanted) {
		next = &endpoints{queues: wanted}
		if err := next.bindPorts(u.usable(have), have); err != nil {
			return nil, errors.Join(fmt.Errorf("bind the port: %w", err), next.closeAllBut(have))
		}
	}
	if err := u.SetMesh(w); err != nil {
		return nil, errors.Join(err, next.closeAllBut(have))
	}
	u.prepared, u.next = &w, next
	return func() error {
		closed := u.next.closeAllBut(have)
		u.prepared, u.next = before, nil
		if before == nil {
			return closed
		}
		return errors.Join(closed, u.SetMesh(*before))
	}, nil
}

// usable returns what of the open descriptors can be used again. After a loop has failed that is
// none: its socket only has to stand beside the next one, on the same port, until that is there.
func (u *Engine) usable(have *endpoints) *endpoints {
	if u.broken.Load() != nil {
		return nil
	}
	return have
}

// Apply implements dataplane.Engine. What can fail comes first, beside what is there; the switch
// to new loops, which cannot, comes last. The old loops end before the new ones begin, so that no
// packet passes another.
//
// Queues and further sockets are opened as late as possible: the kernel gives them packets from
// the moment they are there, which would be lost if they had to be closed again.
func (u *Engine) Apply(ctx context.Context, w dataplane.Wanted) (func() error, []mesh.Change, error) {
	have, before, next := u.have(), u.applied, u.next
	if next == nil && u.open.Load().gone() { // the TUN is another one; sockets stay
		next = &endpoints{queues: queuesOf(w), groups: make([]group, len(have.groups))}
		for j, g := range have.groups {
			next.groups[j].receive = slices.Clone(g.receive)
		}
		have = &endpoints{queues: have.queues, groups: have.groups}
	}
	u.applied = &w
	if next == nil {
		return func() error { u.applied = before; return nil }, nil, nil
	}
	if err := next.attach(u.usable(have), have); err != nil {
		u.applied, u.next = before, &endpoints{}
		return nil, nil, errors.Join(fmt.Errorf("attach to the TUN: %w", err), next.closeAllBut(u.have()))
	}
	changes := u.switchTo(next)
	return func() error {
		if before != nil {
			_, err := u.Prepare(ctx, *before)
			_, _, applyErr := u.Apply(ctx, *before)
			return errors.Join(err, applyErr)
		}
		u.applied = nil
		return errors.Join(u.Stop(), u.open.Swap(nil).closeAllBut(have))
	}, changes, nil
}

// switchTo ends the loops that run and starts those of next.
func (u *Engine) switchTo(next *endpoints) (changes []mesh.Change) {
	old, ended := u.have(), u.broken.Load()
	for _, c := range next.sockets() {
		c.Watch(u)
	}
	loops, err := u.Replace(next.workers())
	next.past = old.dropsWithout(next)
	u.open.Store(next)
	u.left, u.next = nil, nil
	u.broken.Store(nil)
	for _, loop := range loops {
		// Each set of loops has its own endpoints: errors of a replaced set are ignored.
		u.options.Start(supervised{loop, func(err error) {
			if u.open.Load() == next {
				u.broken.Store(&ending{err})
				u.options.Broken()
			}
		}})
	}
	if err := errors.Join(err, old.closeAllBut(next)); err != nil {
		u.options.Log.Warn("the old packet loops did not end cleanly", "error", err)
	}
	u.checkBuffers(next)
	if ended != nil {
		changes = append(changes, mesh.Change{Op: mesh.Repaired, Kind: mesh.ChangedLoops, New: ended.err.Error()})
	}
	return changes
}

// gone tells whether the TUN that the queues were attached to is not there any more, or another
// one has its name.
func (e *endpoints) gone() bool {
	if e == nil {
		return false
	}
	i, err := net.InterfaceByName(e.device)
	return err != nil || i.Index != e.index
}

// Adopt implements dataplane.Keeper.
func (u *Engine) Adopt(files []*os.File, w dataplane.Wanted) (a dataplane.Adopted, unfit []error) {
	left := &endpoints{queues: queuesOf(w)}
	unfit = left.adopt(files)
	u.left = left
	u.beginLosses(left)
	return dataplane.Adopted{Sockets: len(left.receivers()), Queues: len(left.tun)}, unfit
}

// Descriptors implements dataplane.Keeper.
func (u *Engine) Descriptors() map[string]dataplane.Descriptor { return u.open.Load().lasting() }

// Close closes sockets and queues, once Stop has ended the loops.
func (u *Engine) Close() error {
	return errors.Join(u.open.Swap(nil).closeAllBut(nil), u.left.closeAllBut(nil), u.bare.close())
}

// buffers are what the kernel granted to a socket, in bytes.
type buffers struct {
	receive, send int
	err           error
}

// checkBuffers notes what was granted to the first socket of each address. The kernel grants the same to
// all; one that was adopted may have less.
func (u *Engine) checkBuffers(e *endpoints) {
	var b buffers
	for i, g := range e.groups {
		receive, send, err := g.receive[0].Buffers()
		if i == 0 || receive < b.receive || send < b.send || err != nil {
			b = buffers{receive, send, err}
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.buffers = b
}

// Conditions implements dataplane.Engine.
func (u *Engine) Conditions() (all []mesh.Condition) {
	u.mu.Lock()
	b := u.buffers
	u.mu.Unlock()
	if u.open.Load() == nil {
		return nil
	}
	small := mesh.Condition{Kind: mesh.SmallBuffers, Severity: mesh.Degraded, Subject: "UDP socket"}
	switch {
	case b.err != nil:
		small.Cause = b.err.Error()
		all = append(all, small)
	case b.receive < udp.BuffersWanted || b.send < udp.BuffersWanted:
		small.Cause = fmt.Sprintf("%d and %d bytes instead of %d", b.receive, b.send, udp.BuffersWanted)
		small.Remedy = fmt.Sprintf("run `sysctl -w net.core.rmem_max=%d net.core.wmem_max=%d`",
			udp.BuffersWanted/2, udp.BuffersWanted/2)
		all = append(all, small)
	}
	for _, name := range refused(*u.workers.Load()) {
		c := mesh.Condition{Kind: mesh.OffloadRefused, Severity: mesh.Degraded, Subject: name}
		if strings.HasPrefix(name, "udp_") {
			c.Remedy = "`ethtool -K DEVICE tx on` on the underlay's device and a restart of meshd may help"
		}
		all = append(all, c)
	}
	return all
}
