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

// Engine is the engine in user space. Each worker has one loop from the TUN to the socket and one
// from the socket to the TUN. They share nothing but the mesh, so none waits for another.
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
	past    [mesh.NumCallKinds]mesh.Calls // of workers that are gone
	buffers buffers
}

// worker is a Worker with what is counted and decided for it.
type worker struct {
	Worker
	calls   [mesh.NumCallKinds]callCounter
	loops   [2]life
	noSend  atomic.Bool // several packets in one message are refused
	noMerge atomic.Bool // superpackets are refused by the TUN
	senders sync.Pool   // of Sender, for echoes
}

// echoes returns a Sender for one goroutine, which puts it back into senders.
func (w *worker) echoes() Sender {
	if s, ok := w.senders.Get().(Sender); ok {
		return s
	}
	return w.Echoes()
}

// forwarding is what the packet path looks at: immutable once stored.
type forwarding struct {
	table  *table.Table
	peers  []peer
	tun    []tunAddresses   // by the table's index, too
	probes []tunAddresses   // for forwarded echoes, by the table's index
	names  map[string]int32 // the table's index
	self   int32
	own    tunAddresses // source of ICMP errors
	home4  netip.Prefix // our first subnet of each family; invalid: there is none
	home6  netip.Prefix
	from   netip.AddrPort // our own underlay address
	header int            // bytes of outer headers
}

// peer is one entry of forwarding, by the table's index.
type peer struct {
	underlay netip.AddrPort
	*known
}

// known is what lasts of a peer while forwarding is replaced.
type known struct {
	counters
	mtu atomic.Int64 // largest packets that reach it, bytes; 0: all that the interface lets through
}

// carries tells whether a packet of a size reaches the peer.
func (k *known) carries(size int) bool {
	mtu := k.mtu.Load()
	return mtu == 0 || int64(size) <= mtu
}

// knows returns what is known of a peer. u.mu is held.
func (u *Engine) knows(name string) *known {
	k := u.known[name]
	if k == nil {
		k = &known{}
		u.known[name] = k
	}
	return k
}

// New returns the user engine, which has no workers and knows no peer yet.
func New(o dataplane.Options) *Engine {
	u := &Engine{options: o, known: map[string]*known{}, asking: make(chan struct{}, 1)}
	u.mesh.Store(&forwarding{table: &table.Table{}, self: table.None})
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
		one := &worker{Worker: w, loops: [2]life{newLife(), newLife()}}
		next = append(next, one)
		loops = append(loops, newOutbound(u, one), newInbound(u, one))
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

// SetMesh replaces all that the packet path knows of the mesh at one packet boundary. Counters of
// peers whose name stays are kept. On error the old mesh stays in force.
func (u *Engine) SetMesh(m mesh.Mesh) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	f := &forwarding{
		self: table.None, peers: make([]peer, len(m.Peers)),
		tun: make([]tunAddresses, len(m.Peers)), probes: make([]tunAddresses, len(m.Peers)),
		names: make(map[string]int32, len(m.Peers)),
	}
	entries := make([]table.Peer, len(m.Peers))
	for i, p := range m.Peers {
		entries[i] = table.Peer{
			Name: p.Name, Underlay: p.Underlay().Addr(), Prefixes: slices.Concat(p.Subnets, p.Routes)}
		f.names[p.Name], f.tun[i] = int32(i), tunAddresses{p.TUNAddress(false), p.TUNAddress(true)}
		f.probes[i] = tunAddresses{p.ForwardedProbe(false), p.ForwardedProbe(true)}
		if p.Name == m.Self {
			f.from = p.Underlay().AddrPort
			f.self, f.own = int32(i), f.tun[i]
			f.home4, f.home6 = p.FirstSubnet(false), p.FirstSubnet(true)
			f.header = p.Underlay().OuterHeaders()
			continue
		}
		f.peers[i] = peer{underlay: p.Underlay().AddrPort, known: u.knows(p.Name)}
	}
	if f.self == table.None {
		return fmt.Errorf("set mesh: no node is named %q", m.Self)
	}
	var err error
	if f.table, err = table.New(entries); err != nil {
		return fmt.Errorf("set mesh: %w", err)
	}
	u.mesh.Store(f)
	return nil
}

// Read implements dataplane.Engine.
func (u *Engine) Read() dataplane.Reading {
	works := u.works()
	u.open.Load().readErrors()
	lost := u.readLosses()
	u.mu.Lock()
	defer u.mu.Unlock()
	r := dataplane.Reading{Totals: u.nobody.read(), Peers: map[string]mesh.Traffic{},
		Calls: map[mesh.CallKind]mesh.Calls{},
		Lost:  lost, Works: works, Strangers: u.strangers.read()}
	f := u.mesh.Load()
	r.Troubles = u.troubles.read(f)
	for i := range f.peers {
		if int32(i) != f.self {
			r.Peers[f.table.Name(int32(i))] = mesh.Traffic{}
		}
	}
	for name, known := range u.known { // each once, so that the parts add up
		t := known.read()
		r.Totals.Add(t)
		if _, listed := r.Peers[name]; listed {
			r.Peers[name] = t
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
	w := dataplane.Works{Engine: "user", Receive: dataplane.Socket, Offloads: []string{}, Queues: len(workers)}
	if len(workers) == 0 {
		return w
	}
	w.Refused = refused(workers)
	for _, name := range slices.Concat(workers[0].Tun.Offloads(), workers[0].Wire.Offloads()) {
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

// Stop implements dataplane.Engine.
func (u *Engine) Stop() error { return stop(*u.workers.Load()) }
