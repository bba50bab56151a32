// Package auto is the engine that everything above the wall uses. It owns a user engine, which always
// runs, and a kernel engine, which is a way around it for plain packets, and makes one of the two:
//
//	choose     whether programs forward, as the file asks and the host can
//	fall back  take the programs away, so that the user engine forwards everything
//	takeover   the first Apply of a meshd that adopted queues in which packets wait
//
// What is counted is the sum of both engines: each packet is counted by the one that moved it last.
package auto

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/kernel"
	"example.org/meshd/internal/dataplane/user"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
)

var (
	_ dataplane.Engine = (*Engine)(nil)
	_ dataplane.Echoer = (*Engine)(nil)
	_ dataplane.Keeper = (*Engine)(nil)
	_ dataplane.Loader = (*Engine)(nil)

	_ dataplane.Deliverer   = (*Engine)(nil)
	_ dataplane.FlowCounter = (*Engine)(nil)
)

// moving is what auto needs of the user engine.
type moving interface {
	dataplane.Engine
	dataplane.Echoer
	dataplane.Deliverer
	dataplane.Drainer
	dataplane.Keeper
	dataplane.FlowCounter
	Close() error
	Port() uint16
}

// passing is what auto needs of the kernel engine; see kernel.Engine for the contract.
type passing interface {
	Prepare(ctx context.Context, w dataplane.Wanted) (undo func() error, err error)
	Load(ctx context.Context, w dataplane.Wanted) (undo func() error, err error)
	Apply(ctx context.Context, w dataplane.Wanted) (undo func() error, changes []mesh.Change, err error)
	Remove(ctx context.Context) error
	Forwards() bool
	Marks() uint64
	Learn(peer string, d peers.Directive) error
	Carry(prefix mesh.Prefix, peer string) error
	Read() kernel.Reading
	HeardBy(names ...string) []peers.Heard
	Conditions() []mesh.Condition
	CountFlows(on bool) error
	Flows() (map[mesh.Flow]mesh.FlowCount, error)
	Look()
	Compare(now time.Time, moved func() mesh.Traffic)
	WatchMerger() (again bool)
	WatchHanded(received func() uint64) (again bool)
	StandIn() error
	HoldsPort(w dataplane.Wanted) (sockets uint16, held bool)
	CanFOU(w dataplane.Wanted) error
	HandTo(port uint16) error
	ReleasePort() error
}

// Engine chooses between the user engine and the kernel engine. It implements dataplane.Engine,
// Echoer and Keeper, and keeps their rules on goroutines. It has no lock: what readers need of it is
// one atomic pointer.
type Engine struct {
	log    *slog.Logger
	user   moving
	kernel passing
	broken func() // Apply has something to do

	verdict atomic.Pointer[verdict] // the last one; the owner writes it

	// Of the owner alone.
	applied  *dataplane.Wanted // the last; nil before
	takeover bool              // the next Apply is urgent, since packets wait in queues

	apart     bool   // the kernel has the mesh's port, see apart.go
	apartPort uint16 // of an earlier meshd's sockets then, until ours have it; else 0
	tries     int    // of the kernel to take the port from a socket that was not closed yet

	awaiting atomic.Bool // there will be another such try
}

// A verdict is why user space forwards everything; the zero value if programs forward, or nothing
// does yet.
type verdict struct {
	reason string
	failed bool // programs were wanted
}

// New returns an engine that moves nothing yet. What it does at interfaces is in the network
// namespace of the calling thread.
func New(o dataplane.Options) *Engine {
	e := join(o.Log, user.New(o), kernel.New(o.Log))
	e.broken = o.Broken
	return e
}

func join(log *slog.Logger, u moving, k passing) *Engine {
	e := &Engine{log: log, user: u, kernel: k, broken: func() {}}
	e.verdict.Store(&verdict{})
	return e
}

// Prepare implements dataplane.Engine.
func (e *Engine) Prepare(ctx context.Context, w dataplane.Wanted) (func() error, error) {
	var done undos
	if err := e.find(ctx, w); err != nil {
		return nil, err
	}
	w.Apart, w.ApartPort = e.apart, e.apartPort
	if w.Sealed {
		// Pinned programs of an earlier meshd send in the clear from the TUN until they are detached.
		// So this comes before all that may fail or take time.
		undo, err := e.standAside(ctx, w)
		if err != nil {
			return nil, err
		}
		done.add(undo)
	}
	undo, err := e.user.Prepare(ctx, w)
	if err != nil {
		return nil, errors.Join(err, done.run())
	}
	done.add(undo)
	if w.Sealed {
		return done.run, nil
	}
	undo, err = e.kernel.Prepare(ctx, w)
	if err != nil && w.Kernel.Use != dataplane.Always {
		undo, err = e.fallBack(ctx, err)
	}
	if err != nil {
		return nil, errors.Join(err, done.run())
	}
	done.add(undo)
	return done.run, nil
}

