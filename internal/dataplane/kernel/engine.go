// Package kernel is the kernel engine: eBPF programs that forward plain packets between the TUN
// and the wire without a way through user space. The programs are in bpf/mesh.c, whose opening
// comment has the picture.
//
//	plain        what the programs forward by themselves
//	handed over  everything else: it goes on to the TUN's queue or the socket, where the user engine
//	             treats it as if there were no programs
//	number       a node in the maps; 0 is this one. A name keeps its number as long as it is in the
//	             mesh
//	stage        one of the programs, by its place in the order in which they are attached
//	place        where a stage is attached: an interface
//	pin          a file that keeps a map or a program in the kernel while no meshd runs
//
// The kernel engine is no dataplane.Engine by itself. It is a way around the user engine, which has
// to run beside it with the same mesh; package auto joins the two.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
)

// Engine loads programs, attaches them, and keeps their maps as the mesh is.
//
// Prepare, Load, Apply and Remove belong to one goroutine, the owner's. All other methods may be called
// from any goroutine. There is one mutex, mu. It serialises those who write into the maps: the
// owner, Learn and Look. It is held for writes into maps alone, which take microseconds
// each, and never while programs are loaded or attached. Readers (Read, Heard, Conditions) never
// take it: they see what was published last, see shown.
type Engine struct {
	log   *slog.Logger
	pins  func() (folder string, err error) // makes the folder to pin in; the error says why not to
	noTCX bool                              // a test plays a kernel before 6.6

	flowsOf uint8 // a test has other packets noted; 0: flowsOf

	shown    atomic.Pointer[shown]
	overflow mesh.Growing // of the merger's backlog
	compared comparison   // with user space
	reading  complaint    // counters cannot be read
	watching complaint    // who else is at the TUN cannot be seen

	passageTrouble complaint // what enters and leaves the merger cannot be read

	// Of the owner alone.
	places
	applied *dataplane.Wanted // the last one that worked; nil: no programs

	lock  *os.File // of the folder of pins; nil: none
	clean bool     // nothing that meshd left is on this host, in maps or at interfaces

	mu       sync.Mutex
	learned               // also of what is not in the mesh
	tables   tables       // what the maps hold
	inMaps   *contents    // what they were filled from; nil before
	settings meshSettings // what the map of settings holds, once there is all of it
	passage  passage      // whether packets come through the merger
	passed   int          // index of the exit that passage is about
	noFOU    noFOUSince   // why the kernel does not have the port
	handing  handing      // as WatchHanded saw it last
}

// New returns an engine without programs. What it does at interfaces is in the network namespace of
// the calling thread.
func New(log *slog.Logger) *Engine {
	e := &Engine{log: log, pins: pinFolder, tables: newTables(),
		learned: learned{map[string]peers.Directive{}, map[mesh.Prefix]string{}}}
	e.attached = map[attachment]hook{}
	e.shown.Store(&shown{kept: map[string]mesh.Traffic{}})
	return e
}

// handle returns the programs, nil if there are none. It is for the owner and for those who hold mu.
func (e *Engine) handle() *handle { return e.shown.Load().handle }

// Prepare puts the tables of a mesh in force where programs forward already. Nothing is changed if
// it fails. Undo returns to the tables before.
func (e *Engine) Prepare(_ context.Context, w dataplane.Wanted) (undo func() error, err error) {
	if e.handle() == nil {
		return func() error { return nil }, nil
	}
	old := e.inMaps
	if err := e.setMesh(w); err != nil {
		return nil, err
	}
	return func() error {
		if old == nil || e.handle() == nil {
			return nil
		}
		return e.setMesh(old.Wanted)
	}, nil
}

// Load loads programs and fills their maps, so that Apply only has to attach them. Those that an earlier
// meshd pinned forward by the new mesh from then on. Nothing is changed if it fails. Undo removes programs.
func (e *Engine) Load(ctx context.Context, w dataplane.Wanted) (undo func() error, err error) {
	if e.handle() != nil {
		return func() error { return nil }, nil
	}
	undo = func() error { return e.Remove(ctx) }
	if err := e.fill(w); err != nil {
		return nil, errors.Join(err, undo())
	}
	return undo, nil
}

// fill loads programs if there are none, and has their maps say what is wanted.
func (e *Engine) fill(w dataplane.Wanted) error {
	e.clean = false
	if e.handle() == nil {
		if err := e.load(); err != nil {
			var verifier *ebpf.VerifierError
			if errors.As(err, &verifier) {
				e.log.Debug("the verifier's log", "log", fmt.Sprintf("%+v", verifier), "event", "verifier")
			}
			return err
		}
	}
	return e.setMesh(w)
}

// Apply has programs forward as wanted. It loads them, or takes over those that an earlier meshd
// pinned, and attaches them where they belong, and again where other programs took them away: the
// kernel does not tell when that happens. Packets of peers that stay the same go on.
//
// The error says why the programs cannot: a capability that is missing, a kernel that is too old,
// the verifier's last line. Nothing is changed then. Undo returns to what was in force before. The
// changes name what somebody had changed of our interfaces.
func (e *Engine) Apply(ctx context.Context, w dataplane.Wanted) (func() error, []mesh.Change, error) {
	// Without the TUN there is nothing to go back to either, so this comes first.
	tun, err := net.InterfaceByName(w.Interface)
	if err != nil {
		return nil, nil, fmt.Errorf("find the TUN %q: %w", w.Interface, err)
	}
	before := e.applied
	undo := func() error { return e.restore(ctx, before) }
	changes, err := e.apply(w, tun.Index)
	if err != nil {
		return nil, nil, errors.Join(err, undo())
	}
	e.applied = &w
	return undo, changes, nil
}

