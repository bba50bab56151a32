// Package mesh holds the words that every room shares. It is pure: it does no I/O, keeps no
// state and imports no other room.
//
//	node       a host of the mesh, as one [[node]] of the file names it
//	peer       a node, seen from this host; Self is the peer that is this host
//	underlay   the network between the hosts; an Endpoint is a place in it
//	overlay    the pods' network; a Prefix is a part of it
//	traffic    what was counted, and a Drop is why a packet went no further
//	condition  something that an operator has to know: a kind, a severity, a subject, a remedy
//	change     one difference between two states of the mesh
//
// Conditions and changes are values. Sentences are made from them at the edges, and no code
// reads a meaning out of a sentence.
package mesh

import (
	"iter"
	"net/netip"
	"slices"
)

// A Mesh is what an engine needs to know to forward packets.
type Mesh struct {
	Self   string  // name of the peer that is this node
	Peers  []Peer  // all nodes, this one included
	Shares []Share // prefixes behind several of them
}

// An Endpoint is a place in the underlay where the meshd of a node listens. It is comparable.
// An IPv4 address is never mapped into IPv6.
type Endpoint struct{ netip.AddrPort }

// OuterHeaders returns the size in bytes of what the wire puts around a packet that is sent to
// this endpoint: an IP header without options and a UDP header.
func (e Endpoint) OuterHeaders() int {
	const ipv4, ipv6, udp = 20, 40, 8 // RFC 791 section 3.1, RFC 8200 section 3, RFC 768
	if e.Addr().Is4() {
		return ipv4 + udp
	}
	return ipv6 + udp
}

// A Prefix is a range of overlay addresses, or of addresses behind a node, without host bits.
type Prefix = netip.Prefix

// A Peer is one node of the mesh.
type Peer struct {
	Name string
	// Addresses are where its meshd listens, in order of preference. Datagrams may come from each of
	// them. There are none while its names are not resolved.
	Addresses []Endpoint
	Subnets   []Prefix // the first of each family gives its TUN the address; no other peer has a prefix inside
	Routes    []Prefix // further prefixes behind it; those of Mesh.Shares are behind other peers, too
	Key       Key      // its public key; the zero value: the file lists none
	Next      Key      // the key that it is about to take, or has taken; the zero value: it keeps its key
}

// HasKey tells whether a key, which is valid, is one of the peer's.
func (p Peer) HasKey(k Key) bool {
	return p.Key.IsValid() && p.Key.Same(k) || p.Next.IsValid() && p.Next.Same(k)
}

// Underlay returns the address that the peer prefers; the zero value without one.
func (p Peer) Underlay() Endpoint {
	if len(p.Addresses) == 0 {
		return Endpoint{}
	}
	return p.Addresses[0]
}

// A Share is a prefix behind several peers. One of them carries its packets at a time; packets may come
// from all of them.
type Share struct {
	Prefix   Prefix
	Carriers []Carrier // in order of preference: by metric, then as in the file; two at least
}

// Has tells whether a peer is one of the carriers.
func (s Share) Has(peer string) bool {
	return slices.ContainsFunc(s.Carriers, func(c Carrier) bool { return c.Peer == peer })
}

// A Carrier is a peer with a shared prefix.
type Carrier struct {
	Peer   string
	Metric int // the lowest of those that are up is preferred
}

// TUNAddress returns the node's TUN address of one family: the network address of its first
// subnet of that family. It is invalid if the node has no subnet of the family.
func (p Peer) TUNAddress(v6 bool) netip.Addr { return p.FirstSubnet(v6).Addr() }

// ForwardedProbe returns the address of one family to which probes are sent that the node has to
// forward, as it forwards packets to its pods. The node takes them behind its firewall, so no pod gets
// one. It is the last address of the first subnet; of IPv4 the one before the broadcast address, which
// a bridge has a local route for. It is invalid if the subnet has no such address besides the TUN's.
func (p Peer) ForwardedProbe(v6 bool) netip.Addr {
	s := p.FirstSubnet(v6)
	if !s.IsValid() || s.IsSingleIP() {
		return netip.Addr{}
	}
	last, bits := s.Addr().As16(), 128-s.Addr().BitLen()+s.Bits() // as an IPv4-mapped one, without memory
	for bit := bits; bit < 128; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	address := netip.AddrFrom16(last)
	if !v6 {
		address = address.Unmap()
	}
	if !v6 && s.Bits() < 31 { // RFC 3021: a /31 has no broadcast address
		address = address.Prev()
	}
	return address
}