// Load implements dataplane.Loader: the kernel's verifier reads programs for as long as it takes to set all
// rules of a large mesh.
func (e *Engine) Load(ctx context.Context, w dataplane.Wanted) (undo func() error) {
	if mayUse(w) != dataplane.Never {
		if undo, err := e.kernel.Load(ctx, w); err == nil {
			return undo
		}
	}
	return func() error { return nil }
}

// Apply implements dataplane.Engine. Programs come first: the user engine's queues get packets from
// the moment they are attached, so the fewer steps are left that can fail, the better. In a takeover
// packets wait in queues already, so the user engine comes first.
func (e *Engine) Apply(ctx context.Context, w dataplane.Wanted) (func() error, []mesh.Change, error) {
	var done undos
	raise, undo, err := e.settle(ctx, w)
	if err != nil {
		return nil, nil, err
	}
	done.add(undo)
	w.Apart = e.apart
	type step func(context.Context, dataplane.Wanted) (func() error, []mesh.Change, error)
	steps := []step{e.choose, e.user.Apply}
	before, takeover := e.applied, e.takeover
	if takeover {
		slices.Reverse(steps)
	}
	var changes []mesh.Change
	for _, do := range steps {
		undo, some, err := do(ctx, w)
		if err != nil {
			return nil, nil, errors.Join(err, done.run())
		}
		done.add(undo)
		changes = append(changes, some...)
	}
	e.applied, e.takeover, e.apartPort = &w, false, 0
	done.add(func() error { e.applied = before; return nil })
	undo, err = e.move(ctx, w, raise)
	if err != nil {
		return nil, nil, errors.Join(err, done.run())
	}
	done.add(undo)
	return done.run, changes, nil
}

// choose has programs forward, or not.
func (e *Engine) choose(ctx context.Context, w dataplane.Wanted) (func() error, []mesh.Change, error) {
	if mayUse(w) == dataplane.Never {
		undo, err := e.standAside(ctx, w)
		return undo, nil, err
	}
	undo, changes, err := e.kernel.Apply(ctx, w)
	switch {
	case err != nil && w.Kernel.Use == dataplane.Always:
		return nil, nil, err
	case err != nil:
		undo, err := e.fallBack(ctx, err)
		return undo, nil, err
	}
	before := e.verdict.Swap(&verdict{})
	if before.failed {
		e.log.Info("kernel engine available again: it forwards plain packets", "event", "kernel_engine")
	}
	return func() error { e.verdict.Store(before); return undo() }, changes, nil
}

// mayUse tells whether programs may forward. They send in the clear, whatever a plan says of them.
func mayUse(w dataplane.Wanted) dataplane.Use {
	if w.Sealed {
		return dataplane.Never
	}
	return w.Kernel.Use
}

// standAside takes all programs away, since they must not be used: user space forwards everything, or drops
// it where packets travel encrypted.
func (e *Engine) standAside(ctx context.Context, w dataplane.Wanted) (undo func() error, err error) {
	undo = e.goBack(ctx)
	p := w.Kernel
	before := e.verdict.Swap(&verdict{reason: p.Why}) // first: readers see why as soon as they see that
	if err := e.kernel.Remove(ctx); err != nil {
		return nil, errors.Join(err, undo())
	}
	if before.reason != p.Why && !p.Chosen && !w.Sealed {
		e.log.Info("kernel engine must not be used: the user engine forwards",
			"reason", p.Why, "event", "user_engine")
	}
	return undo, nil
}

// fallBack has user space forward everything, since programs cannot. It is logged once for each
// reason.
func (e *Engine) fallBack(ctx context.Context, why error) (undo func() error, err error) {
	undo = e.goBack(ctx)
	now := &verdict{reason: why.Error(), failed: true}
	before := e.verdict.Swap(now)
	if err := e.kernel.Remove(ctx); err != nil {
		return nil, errors.Join(why, err, undo())
	}
	if before.reason != now.reason {
		e.log.Warn("kernel engine unavailable: falling back to the user engine",
			"error", why, "event", "user_engine")
	}
	return undo, nil
}

// goBack returns a function that has programs forward, or not, as they do now.
func (e *Engine) goBack(ctx context.Context) func() error {
	verdict, applied, forwards := e.verdict.Load(), e.applied, e.kernel.Forwards()
	return func() error {
		e.verdict.Store(verdict)
		if !forwards || applied == nil {
			return e.kernel.Remove(ctx)
		}
		_, _, err := e.kernel.Apply(ctx, *applied)
		return err
	}
}

// Learn implements dataplane.Engine. An error was logged already.
func (e *Engine) Learn(peer string, d peers.Directive) error {
	err := errors.Join(e.user.Learn(peer, d), e.kernel.Learn(peer, d))
	if err != nil {
		e.log.Error("cannot tell the engines what is known of a peer",
			"peer", peer, "error", err, "event", "tables_failed")
	}
	return err
}

