package mesh

import (
	"net/netip"
	"time"
)

// Trouble is why datagrams do not reach a peer, as far as this host and the network have said. Its
// counters only grow, from the start of the engine.
type Trouble struct {
	Refused  Refusal   // the last datagram to the peer that this host did not send
	Reported PathError // the last ICMP error about a datagram to the peer
}

// TroubleLasts is how long after its last sign a trouble counts as one of now.
const TroubleLasts = 30 * time.Second

// A Refusal is an error of this host's own when it sent to a peer. Nobody else can cause or forge it.
type Refusal struct {
	Address netip.AddrPort // of the peer, where the last one was to go
	Errno   uint32         // of Linux, such as EPERM for a firewall; errno(3)
	Cause   string         // the same in words
	Count   uint64         // datagrams so far
	InARow  uint64         // datagrams, none of them longer than TroubleLasts after the one before
	Last    time.Time      // zero: there was none
}

// A PathError is what an ICMP error says about datagrams to a peer. Anybody who knows both addresses can
// forge it: it explains what probes have found out, and proves nothing.
type PathError struct {
	Address  netip.AddrPort // of the peer, to which the last datagram was on its way
	Means    PathMeaning
	Offender netip.Addr // who says so; invalid if the kernel does not tell
	Count    uint64     // ICMP errors so far, whatever they mean
	Last     time.Time  // zero: there was none
}

// A PathMeaning is what an ICMP error says about the way to a peer.
type PathMeaning uint8

// The meanings.
const (
	OtherError      PathMeaning = iota // something else, which says nothing about reachability
	PortClosed                         // no program listens on the port
	HostUnreachable                    // no route to the host, or it does not answer its neighbours
	Prohibited                         // a firewall refuses
	RoutingLoop                        // the TTL ran out
	TooLarge                           // a router cannot pass datagrams of this size on
)

// MeaningOf returns what the type and the code of an ICMP error mean, or of an ICMPv6 error if v6
// (RFC 792, RFC 1812 section 5.2.7.1, RFC 4443 section 3).
func MeaningOf(kind, code uint8, v6 bool) PathMeaning {
	const unreachable4, exceeded4, unreachable6, tooBig6, exceeded6 = 3, 11, 1, 2, 3
	switch {
	case v6 && kind == tooBig6, !v6 && kind == unreachable4 && code == 4:
		return TooLarge
	case v6 && kind == exceeded6, !v6 && kind == exceeded4:
		return RoutingLoop
	case v6 && kind == unreachable6:
		switch code {
		case 0, 2, 3: // no route, beyond the scope of the source, address unreachable
			return HostUnreachable
		case 1, 5, 6: // prohibited, source address failed policy, reject route
			return Prohibited
		case 4:
			return PortClosed
		}
	case !v6 && kind == unreachable4:
		switch code {
		case 0, 1, 5, 6, 7, 8, 11, 12: // net, host, source route; unknown, isolated, for this TOS
			return HostUnreachable
		case 3:
			return PortClosed
		case 2, 9, 10, 13: // protocol, net, host, communication prohibited
			return Prohibited
		}
	}
	return OtherError
}

// A Stranger is who sent packets that this node does not accept. All of it is as the packets say, so all
// of it may be forged.
type Stranger struct {
	Address          netip.Addr // outer source
	Reason           Drop       // UnknownSender, SpoofedSource or WrongDestination
	Peer             string     // the node that has the outer source; empty for UnknownSender
	InnerSource      netip.Addr // of the last packet; invalid if that was no IP packet
	InnerDestination netip.Addr
	Packets          uint64    // since the stranger is remembered
	Last             time.Time // when the last packet came
}
