package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/mesh"
)

// An Echo is an ICMP echo between this node's TUN address and a peer's, of the first family that both
// have, IPv4 before IPv6. Any host that is joined answers it, with meshd or without. Further fields
// make it leave in the form of pods' packets.
type Echo struct {
	Peer    string
	Reply   bool
	ID, Seq uint16
	Payload []byte
	// Via is the address of the peer: of one that is sent, where to, the zero value being where packets
	// go; of one that came in, where from, with the port at which the peer listens.
	Via netip.AddrPort

	DSCP       uint8 // of the outer header, 0 to 63 (RFC 2474)
	NoChecksum bool  // without a UDP checksum, as programs send
	Spread     bool  // from a source port of its own, as packets leave with dataplane.spread
	Forwarded  bool  // to the peer's mesh.Peer.ForwardedProbe instead of its TUN address
}

// Leaving is how pods' packets leave, as far as it differs from how an Echo does.
type Leaving struct {
	NoChecksum bool   // programs send them: the outer UDP header has no checksum
	DSCP       uint64 // bit n is set if a packet with DSCP value n has left since the last call
}

// ErrSealed is that of an Echo for an engine whose packets travel encrypted (Wanted.Sealed): none leaves.
var ErrSealed = errors.New("send echo: packets travel encrypted, by another interface")

// An EchoError is why one Echo could not be sent. Err is what the socket said, or why none was asked.
type EchoError struct {
	Peer  string
	Index int // among those of the call
	Err   error
}

// Error implements error.
func (e *EchoError) Error() string { return fmt.Sprintf("send echo to %q: %v", e.Peer, e.Err) }

// Unwrap is for errors.Is.
func (e *EchoError) Unwrap() error { return e.Err }

// Refused returns the peers that an error of SendEcho says this host forbids to send to (EPERM): a
// rule in OUTPUT or POSTROUTING, or an IPsec policy.
func Refused(err error) (names []string) {
	all, _ := echoErrors(err)
	for _, one := range all {
		if errors.Is(one.Err, unix.EPERM) {
			names = append(names, one.Peer)
		}
	}
	return names
}

// Unsent returns which of n Echoes an error of SendEcho is about, by their index: all of them if it is about
// none in particular.
func Unsent(err error, n int) (indexes []int) {
	all, others := echoErrors(err)
	if others {
		for i := range n {
			indexes = append(indexes, i)
		}
		return indexes
	}
	for _, one := range all {
		indexes = append(indexes, one.Index)
	}
	return indexes
}

// EchoErrors returns an error of SendEcho as one about each of the Echoes that it is about: all of them if it
// is about none in particular.
func EchoErrors(err error, of []Echo) []*EchoError {
	all, others := echoErrors(err)
	if !others {
		return all
	}
	all = nil
	for i := range of {
		all = append(all, &EchoError{Peer: of[i].Peer, Index: i, Err: err})
	}
	return all
}

// echoErrors returns the errors about one Echo each that an error consists of; others tells that it is
// about something else, too.
func echoErrors(err error) (all []*EchoError, others bool) {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range several.Unwrap() {
			more, other := echoErrors(one)
			all, others = append(all, more...), others || other
		}
		return all, others
	}
	var one *EchoError
	if errors.As(err, &one) {
		return []*EchoError{one}, false
	}
	return nil, err != nil
}

// An EchoHandler is asked about echoes from peers to this node, by the packet loops:
// it must not wait. If mine is false, the host's kernel gets the packet. A reply,
// which may be the payload itself, changed, is sent back; nil: none is.
type EchoHandler func(e Echo, at time.Time) (reply []byte, mine bool)

// EchoHeaders returns how many bytes an Echo of a node is larger than its payload.
func EchoHeaders(self mesh.Peer) int { return packet.EchoHeaders(!self.TUNAddress(false).IsValid()) }

// EchoHeadersTo returns how many bytes an Echo between two nodes is larger than its payload.
func EchoHeadersTo(self, peer mesh.Peer) int {
	return packet.EchoHeaders(!self.TUNAddress(false).IsValid() || !peer.TUNAddress(false).IsValid())
}
