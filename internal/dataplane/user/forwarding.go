package user

import (
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
	"example.org/meshd/internal/table"
)

// This file holds what the packet path knows of the mesh:
//
//	forwarding   the tables of one mesh, replaced as a whole by a reload
//	peer         one node in them; where its packets go may change at any time
//	target       one address of a peer, and from which of ours datagrams leave for it
//	known        what is learned of a peer, whatever the mesh is

// forwarding is what the packet path looks at: immutable once stored, but for the active targets of
// peers and the carriers of shared prefixes. Each of these is one atomic word.
type forwarding struct {
	table  *table.Table
	listed []table.Peer // what the table was made of
	peers  []peer
	tun    []tunAddresses   // by the table's index, too
	probes []tunAddresses   // for forwarded echoes, by the table's index
	names  map[string]int32 // the table's index
	shares map[mesh.Prefix]mesh.Share
	self   int32
	sealed bool         // packets travel encrypted, so that none leaves or comes in here
	apart  bool         // the kernel has the port of this node's addresses, see apart.go
	own    tunAddresses // source of ICMP errors
	home4  netip.Prefix // our first subnet of each family; invalid: there is none
	home6  netip.Prefix
	binds  []netip.AddrPort // our own addresses; target.from counts them
	source []netip.AddrPort // the same, with a listed address for one that is unspecified
}

// peer is one entry of forwarding, by the table's index.
type peer struct {
	*known
	targets []target // as the mesh lists them
	active  atomic.Pointer[target]
}

// target is one address of a peer.
type target struct {
	*known                // of the peer
	addr   netip.AddrPort // invalid if the peer has no address yet
	from   int            // of forwarding.binds; nowhere: nothing can be sent there
	header int            // bytes of outer headers
}

// nowhere is where datagrams leave that cannot leave.
const nowhere = -1

