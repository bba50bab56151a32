package words

import (
	"net/netip"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/mesh"
)

// meanings are the words of the API for what ICMP errors say: those of the conditions that they lead to.
var meanings = map[mesh.PathMeaning]mesh.Kind{
	mesh.PortClosed: mesh.PeerPortClosed, mesh.HostUnreachable: mesh.PeerUnknown,
	mesh.Prohibited: mesh.PeerForbidden, mesh.RoutingLoop: mesh.PeerLoop,
}

// Troubles adds the last errors to what is told of a peer.
func Troubles(p *control.Peer, t mesh.Trouble) {
	if r := t.Refused; r.Count > 0 {
		p.SendError = &control.SendError{Error: r.Cause, Errno: int(r.Errno), Packets: r.Count,
			Last: r.Last.Round(time.Millisecond)}
	}
	if r := t.Reported; r.Count > 0 {
		p.ICMPError = &control.ICMPError{Means: string(meanings[r.Means]), From: addressOrNone(r.Offender),
			Packets: r.Count, Last: r.Last.Round(time.Millisecond)}
	}
}

// Strangers lists who sent what was not accepted, for the API, which has no list that is null.
func Strangers(strangers []mesh.Stranger) []control.Stranger {
	all := make([]control.Stranger, len(strangers))
	for i, s := range strangers {
		all[i] = control.Stranger{
			Address: s.Address.String(), Reason: s.Reason.String(), Peer: s.Peer,
			InnerSource: addressOrNone(s.InnerSource), InnerDestination: addressOrNone(s.InnerDestination),
			Packets: s.Packets, Last: s.Last.Round(time.Millisecond),
		}
	}
	return all
}

// addressOrNone writes an address; one that is not known is empty.
func addressOrNone(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
