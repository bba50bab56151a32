package user

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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

// Engine is the engine in user space. Each worker has one loop from the TUN to the
// socket and one from the socket to the TUN. They share nothing but the mesh, so
// none waits for another.
type Engine struct {
	log  *slog.Logger
	hear dataplane.EchoHandler

	mesh   atomic.Pointer[forwarding] // read once for each batch
	nobody counters                   // what belongs to no peer

	asking  sync.Mutex // held while loops are asked for a sign of life
	mu      sync.Mutex // serialises changes and guards what follows
	workers []*worker
	known   map[string]*counters          // of every peer there ever was, so that totals never fall
	past    [mesh.NumCallKinds]mesh.Calls // of workers that are gone
}

// worker is a Worker with what is counted and decided for it.
type worker struct {
	Worker
	calls   [mesh.NumCallKinds]callCounter
	loops   [2]life
	noSend  atomic.Bool // several packets in one message are refused
	noMerge atomic.Bool // superpackets are refused by the TUN
}

// forwarding is what the packet path looks at: immutable once stored.
type forwarding struct {
	table  *table.Table
	peers  []peer
	tun    []tunAddresses   // by the table's index, too
	names  map[string]int32 // the table's index
	self   int32
	own    tunAddresses // source of ICMP errors
	home4  netip.Prefix // our first subnet of each family; invalid: there is none
	home6  netip.Prefix
	header int // bytes of outer headers
}

// peer is one entry of forwarding, by the table's index.
type peer struct {
	underlay netip.AddrPort
	*counters
}

// New returns the user engine, which has no workers and knows nobody yet. hear
// is asked about echoes from peers; nil: the kernel gets them all.
func New(log *slog.Logger, hear dataplane.EchoHandler) *Engine {
	u := &Engine{log: log, hear: hear, known: map[string]*counters{}}
	u.mesh.Store(&forwarding{table: &table.Table{}, self: table.None})
	return u
}

// Replace puts workers in the place of those that are there, once those have
// forwarded what they have read. It returns the loops of the new ones; the owner
// runs each in a goroutine, and closes those queues and sockets of the old ones
// that are not among the new. What arrives meanwhile waits in the kernel.
func (u *Engine) Replace(workers []Worker) (loops []Loop, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	err = stop(u.workers)
	for _, w := range u.workers {
		for kind := range w.calls {
			u.past[kind].Add(w.calls[kind].read())
		}
	}
	u.workers = nil
	for _, w := range workers {
		next := &worker{Worker: w, loops: [2]life{newLife(), newLife()}}
		u.workers = append(u.workers, next)
		loops = append(loops, newOutbound(u, next), newInbound(u, next))
	}
	return loops, err
}

// SetMesh implements Engine.
func (u *Engine) SetMesh(m mesh.Mesh) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	f := &forwarding{self: table.None, peers: make([]peer, len(m.Peers)), tun: make([]tunAddresses, len(m.Peers)), names: make(map[string]int32, len(m.Peers))}
	entries := make([]table.Peer, len(m.Peers))
	for i, p := range m.Peers {
		entries[i] = table.Peer{Name: p.Name, Underlay: p.Underlay.Addr(), Prefixes: slices.Concat(p.Subnets, p.Routes)}
		f.names[p.Name], f.tun[i] = int32(i), tunAddresses{p.TUNAddress(false), p.TUNAddress(true)}
		if p.Name == m.Self {
			f.self, f.own = int32(i), f.tun[i]
			f.home4, f.home6 = p.FirstSubnet(false), p.FirstSubnet(true)
			f.header = p.Underlay.OuterHeaders()
			continue
		}
		if u.known[p.Name] == nil {
			u.known[p.Name] = &counters{}
		}
		f.peers[i] = peer{underlay: p.Underlay.AddrPort, counters: u.known[p.Name]}
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

// Route implements Engine.
func (u *Engine) Route(dst netip.Addr) mesh.Route {
	f := u.mesh.Load()
	prefix, i := f.table.LookupPrefix(dst)
	if i == table.None {
		return mesh.Route{}
	}
	return mesh.Route{Peer: f.table.Name(i), Prefix: prefix, Self: i == f.self}
}

// Counters implements Engine.
func (u *Engine) Counters() dataplane.Counters {
	u.mu.Lock()
	defer u.mu.Unlock()
	c := dataplane.Counters{Totals: u.nobody.read(), Peers: map[string]mesh.Traffic{}, Calls: map[mesh.CallKind]mesh.Calls{}}
	f := u.mesh.Load()
	for i := range f.peers {
		if int32(i) != f.self {
			c.Peers[f.table.Name(int32(i))] = mesh.Traffic{}
		}
	}
	for name, known := range u.known { // each once, so that the parts add up
		t := known.read()
		c.Totals.Add(t)
		if _, listed := c.Peers[name]; listed {
			c.Peers[name] = t
		}
	}
	for _, kind := range mesh.CallKinds() {
		sum := u.past[kind]
		for _, w := range u.workers {
			sum.Add(w.calls[kind].read())
		}
		c.Calls[kind] = sum
	}
	return c
}

// Info implements Engine.
func (u *Engine) Info() dataplane.Info {
	u.mu.Lock()
	defer u.mu.Unlock()
	info := dataplane.Info{Engine: "user", Receive: "socket", Offloads: []string{}, Queues: len(u.workers)}
	if len(u.workers) == 0 {
		return info
	}
	info.Refused = u.refused()
	for _, name := range slices.Concat(u.workers[0].Tun.Offloads(), u.workers[0].Wire.Offloads()) {
		if !slices.Contains(info.Refused, name) {
			info.Offloads = append(info.Offloads, name)
		}
	}
	return info
}

// refused returns the names of offloads that ended at run time, in any worker. The
// caller holds mu.
func (u *Engine) refused() (names []string) {
	for name, ended := range map[string]func(*worker) bool{
		"udp_gso": func(w *worker) bool { return w.noSend.Load() },
		"tun_gro": func(w *worker) bool { return w.noMerge.Load() },
	} {
		if slices.ContainsFunc(u.workers, ended) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Alive implements Engine.
func (u *Engine) Alive(ctx context.Context) error {
	u.asking.Lock()
	defer u.asking.Unlock()
	u.mu.Lock()
	workers := u.workers
	u.mu.Unlock()
	var errs []error
	for _, w := range workers {
		errs = append(errs, w.alive(ctx))
	}
	return errors.Join(errs...)
}

// Stop implements Engine.
func (u *Engine) Stop() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return stop(u.workers)
}
