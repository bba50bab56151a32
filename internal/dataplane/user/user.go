package user

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/table"
)

// Sizes of a loop's batches. More costs memory and falls out of the CPU's cache,
// less costs wake-ups.
const (
	// Frames and Bursts are how many frames one reading of the TUN takes at
	// most, and how many messages one call sends.
	Frames = 64
	Bursts = 64
	// frameMemory holds two superpackets, or a whole batch of small packets.
	frameMemory = 3 * packet.MaxSize
	// headerMemory holds the headers of the segments of a batch.
	headerMemory = 32 << 10
	// Datagrams is how many messages one call receives: each may hold 64
	// packets where the kernel merges them, and one where it does not.
	Datagrams       = 64
	DatagramsMerged = 8
	// EchoBursts is how many echoes one call sends.
	EchoBursts = 16
)

// Engine is the engine in user space. Each worker has one loop from the TUN to its sockets, one for each
// of this node's addresses, and one loop from each of these sockets to the TUN. They share nothing but the
// mesh, so none waits for another.
//
// The owner's goroutine opens, switches and closes what packets go through (engine.go). Readers
// and the packet path see that by atomic pointers; mu is held for arithmetic only, never over a
// system call.
type Engine struct {
	options dataplane.Options

	mesh    atomic.Pointer[forwarding] // read once for each batch
	nobody  counters                   // what belongs to no peer
	workers atomic.Pointer[[]*worker]  // that move packets
	open    atomic.Pointer[endpoints]  // what they move packets through; nil before the first Apply
	broken  atomic.Pointer[ending]     // why the loops have to be made anew; nil if they run
	marks   atomic.Uint64              // DSCP values that have left since the last Leaving
	bare    bareSockets
	asking  chan struct{} // a token for whoever asks the loops for a sign of life
	losses  losses        // at the sockets

	troubles  troubles  // why datagrams do not reach peers
	strangers strangers // who sent what was not accepted

	// Of the owner alone.
	left     *endpoints        // of an earlier meshd, until the first Apply
	next     *endpoints        // between Prepare and Apply; nil: what is open stays
	prepared *dataplane.Wanted // the last
	applied  *dataplane.Wanted // the last

	mu      sync.Mutex
	known   map[string]*known             // of every peer there ever was, so that totals never fall
	carries map[mesh.Prefix]string        // the peer that carries a shared prefix, as far as it was said
	past    [mesh.NumCallKinds]mesh.Calls // of workers that are gone
	buffers buffers
}

// worker is a Worker with what is counted and decided for it.
type worker struct {
	Worker
	calls   [mesh.NumCallKinds]callCounter
	loops   []life
	noSend  atomic.Bool // several packets in one message are refused
	noMerge atomic.Bool // superpackets are refused by the TUN
	senders []sync.Pool // of *echoSender; by the socket
	flows   sketches    // by the loop
}

func newWorker(w Worker) *worker {
	one := &worker{Worker: w, senders: make([]sync.Pool, len(w.Sockets))}
	for range 1 + len(w.Sockets) {
		one.loops = append(one.loops, newLife())
	}
	one.flows = make(sketches, len(one.loops))
	return one
}

// echoes returns what sends echoes by a socket for one goroutine, which puts it back into senders.
func (w *worker) echoes(socket int) *echoSender {
	if s, ok := w.senders[socket].Get().(*echoSender); ok {
		return s
	}
	return w.newEchoSender(socket)
}

func (w *worker) newEchoSender(socket int) *echoSender {
	return &echoSender{sender: w.Sockets[socket].Echoes()}
}

// socket returns the index of the socket by which datagrams leave for a target; nowhere if none can.
// Between Prepare and Apply an address of ours may have no socket yet: another one of its family sends.
func (w *worker) socket(f *forwarding, to *target) int {
	if to.from == nowhere {
		return nowhere
	}
	return w.socketOf(f.binds[to.from])
}

// socketOf returns the index of the socket that is bound to one of our own addresses, or else of the
// first one of the family; nowhere without one.
func (w *worker) socketOf(bind netip.AddrPort) int {
	other := nowhere
	for i := range w.Sockets {
		switch at := w.Sockets[i].Bind; {
		case at == bind:
			return i
		case other == nowhere && at.Addr().Is4() == bind.Addr().Is4():
			other = i
		}
	}
	return other
}