// apply is Apply, but for the way back.
func (e *Engine) apply(w dataplane.Wanted, tun int) (changes []mesh.Change, err error) {
	if err := e.fill(w); err != nil {
		return nil, err
	}
	changes, err = e.attach(w, tun)
	if err != nil {
		return nil, err
	}
	return changes, e.look()
}

// restore returns to what worked before, which may be no programs at all.
func (e *Engine) restore(ctx context.Context, before *dataplane.Wanted) error {
	if before == nil {
		return e.Remove(ctx)
	}
	tun, err := net.InterfaceByName(before.Interface)
	if err == nil {
		_, err = e.apply(*before, tun.Index)
	}
	if err != nil { // programs must not forward by a mesh that is not in force
		return errors.Join(fmt.Errorf("go back to the programs before: %w", err), e.Remove(ctx))
	}
	e.applied = before
	return nil
}

// Remove takes all programs away, also those that an earlier meshd left, and keeps what ours have
// counted. It costs nothing where nothing is left. What another program put where meshd pins stays:
// it holds no program of ours, so it is no error here.
func (e *Engine) Remove(context.Context) error {
	if e.clean {
		return nil
	}
	err := e.leave()
	_, _, cleanErr := cleanUp()
	e.clean = err == nil && cleanErr == nil
	return errors.Join(err, cleanErr)
}

// Forwards tells whether programs forward.
func (e *Engine) Forwards() bool { return e.shown.Load().attached }

// leave takes our programs away, in an order that loses no packets to places without programs, and
// keeps what they have counted.
func (e *Engine) leave() error {
	e.applied = nil
	h := e.handle()
	if h == nil {
		return nil
	}
	e.userPort = 0
	err := e.detach()
	e.mu.Lock()
	defer e.mu.Unlock()
	shows := e.shown.Load()
	kept, countErr := shows.countedFor(shows.numbers)
	e.tables, e.settings, e.inMaps = newTables(), meshSettings{}, nil
	e.passage, e.passed = passage{}, 0
	e.publish(func(s *shown) { *s = shown{kept: kept} })
	return errors.Join(err, countErr, h.release())
}

// Learn notes what is known of a peer, and where its packets go. A peer whose meshd completes checksums is
// sent to by the programs; until that is known user space sends to it. What rules for sockets are about
// stays with sockets, whatever is learned. Each packet goes as it was learned before, or as it is now.
func (e *Engine) Learn(peer string, d peers.Directive) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.known[peer] = d
	h := e.handle()
	if h == nil || e.inMaps == nil {
		return nil
	}
	p, there := e.inMaps.peer(peer)
	if !there || peer == e.inMaps.Mesh.Self {
		return nil
	}
	if err := h.learn(&e.tables, e.inMaps, p, respecting(d, e.inMaps.policed(peer))); err != nil {
		return fmt.Errorf("write what is known of peer %q into the kernel's tables: %w", peer, err)
	}
	return nil
}

// learn writes what has changed in what is known of a node, into the maps and then into the tables.
func (h *handle) learn(t *tables, c *contents, p mesh.Peer, d peers.Directive) error {
	number := t.numbers[p.Name]
	if err := replace(h.Nodes, t.nodes, number, c.nodeOf(p, number, d)); err != nil {
		return err
	}
	for _, at := range p.Addresses {
		from := sourceOf(at.Addr())
		next := t.senders[from]
		if next.BySocket = boolean(d.InBySocket); next.Number != number {
			continue // another node has the same address
		}
		if err := replace(h.Senders, t.senders, from, next); err != nil {
			return err
		}
	}
	return nil
}

// Conditions returns what does not work as it should.
func (e *Engine) Conditions() (all []mesh.Condition) {
	s := e.shown.Load() // its maps are not asked
	if s.handle == nil {
		return nil
	}
	add := func(kind mesh.Kind, subject string, err error) {
		if err == nil {
			return
		}
		c := mesh.Condition{Kind: kind, Severity: mesh.Degraded, Subject: subject, Cause: err.Error()}
		if r, ok := errors.AsType[remedied](err); ok {
			c.Cause, c.Remedy = r.error.Error(), r.remedy
		}
		all = append(all, c)
	}
	add(mesh.Unpinned, pinned, s.unpinned)
	add(mesh.Unmerged, mergerEntry, s.unmerged)
	if len(s.past) > 0 {
		all = append(all, mesh.Condition{Kind: mesh.ProgramMoved, Severity: mesh.Info, Subject: mergerExit,
			Cause: strings.Join(s.past, ", ")})
	}
	return append(append(all, s.conditions()...), e.compared.conditions(s)...)
}

// remedied is an error that an operator can do something about: a command or a few words.
type remedied struct {
	error
	remedy string
}

// Error implements error: conditions have the two apart, and all others get both.
func (r remedied) Error() string { return fmt.Sprintf("%v: `%s`", r.error, r.remedy) }

// Unwrap is for errors.Is.
func (r remedied) Unwrap() error { return r.error }

// A complaint is logged when its trouble begins, and not again until that was over.
type complaint struct{ standing atomic.Bool }

// about logs an error as an event of a kind; nil ends the trouble.
func (c *complaint) about(log *slog.Logger, err error, event, message string) {
	if c.standing.Swap(err != nil) || err == nil {
		return
	}
	log.Error(message, "error", err, "event", event)
}