// Carry implements dataplane.Engine. An error was logged already.
func (e *Engine) Carry(prefix mesh.Prefix, peer string) error {
	err := errors.Join(e.user.Carry(prefix, peer), e.kernel.Carry(prefix, peer))
	if err != nil {
		e.log.Error("cannot tell the engines which peer carries a prefix",
			"prefix", prefix, "peer", peer, "error", err, "event", "tables_failed")
	}
	return err
}

// Read implements dataplane.Engine.
func (e *Engine) Read() dataplane.Reading {
	r, k := e.user.Read(), e.kernel.Read()
	r.Totals.Add(k.Totals)
	for name, more := range k.Peers {
		if more == (mesh.Traffic{}) { // as of most of thousands
			continue
		}
		if t, listed := r.Peers[name]; listed {
			t.Add(more)
			r.Peers[name] = t
		}
	}
	r.Lost.Merger, r.Handed = k.Overflow, k.Handed
	switch {
	case r.Sealed(): // no engine was chosen
		return r
	case !k.Forwards:
		r.Works.Reason = e.verdict.Load().reason
		return r
	}
	r.Works.Engine, r.Works.Reason = dataplane.EngineKernel, k.Refused
	r.Works.Receive, r.Works.NoFOU, r.Works.Captured = k.Receive, k.NoFOU, k.Captured
	return r
}

// Conditions implements dataplane.Engine.
func (e *Engine) Conditions() []mesh.Condition {
	return slices.Concat(e.user.Conditions(), e.kernel.Conditions())
}

// Alive implements dataplane.Engine. Programs have no life of their own.
func (e *Engine) Alive(ctx context.Context) error { return e.user.Alive(ctx) }

// Stop implements dataplane.Engine.
func (e *Engine) Stop() error { return e.user.Stop() }

// Close closes sockets and queues, once Stop has ended the loops. Programs go on, also with what the socket
// took in.
func (e *Engine) Close() error { return errors.Join(e.kernel.StandIn(), e.user.Close()) }

// Deliver implements dataplane.Deliverer.
func (e *Engine) Deliver(b []byte) error { return e.user.Deliver(b) }

// Drained implements dataplane.Drainer. Programs hold no packet back.
func (e *Engine) Drained(ctx context.Context) error { return e.user.Drained(ctx) }

// SendEcho implements dataplane.Echoer.
func (e *Engine) SendEcho(es ...dataplane.Echo) error { return e.user.SendEcho(es...) }

// Heard implements dataplane.Echoer.
func (e *Engine) Heard(peer string) time.Time {
	h := e.kernel.HeardBy(peer)[0]
	h.Socket = e.user.Heard(peer)
	return h.Latest()
}

// HeardBy implements dataplane.Echoer.
func (e *Engine) HeardBy(names ...string) []peers.Heard {
	all := e.kernel.HeardBy(names...)
	for i, h := range e.user.HeardBy(names...) {
		all[i].Socket = h.Socket
	}
	return all
}

// Leaving implements dataplane.Echoer.
func (e *Engine) Leaving() dataplane.Leaving {
	l := e.user.Leaving()
	l.NoChecksum = e.kernel.Forwards()
	l.DSCP |= e.kernel.Marks()
	return l
}

// Adopt implements dataplane.Keeper.
func (e *Engine) Adopt(files []*os.File, w dataplane.Wanted) (a dataplane.Adopted, unfit []error) {
	e.look(w)
	w.Apart = e.apart
	a, unfit = e.user.Adopt(files, w)
	e.takeover = a.Moving()
	return a, unfit
}

// Descriptors implements dataplane.Keeper.
func (e *Engine) Descriptors() map[string]dataplane.Descriptor { return e.user.Descriptors() }

// Look looks who else is at the TUN, such as a capture: then user space sends, so that the capture
// sees it. It also looks whether packets are lost where programs merge TCP, or on their way to the sockets,
// and has Apply called if so, or if the kernel is to try again to take the mesh's port.
// It is to be called every second or so, from any goroutine.
func (e *Engine) Look() {
	e.kernel.Look()
	e.kernel.Compare(time.Now(), func() mesh.Traffic { return e.user.Read().Totals })
	lost := e.kernel.WatchMerger()
	unreached := e.kernel.WatchHanded(func() uint64 { return e.user.Read().Calls[mesh.WireRead].Packets })
	if lost || unreached || e.awaiting.Load() {
		e.broken()
	}
}

// undos are ways back, in the order of the ways there.
type undos []func() error

func (u *undos) add(undo func() error) { *u = append(*u, undo) }

// run goes all ways back, the last first.
func (u undos) run() error {
	var errs []error
	for _, undo := range slices.Backward(u) {
		errs = append(errs, undo())
	}
	return errors.Join(errs...)
}

// CleanUp removes what a kernel engine has left in this network namespace, whichever meshd made it:
// programs, maps and interfaces. It tells whether there was something.
func CleanUp() (removed bool, err error) { return kernel.CleanUp() }

// GiveFolder gives the folder of pinned programs to a user, by whom meshd will run. It is for root,
// before that user's meshd starts. See kernel.GiveFolder for what it refuses.
func GiveFolder(user, group int) error { return kernel.GiveFolder(user, group) }