// known is what lasts of a peer while forwarding is replaced.
type known struct {
	counters
	mtu atomic.Int64   // largest packets that reach it, bytes; 0: all that the interface lets through
	via netip.AddrPort // as learned; Engine.mu is held
	// lagging tells that bare packets of it are taken, although this node encrypts.
	lagging atomic.Bool
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

// SetMesh replaces all that the packet path knows of the mesh at one packet boundary: w says it, and how
// this host sends to each address. Counters of peers whose name stays are kept, and what was learned of
// them holds. On error the old mesh stays in force.
func (u *Engine) SetMesh(w dataplane.Wanted) error {
	f, err := u.replaceMesh(w)
	if err == nil {
		u.bare.follow(f.source, f.apart)
	}
	return err
}

// replaceMesh is SetMesh without system calls. It returns what is in force then.
func (u *Engine) replaceMesh(w dataplane.Wanted) (*forwarding, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	m, before := w.Mesh, u.mesh.Load()
	f := &forwarding{
		self: table.None, sealed: w.Sealed, apart: w.Apart, peers: make([]peer, len(m.Peers)), binds: w.Binds,
		tun: make([]tunAddresses, len(m.Peers)), probes: make([]tunAddresses, len(m.Peers)),
		listed: make([]table.Peer, len(m.Peers)), shares: make(map[mesh.Prefix]mesh.Share, len(m.Shares)),
	}
	addresses := 0
	for i := range m.Peers {
		f.listed[i] = before.entry(i, &m.Peers[i])
		addresses += len(m.Peers[i].Addresses)
	}
	f.names = before.indexes(f.listed)
	targets := make([]target, addresses) // of all peers: a piece of memory for each would cost more
	for i := range m.Peers {
		p := &m.Peers[i]
		f.tun[i] = tunAddresses{p.TUNAddress(false), p.TUNAddress(true)}
		f.probes[i] = tunAddresses{p.ForwardedProbe(false), p.ForwardedProbe(true)}
		if p.Name != m.Self {
			n := len(p.Addresses)
			f.peers[i].become(&w, p.Addresses, targets[:n:n], u.knows(p.Name))
			targets = targets[n:]
			continue
		}
		f.self, f.own = int32(i), f.tun[i]
		f.home4, f.home6 = p.FirstSubnet(false), p.FirstSubnet(true)
		f.source = sources(w.Binds, *p)
	}
	if f.self == table.None {
		return nil, fmt.Errorf("set mesh: no node is named %q", m.Self)
	}
	shares, err := f.shareAll(m.Shares)
	if err != nil {
		return nil, fmt.Errorf("set mesh: %w", err)
	}
	if f.table, err = table.After(before.table, before.listed, f.listed, shares); err != nil {
		return nil, fmt.Errorf("set mesh: %w", err)
	}
	for prefix := range f.shares {
		f.carry(prefix, u.carries[prefix])
	}
	u.mesh.Store(f)
	return f, nil
}

// entry returns what a table is to know of a peer: what the one before knew at the same index, if that is
// it. Of thousands of peers, nearly all stay as they are, and memory for them is what an edit costs most.
func (f *forwarding) entry(index int, p *mesh.Peer) table.Peer {
	if index < len(f.listed) {
		old, n := f.listed[index], len(p.Subnets)
		same := func(a netip.Addr, e mesh.Endpoint) bool { return a == e.Addr() }
		if old.Name == p.Name && len(old.Prefixes) == n+len(p.Routes) &&
			slices.Equal(old.Prefixes[:n], p.Subnets) && slices.Equal(old.Prefixes[n:], p.Routes) &&
			slices.EqualFunc(old.Addresses, p.Addresses, same) {
			return old
		}
	}
	e := table.Peer{Name: p.Name, Prefixes: slices.Concat(p.Subnets, p.Routes)}
	for _, a := range p.Addresses {
		e.Addresses = append(e.Addresses, a.Addr())
	}
	return e
}

// indexes returns the index of each of some peers by its name: those from before, which are never changed, if
// no name differs.
func (f *forwarding) indexes(listed []table.Peer) map[string]int32 {
	same := func(a, b table.Peer) bool { return a.Name == b.Name }
	if f.names != nil && slices.EqualFunc(f.listed, listed, same) {
		return f.names
	}
	names := make(map[string]int32, len(listed))
	for i := range listed {
		names[listed[i].Name] = int32(i)
	}
	return names
}

// sources returns the addresses of this node from which datagrams leave, by the index of its binds. For
// an unspecified one that is the first of its family that the mesh lists.
func sources(binds []netip.AddrPort, self mesh.Peer) []netip.AddrPort {
	all := slices.Clone(binds)
	for i, bind := range binds {
		same := func(e mesh.Endpoint) bool { return e.Addr().Is4() == bind.Addr().Is4() }
		if at := slices.IndexFunc(self.Addresses, same); at >= 0 && bind.Addr().IsUnspecified() {
			all[i] = netip.AddrPortFrom(self.Addresses[at].Addr(), bind.Port())
		}
	}
	return all
}

// become makes an entry that of a peer with some addresses. targets has room for one each.
func (p *peer) become(w *dataplane.Wanted, addresses []mesh.Endpoint, targets []target, k *known) {
	p.known, p.targets = k, targets
	for i, a := range addresses {
		t := &p.targets[i]
		*t = target{known: k, addr: a.AddrPort, from: nowhere, header: a.OuterHeaders()}
		if bind, ok := w.From(a.Addr()); ok {
			t.from = bind
		}
	}
	p.choose(k.via)
}

// choose makes the target with an address the active one, as dataplane.Wanted.To says. A peer that
// nothing can be sent to has a target that is nowhere.
func (p *peer) choose(via netip.AddrPort) {
	next := p.target(via)
	if next == nil || next.from == nowhere {
		can := func(t target) bool { return t.from != nowhere }
		if i := slices.IndexFunc(p.targets, can); i >= 0 {
			next = &p.targets[i]
		} else {
			next = &target{known: p.known, from: nowhere}
		}
	}
	p.active.Store(next)
}

// target returns that of an address; nil if the peer does not have it.
func (p *peer) target(addr netip.AddrPort) *target {
	for i := range p.targets {
		if p.targets[i].addr == addr {
			return &p.targets[i]
		}
	}
	return nil
}

// source returns the target that a datagram came from, which may have left from any port; nil if the
// peer does not have the address.
func (p *peer) source(from netip.AddrPort) *target {
	if exactly := p.target(from); exactly != nil {
		return exactly
	}
	for i := range p.targets {
		if p.targets[i].addr.Addr() == from.Addr() {
			return &p.targets[i]
		}
	}
	return nil
}

// shareAll returns the shares of a mesh as the table takes them, and notes them in f.
func (f *forwarding) shareAll(shares []mesh.Share) (all []table.Share, err error) {
	for _, s := range shares {
		one := table.Share{Prefix: s.Prefix}
		for _, c := range s.Carriers {
			i, ok := f.names[c.Peer]
			if !ok {
				return nil, fmt.Errorf("share prefix %s: no node is named %q", s.Prefix, c.Peer)
			}
			one.Peers = append(one.Peers, i)
		}
		if len(one.Peers) == 0 {
			return nil, fmt.Errorf("share prefix %s: no node carries it", s.Prefix)
		}
		all, f.shares[s.Prefix] = append(all, one), s
	}
	return all, nil
}

// carry has a peer carry a shared prefix. If the peer cannot, or nothing was said, this node itself does
// if it is among the carriers, or else the first of them.
func (f *forwarding) carry(prefix mesh.Prefix, peer string) {
	share, shared := f.shares[prefix]
	if !shared {
		return
	}
	if i, listed := f.names[peer]; listed && f.table.Carry(prefix, i) {
		return
	}
	if !f.table.Carry(prefix, f.self) {
		f.table.Carry(prefix, f.names[share.Carriers[0].Peer])
	}
}

// isOwn tells whether an address is behind this node. Nearly all that send are in its first
// subnet, which costs less to find out than a lookup.
func (f *forwarding) isOwn(src netip.Addr) bool {
	home := &f.home4
	if !src.Is4() {
		home = &f.home6
	}
	return home.Contains(src) || f.table.Find(src) == f.self || f.table.Owns(src, f.self)
}

// Learn implements dataplane.Engine. The user engine completes every checksum by itself.
func (u *Engine) Learn(peer string, d peers.Directive) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	k := u.knows(peer)
	k.mtu.Store(int64(d.MTU))
	k.lagging.Store(d.Lagging)
	if k.via == d.Via {
		return nil
	}
	k.via = d.Via
	f := u.mesh.Load()
	if i, listed := f.names[peer]; listed && i != f.self {
		f.peers[i].choose(d.Via)
	}
	return nil
}

// Carry implements dataplane.Engine.
func (u *Engine) Carry(prefix mesh.Prefix, peer string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.carries[prefix] = peer
	u.mesh.Load().carry(prefix, peer)
	return nil
}
