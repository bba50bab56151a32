package dataplane

import (
	"time"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/mesh"
)

// An Echo is an ICMP echo between this node's TUN address and a peer's, of the
// first family that both have, IPv4 before IPv6. It takes the way of all packets,
// so any host that is joined answers it, with meshd or without.
type Echo struct {
	Peer    string
	Reply   bool
	ID, Seq uint16
	Payload []byte
}

// An EchoHandler is asked about echoes from peers to this node, by the packet loops:
// it must not wait. If mine is false, the host's kernel gets the packet. A reply,
// which may be the payload itself, changed, is sent back; nil: none is.
type EchoHandler func(e Echo, at time.Time) (reply []byte, mine bool)

// EchoHeaders returns how many bytes an Echo of a node is larger than its payload.
func EchoHeaders(self mesh.Peer) int { return packet.EchoHeaders(!self.TUNAddress(false).IsValid()) }
