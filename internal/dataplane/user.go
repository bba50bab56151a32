package dataplane

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/table"
)

// BatchSize is how many packets one call moves at most. Sixty-four is what a
// TUN queue or a socket holds after a short wait; more only costs memory.
const BatchSize = 64

// User is the engine in user space: one loop from the TUN to the socket, one
// from the socket to the TUN. They share nothing but the mesh, so neither waits
// for the other.
type User struct {
	tun      Tun
	wire     Wire
	receiver Receiver
	sender   Sender
	log      *slog.Logger

	mesh atomic.Pointer[forwarding] // read once for each batch

	mu     sync.Mutex           // serialises SetMesh and guards known
	known  map[string]*counters // of every peer there ever was, so that totals never fall
	nobody counters             // what belongs to no peer
}

// forwarding is what the packet path looks at: immutable once stored.
type forwarding struct {
	table  *table.Table
	peers  []peer
	self   int32
	tun4   netip.Addr // source of ICMP errors; invalid without that family
	tun6   netip.Addr
	header int // bytes of outer headers
}

// peer is one entry of forwarding, by the table's index.
type peer struct {
	underlay netip.AddrPort
	*counters
}

// NewUser returns the user engine on an attached queue and a bound socket,
// which it closes with itself. It forwards nothing before SetMesh.
func NewUser(tun Tun, wire Wire, receiver Receiver, sender Sender, log *slog.Logger) *User {
	u := &User{tun: tun, wire: wire, receiver: receiver, sender: sender, log: log, known: map[string]*counters{}}
	u.mesh.Store(&forwarding{table: &table.Table{}, self: table.None})
	return u
}

// SetMesh implements Engine.
func (u *User) SetMesh(m Mesh) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	f := &forwarding{self: table.None, peers: make([]peer, len(m.Peers))}
	entries := make([]table.Peer, len(m.Peers))
	for i, p := range m.Peers {
		entries[i] = table.Peer{Name: p.Name, Underlay: p.Underlay.Addr(), Prefixes: slices.Concat(p.Subnets, p.Routes)}
		if p.Name == m.Self {
			f.self = int32(i)
			f.tun4, f.tun6 = p.TUNAddress(false), p.TUNAddress(true)
			f.header = OuterHeaders(p.Underlay.Addr())
			continue
		}
		if u.known[p.Name] == nil {
			u.known[p.Name] = &counters{}
		}
		f.peers[i] = peer{underlay: p.Underlay, counters: u.known[p.Name]}
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
func (u *User) Route(dst netip.Addr) Route {
	f := u.mesh.Load()
	prefix, i := f.table.LookupPrefix(dst)
	if i == table.None {
		return Route{}
	}
	return Route{Peer: f.table.Name(i), Prefix: prefix, Self: i == f.self}
}

// Counters implements Engine.
func (u *User) Counters() Counters {
	u.mu.Lock()
	defer u.mu.Unlock()
	c := Counters{Totals: u.nobody.read(), Peers: map[string]Traffic{}}
	for _, known := range u.known {
		c.Totals.add(known.read())
	}
	f := u.mesh.Load()
	for i, p := range f.peers {
		if int32(i) != f.self {
			c.Peers[f.table.Name(int32(i))] = p.read()
		}
	}
	return c
}

// Info implements Engine.
func (u *User) Info() Info {
	return Info{Engine: "user", Receive: "socket", Offloads: []string{}, Queues: 1}
}

// Loops implements Engine.
func (u *User) Loops() []Loop {
	return []Loop{
		&outbound{user: u, batch: packet.NewBatch(BatchSize), peers: make([]*peer, BatchSize), answer: newAnswerer(u.tun)},
		&inbound{user: u, batch: packet.NewBatch(BatchSize), peers: make([]*peer, BatchSize), answer: newAnswerer(u.tun)},
	}
}

// Close implements Engine.
func (u *User) Close() error {
	return errors.Join(u.tun.Close(), u.wire.Close())
}