// New returns the user engine, which has no workers and knows no peer yet.
func New(o dataplane.Options) *Engine {
	u := &Engine{options: o, known: map[string]*known{}, carries: map[mesh.Prefix]string{},
		asking: make(chan struct{}, 1)}
	nothing, _ := table.New(nil, nil) // where nobody claims anything, nothing is taken
	u.mesh.Store(&forwarding{table: nothing, self: table.None})
	u.workers.Store(&[]*worker{})
	u.beginLosses(&endpoints{})
	return u
}

// Replace puts workers in the place of those that are there, once those have forwarded what they
// have read. It returns the loops of the new ones; the owner runs each in a goroutine, and closes
// those queues and sockets of the old ones that are not among the new. Packets that arrive
// meanwhile wait in the kernel.
func (u *Engine) Replace(workers []Worker) (loops []dataplane.Loop, err error) {
	old := *u.workers.Load()
	err = stop(old)
	var next []*worker
	for _, w := range workers {
		one := newWorker(w)
		next = append(next, one)
		loops = append(loops, newOutbound(u, one))
		for i := range w.Sockets {
			loops = append(loops, newInbound(u, one, i))
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, w := range old {
		for kind := range w.calls {
			u.past[kind].Add(w.calls[kind].read())
		}
	}
	u.workers.Store(&next)
	return loops, err
}

// Read implements dataplane.Engine.
func (u *Engine) Read() dataplane.Reading {
	works := u.works()
	u.open.Load().readErrors()
	lost := u.readLosses()
	u.mu.Lock()
	defer u.mu.Unlock()
	f := u.mesh.Load()
	r := dataplane.Reading{Totals: u.nobody.read(), Peers: make(map[string]mesh.Traffic, len(f.peers)),
		Calls: map[mesh.CallKind]mesh.Calls{},
		Lost:  lost, Works: works, Strangers: u.strangers.read()}
	r.Troubles = u.troubles.read(f)
	for i := range f.peers { // each once, so that the parts add up
		if int32(i) != f.self {
			t := f.peers[i].read()
			r.Totals.Add(t)
			r.Peers[f.table.Name(int32(i))] = t
		}
	}
	if len(u.known) > len(r.Peers) { // some have left the file
		for name, known := range u.known {
			if _, listed := r.Peers[name]; !listed {
				r.Totals.Add(known.read())
			}
		}
	}
	for _, kind := range mesh.CallKinds() {
		sum := u.past[kind]
		for _, w := range *u.workers.Load() {
			sum.Add(w.calls[kind].read())
		}
		r.Calls[kind] = sum
	}
	return r
}

func (u *Engine) works() dataplane.Works {
	workers := *u.workers.Load()
	w := dataplane.Works{Engine: dataplane.EngineUser, Receive: dataplane.Socket, Offloads: []string{},
		Queues: len(workers)}
	if u.mesh.Load().sealed {
		w.Engine = dataplane.EngineWireGuard
	}
	if len(workers) == 0 {
		return w
	}
	w.Refused = refused(workers)
	for _, name := range slices.Concat(workers[0].Tun.Offloads(), workers[0].Sockets[0].Wire.Offloads()) {
		if !slices.Contains(w.Refused, name) {
			w.Offloads = append(w.Offloads, name)
		}
	}
	return w
}

// refused returns the names of offloads that ended at run time, in any worker.
func refused(workers []*worker) (names []string) {
	for name, ended := range map[string]func(*worker) bool{
		"udp_gso": func(w *worker) bool { return w.noSend.Load() },
		"tun_gro": func(w *worker) bool { return w.noMerge.Load() },
	} {
		if slices.ContainsFunc(workers, ended) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Alive implements dataplane.Engine.
func (u *Engine) Alive(ctx context.Context) error {
	select {
	case u.asking <- struct{}{}: // one at a time: a sign of life is for one asker
	case <-ctx.Done():
		return fmt.Errorf("the packet loops are being asked already: %w", ctx.Err())
	}
	defer func() { <-u.asking }()
	var errs []error
	for _, w := range *u.workers.Load() {
		errs = append(errs, w.alive(ctx))
	}
	return errors.Join(errs...)
}

// Drained implements dataplane.Drainer.
func (u *Engine) Drained(ctx context.Context) error {
	select {
	case u.asking <- struct{}{}: // as of Alive, whose signs of life it takes
	case <-ctx.Done():
		return fmt.Errorf("the packet loops are being asked already: %w", ctx.Err())
	}
	defer func() { <-u.asking }()
	var errs []error
	for _, w := range *u.workers.Load() {
		errs = append(errs, w.drained(ctx))
	}
	return errors.Join(errs...)
}

// Stop implements dataplane.Engine.
func (u *Engine) Stop() error { return stop(*u.workers.Load()) }
