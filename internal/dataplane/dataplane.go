// Package dataplane moves packets between this host's TUN and the other nodes.
//
//	inner, overlay    a pod's own packet and its addresses
//	outer, underlay   the UDP datagram that carries it between hosts
//	peer              another node of the mesh
//	out               TUN -> look up -> TTL -> wire
//	in                wire -> who sent it, may he -> TTL -> TUN
//
// The wire format is that of flannel's udp backend: the payload of a datagram
// is exactly one bare IP packet. Engines differ in how packets move; whoever
// uses an Engine cannot tell.
package dataplane

import (
	"context"
	"fmt"
	"net/netip"

	"example.org/meshd/internal/dataplane/packet"
)

// An Engine forwards packets. Its methods may be called at any time from any
// goroutine.
type Engine interface {
	// SetMesh replaces all that the engine knows of the mesh at one packet
	// boundary. Counters of peers whose name stays are kept. The engine takes
	// over the Mesh; on error the old one stays in force.
	SetMesh(Mesh) error
	// Route tells who carries packets to an overlay address.
	Route(dst netip.Addr) Route
	// Counters returns one reading of everything counted.
	Counters() Counters
	// Loops returns the packet loops. The owner runs each in a goroutine; they
	// end when the engine is closed.
	Loops() []Loop
	// Info describes how this engine works here.
	Info() Info
	// Close ends the loops. The TUN device stays.
	Close() error
}

// A Loop is one endless piece of packet work.
type Loop interface {
	// Run works until the engine is closed, then returns nil. It returns an
	// error when it cannot go on, for instance because the TUN was deleted.
	Run(ctx context.Context) error
	fmt.Stringer
}

// A Mesh is what an engine needs to know to forward packets.
type Mesh struct {
	Self  string // the peer that is this node
	Peers []Peer // all nodes, this one included
}

// A Peer is one node of the mesh.
type Peer struct {
	Name     string
	Underlay netip.AddrPort // where its meshd listens; IPv4 never mapped
	Subnets  []netip.Prefix // the first of each family gives its TUN the address
	Routes   []netip.Prefix // further prefixes behind it
}

// TUNAddress returns the node's TUN address of one family: the network address
// of its first subnet of that family. It is invalid if there is none.
func (p Peer) TUNAddress(v6 bool) netip.Addr {
	for _, s := range p.Subnets {
		if s.Addr().Is6() == v6 {
			return s.Addr()
		}
	}
	return netip.Addr{}
}

// A Route is the answer to "who carries packets to this address?".
type Route struct {
	Peer   string       // name of the node; empty if nobody
	Prefix netip.Prefix // the subnet or route that matched
	Self   bool         // this node itself has the address
}

// Counters is one reading. Totals also hold what belongs to no peer and what
// belonged to peers that are gone.
type Counters struct {
	Totals Traffic
	Peers  map[string]Traffic // by name, this node not included
}

// Info is how an engine works on this host.
type Info struct {
	Engine   string   // "user"
	Receive  string   // "socket"
	Offloads []string // in use
	Queues   int
}

// OuterHeaders returns the size in bytes of what the wire puts around a packet:
// IP header without options and UDP header.
func OuterHeaders(underlay netip.Addr) int {
	if underlay.Is4() {
		return 20 + 8
	}
	return 40 + 8
}

// Tun is one queue of the TUN device. One goroutine reads while others write.
// Packets belong to the caller; the queue keeps nothing after it returns.
type Tun interface {
	// Read waits for at least one packet from the kernel and fills ps, each
	// Data within its own Buf. After Close it returns os.ErrClosed.
	Read(ps []packet.Packet) (int, error)
	// Write delivers the packets in order and returns how many the kernel
	// took; the error is about the next one.
	Write(ps []packet.Packet) (int, error)
	// WriteOne delivers a single packet.
	WriteOne(b []byte) error
	// Close wakes Read.
	Close() error
}

// Wire is the socket towards the other nodes.
type Wire interface {
	// PathMTU returns the MTU in bytes of the way to a peer, outer headers
	// included, as the kernel knows it now.
	PathMTU(to netip.AddrPort) (int, error)
	// Close wakes every Receiver.
	Close() error
}

// Receiver reads datagrams from the wire, for one goroutine.
type Receiver interface {
	// Read waits for at least one datagram and fills ps: Data within its own
	// Buf, Addr the sender, TOS that of the outer header. After Close of the
	// Wire it returns net.ErrClosed.
	Read(ps []packet.Packet) (int, error)
}

// Sender writes datagrams to the wire, for one goroutine.
type Sender interface {
	// Write sends each Data to its Addr with its TOS, in order, and never
	// waits. It returns how many were sent; the error is about the next one,
	// EMSGSIZE if it is larger than the path.
	Write(ps []packet.Packet) (int, error)
	// WriteFragmented sends one packet in as many pieces as its path needs. It
	// costs more than Write, and never waits either.
	WriteFragmented(p *packet.Packet) error
}