// FirstSubnet returns the first subnet of one family, or an invalid prefix without one.
func (p Peer) FirstSubnet(v6 bool) Prefix {
	for _, s := range p.Subnets {
		if s.Addr().Is6() == v6 {
			return s
		}
	}
	return Prefix{}
}

// CanSpeakTo tells whether both peers have subnets of one family, so that packets between them
// exist.
func (p Peer) CanSpeakTo(q Peer) bool {
	for _, v6 := range []bool{false, true} {
		if p.FirstSubnet(v6).IsValid() && q.FirstSubnet(v6).IsValid() {
			return true
		}
	}
	return false
}

// Others goes through the peers without this node itself, in the order of the mesh.
func (m Mesh) Others() iter.Seq[Peer] {
	return func(yield func(Peer) bool) {
		for i := range m.Peers {
			if m.Peers[i].Name != m.Self && !yield(m.Peers[i]) {
				return
			}
		}
	}
}

// ByTUN returns the names of the other nodes by their TUN's addresses.
func (m Mesh) ByTUN() map[netip.Addr]string {
	names := make(map[netip.Addr]string, len(m.Peers))
	for p := range m.Others() {
		for _, v6 := range []bool{false, true} {
			if a := p.TUNAddress(v6); a.IsValid() {
				names[a] = p.Name
			}
		}
	}
	return names
}

// Peer returns the peer of a name; ok is false if the mesh has none.
func (m Mesh) Peer(name string) (peer Peer, ok bool) {
	for _, p := range m.Peers {
		if p.Name == name {
			return p, true
		}
	}
	return Peer{}, false
}

// Carriers returns the peers with a shared prefix.
func (m Mesh) Carriers() map[string]bool {
	all := map[string]bool{}
	for _, s := range m.Shares {
		for _, c := range s.Carriers {
			all[c.Peer] = true
		}
	}
	return all
}

// Behind returns the prefixes behind some peers, by the number that each peer has. A prefix that several of
// them share is there once, with their lowest number.
func (m Mesh) Behind(peers map[string]int) map[int][]Prefix {
	all := map[int][]Prefix{}
	if len(peers) == 0 {
		return all
	}
	shared := map[Prefix]bool{}
	for _, s := range m.Shares {
		shared[s.Prefix] = true
		lowest, some := 0, false
		for _, c := range s.Carriers {
			if n, ok := peers[c.Peer]; ok && c.Peer != m.Self && (!some || n < lowest) {
				lowest, some = n, true
			}
		}
		if some {
			all[lowest] = append(all[lowest], s.Prefix)
		}
	}
	for _, p := range m.Peers {
		n, ok := peers[p.Name]
		if !ok || p.Name == m.Self {
			continue
		}
		all[n] = append(all[n], p.Subnets...)
		for _, r := range p.Routes {
			if !shared[r] {
				all[n] = append(all[n], r)
			}
		}
	}
	return all
}

// A Route is the answer to "which peer carries packets to this address?".
type Route struct {
	Peer   string // name of the node; empty if no node does
	Prefix Prefix // the subnet or route that matched
	Self   bool   // this node itself has the address
}

// Route returns which node has the longest prefix that contains an address; of several with the same prefix
// this node itself, or else the one that is preferred while all are up. It looks at every prefix, so it is
// for questions of people, and the oracle of the packet path's tables.
func (m Mesh) Route(dst netip.Addr) (best Route) {
	dst = dst.Unmap()
	for _, p := range m.Peers {
		for _, list := range [][]Prefix{p.Subnets, p.Routes} {
			for _, prefix := range list {
				if prefix.Contains(dst) && (best.Peer == "" || prefix.Bits() > best.Prefix.Bits()) {
					best = Route{Peer: p.Name, Prefix: prefix, Self: p.Name == m.Self}
				}
			}
		}
	}
	for _, s := range m.Shares {
		if s.Prefix != best.Prefix {
			continue
		}
		best.Peer = s.Carriers[0].Peer
		if slices.ContainsFunc(s.Carriers, func(c Carrier) bool { return c.Peer == m.Self }) {
			best.Peer = m.Self
		}
		best.Self = best.Peer == m.Self
	}
	return best
}
