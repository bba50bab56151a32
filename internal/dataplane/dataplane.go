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
	"net/netip"
	"time"

	"example.org/meshd/internal/mesh"
)

// An Engine forwards packets. Its methods may be called at any time from any
// goroutine.
type Engine interface {
	// SetMesh replaces all that the engine knows of the mesh at one packet
	// boundary. Counters of peers whose name stays are kept. The engine takes
	// over the Mesh; on error the old one stays in force.
	SetMesh(mesh.Mesh) error
	// Route tells who carries packets to an overlay address.
	Route(dst netip.Addr) mesh.Route
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

// Counters is one reading. Totals also hold what belongs to no peer and what
// belonged to peers that are gone.
type Counters struct {
	Totals mesh.Traffic
	Peers  map[string]mesh.Traffic // by name, this node not included
	Calls  map[mesh.CallKind]mesh.Calls
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
