// Package dataplane moves packets between this host's TUN and the other nodes.
//
//	inner, overlay    a pod's own packet and its addresses
//	outer, underlay   the UDP datagram that carries it between hosts
//	peer              another node of the mesh
//	out               TUN -> is its source ours? -> look up -> TTL -> wire
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
	"time"

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
	// LastSeen returns when the last acceptable packet came from a peer; the zero
	// time if none did. It costs little, unlike Counters.
	LastSeen(peer string) time.Time
	// SendEcho sends echoes, with as few calls as it can. The error is about those
	// that could not be sent; EMSGSIZE means larger than the path. Echoes are not
	// traffic: they are in no counter.
	SendEcho(es ...Echo) error
	// Alive asks every packet loop for a sign of life, and returns nil once all
	// have given it. If ctx ends before, the error names the loop that hangs; one
	// that has ended by itself is an error too.
	Alive(ctx context.Context) error
	// Info describes how this engine works here.
	Info() Info
	// Stop ends all packet loops, once they have forwarded what they have read.
	// Sockets, queues and the TUN device stay as they are.
	Stop() error
}

// A Loop is one endless piece of packet work.
type Loop interface {
	// Run works until the engine has no more use for it, then returns nil. It
	// returns an error when it cannot go on, for instance because the TUN was
	// deleted.
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
	Subnets  []netip.Prefix // the first of each family gives its TUN the address; no other peer has a prefix inside
	Routes   []netip.Prefix // further prefixes behind it
}

// TUNAddress returns the node's TUN address of one family: the network address
// of its first subnet of that family. It is invalid if there is none.
func (p Peer) TUNAddress(v6 bool) netip.Addr { return p.firstSubnet(v6).Addr() }

// firstSubnet returns the first subnet of one family; an invalid one if there is none.
func (p Peer) firstSubnet(v6 bool) netip.Prefix {
	for _, s := range p.Subnets {
		if s.Addr().Is6() == v6 {
			return s
		}
	}
	return netip.Prefix{}
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
	Calls  map[CallKind]Calls
}

// Info is how an engine works on this host.
type Info struct {
	Engine   string            // "user", "kernel"
	Reason   string            // why the user engine, or tcx where XDP was asked for, in words
	Captured bool              // kernel engine: user space sends while somebody captures on the TUN
	Unpinned string            // kernel engine: why packets stop when meshd ends; empty if they do not
	Unmerged string            // kernel engine: why TCP comes to pods packet by packet; empty if it does not
	Handed   map[string]uint64 // kernel engine: packets or superpackets left to user space, by reason
	Receive  string            // "socket"
	Offloads []string          // in use now
	Refused  []string          // offloads that were in use until the kernel or a device refused
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

// A Worker is one queue of the TUN and one socket, with what the loops between
// them read and write through.
type Worker struct {
	Tun      Tun
	Wire     Wire
	Receiver Receiver
	Sender   Sender
	Replies  Sender // for echoes, answered by the loop from the wire
	Echoes   Sender // for echoes of our own
}

// Tun is one queue of the TUN device. One goroutine reads while others write.
// Memory belongs to the caller; the queue keeps nothing after it returns. A frame
// is a packet behind its virtio.Header.
type Tun interface {
	// Read waits for at least one frame from the kernel and stores as many as
	// are there and fit into memory, and into frames. After Wake it returns
	// os.ErrDeadlineExceeded once, without waiting, with what was there.
	Read(memory []byte, frames [][]byte) (int, error)
	// Writer returns a function for one goroutine that delivers a frame, given
	// in parts.
	Writer() func(parts [][]byte) error
	// Offloads returns which of tso4, tso6 and uso are in use: the frames read
	// may then be superpackets, and those written too.
	Offloads() []string
	// Wake ends the Read in progress, or the next one.
	Wake() error
}

// Wire is one socket towards the other nodes.
type Wire interface {
	// PathMTU returns the MTU in bytes of the way to a peer, outer headers
	// included, as the kernel knows it now.
	PathMTU(to netip.AddrPort) (int, error)
	// Offloads returns which of udp_gso and udp_gro are in use: a burst may
	// then be more than one packet, and a datagram too.
	Offloads() []string
	// Wake ends the Read in progress of its Receiver, or the next one.
	Wake() error
}

// Receiver reads datagrams from the wire, for one goroutine.
type Receiver interface {
	// Read waits for at least one datagram and fills ds, each Data within its
	// own Buf. After Wake of the Wire it returns os.ErrDeadlineExceeded once,
	// without waiting, with what was there.
	Read(ds []packet.Datagram) (int, error)
}

// Sender writes datagrams to the wire, for one goroutine.
type Sender interface {
	// Write sends the bursts in order and never waits. It returns how many were
	// sent; the error is about the next one, of which nothing was sent:
	// EMSGSIZE if its packets are larger than the path, EIO or EINVAL if the
	// kernel or a device cannot send several at once.
	Write(bs []packet.Burst) (int, error)
	// WriteFragmented sends a burst of one packet in as many pieces as its path
	// needs. It costs more than Write, and never waits either.
	WriteFragmented(b *packet.Burst) error
}
