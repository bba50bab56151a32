package health

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"example.org/meshd/internal/mesh"
)

// A Standing is what is known of a peer besides its troubles.
type Standing struct {
	Fails      bool           // probes ask it and do not reach it
	Maintained bool           // it has announced a maintenance, which is not over
	Via        netip.AddrPort // to which of its addresses packets go; the zero value: it has one, or not known
}

// suspect is a peer with trouble.
type suspect struct {
	name string
	at   netip.AddrPort // where it listens
	Standing
	mesh.Trouble
}

// OfTroubles says why datagrams do not reach the peers of a mesh. standing tells what is known of a peer.
//
// Errors about an address that no packets go to are left out: the address that does not answer is told of
// by itself. What this host refuses to send to a peer in maintenance is no alarm; what ICMP errors say of it
// is
// left out, since it was announced.
//
// This host's own refusals cannot be forged, so they count whatever probes say, from the second in a row:
// one alone may be a firewall that loads its rules. Whoever knows two addresses can forge an ICMP error, so
// it only explains why probes fail. Neither counts for longer than mesh.TroubleLasts after the last one.
func OfTroubles(m mesh.Mesh, troubles map[string]mesh.Trouble, standing func(peer string) Standing,
	now time.Time) (all []mesh.Condition) {
	self, _ := m.Peer(m.Self)
	for peer := range m.Others() {
		trouble, some := troubles[peer.Name]
		if !some {
			continue
		}
		s := suspect{peer.Name, peer.Underlay().AddrPort, standing(peer.Name), trouble}
		if c, ok := ofRefusal(s.about(trouble.Refused.Address), now); ok {
			if s.Maintained {
				c.Severity = mesh.Info
			}
			all = append(all, c)
		}
		if c, ok := ofReport(s.about(trouble.Reported.Address), self.Addresses, now); ok && !s.Maintained {
			all = append(all, c)
		}
	}
	return all
}

// about returns the suspect as it listens at the address that an error is about; without a trouble if no
// packets go there.
func (s suspect) about(address netip.AddrPort) suspect {
	switch {
	case !address.IsValid():
	case s.Via.IsValid() && s.Via != address:
		s.Trouble = mesh.Trouble{}
	default:
		s.at = address
	}
	return s
}

// Numbers of errors that have a remedy of their own (errno(3), the same on every Linux that meshd is built
// for). A pure room cannot take them from a package that makes system calls.
const (
	errPermission      = 1   // EPERM: a firewall on the way out
	errAccess          = 13  // EACCES: a route of type prohibit
	errNetDown         = 100 // ENETDOWN
	errNetUnreachable  = 101 // ENETUNREACH
	errNoBuffers       = 105 // ENOBUFS: a full queue of the device, or a full neighbour table
	errHostUnreachable = 113 // EHOSTUNREACH: a route of type unreachable
)

// refusalForgiven is how long after the last refusal a peer that answers again is well: its probes, of
// which there is one every few seconds, would have been refused otherwise.
const refusalForgiven = 10 * time.Second

// ofRefusal says that this host does not send to a peer. A full queue of the device is no trouble of its
// own: any pod can fill it, and whoever sends slows down. It is one where no probe passes, either.
func ofRefusal(s suspect, now time.Time) (c mesh.Condition, ok bool) {
	r := s.Refused
	if r.Last.IsZero() || now.Sub(r.Last) > mesh.TroubleLasts {
		return c, false
	}
	if !s.Fails && (r.InARow < 2 || r.Errno == errNoBuffers) {
		return c, false
	}
	if !s.Fails && now.Sub(r.Last) > refusalForgiven {
		return c, false
	}
	c = mesh.Condition{Kind: mesh.SendRefused, Severity: mesh.Degraded, Peer: s.name,
		Cause: r.Cause}
	switch r.Errno {
	case errPermission:
		c.Remedy = fmt.Sprintf("find the rule that drops UDP port %d on its way out, such as one in OUTPUT: "+
			"`nft list ruleset`, `iptables -S OUTPUT`, `ip xfrm policy`", s.at.Port())
	case errAccess, errNetDown, errNetUnreachable, errHostUnreachable:
		c.Remedy = fmt.Sprintf("correct the route: `ip route get %s` shows it", s.at.Addr())
	case errNoBuffers:
		c.Remedy = "look for a full queue of the device: `tc -s qdisc`; or a full neighbour table: `ip -s neigh`"
	}
	return c, true
}

// ofReport says what ICMP errors say about a peer that probes do not reach.
func ofReport(s suspect, self []mesh.Endpoint, now time.Time) (c mesh.Condition, ok bool) {
	r := s.Reported
	if !s.Fails || r.Last.IsZero() || now.Sub(r.Last) > mesh.TroubleLasts {
		return c, false
	}
	who, address, port := "a router", s.at.Addr(), s.at.Port()
	if r.Offender.IsValid() {
		who = r.Offender.String()
	}
	c = mesh.Condition{Severity: mesh.Degraded, Peer: s.name, Subject: who}
	switch r.Means {
	case mesh.PortClosed:
		c.Kind = mesh.PeerPortClosed
		c.Cause = fmt.Sprintf("%s says that no program listens on port %d", who, port)
		c.Remedy = fmt.Sprintf("start meshd on %s; if it runs, compare `port` in the files of both hosts, "+
			"and look for a firewall there that rejects UDP port %d", s.name, port)
	case mesh.HostUnreachable:
		c.Kind, c.Cause = mesh.PeerUnknown, fmt.Sprintf("%s says that %s is unreachable", who, address)
		c.Remedy = fmt.Sprintf("check that %s runs and has the address %s, and the routes of %s",
			s.name, address, who)
		own := func(e mesh.Endpoint) bool { return e.Addr() == r.Offender }
		if slices.ContainsFunc(self, own) { // the kernel sends the error to itself (ipv4_link_failure)
			c.Kind = mesh.NoNeighbour
			c.Cause = fmt.Sprintf("this host asked for %s, or for the router to it", address)
			c.Remedy = fmt.Sprintf("check that %s runs and that its cable or its network is up: "+
				"`ip route get %s` shows on which link this host asks", s.name, address)
		}
	case mesh.Prohibited:
		c.Kind, c.Cause = mesh.PeerForbidden, fmt.Sprintf("%s says that a firewall forbids it", who)
		c.Remedy = fmt.Sprintf("allow UDP port %d in the firewall of %s", port, who)
	case mesh.RoutingLoop:
		c.Kind = mesh.PeerLoop
		c.Cause = fmt.Sprintf("%s says that the TTL of datagrams to %s ran out", who, address)
		c.Remedy = fmt.Sprintf("correct the routes between here and %s: `traceroute %s` shows the loop",
			address, address)
	default:
		return c, false
	}
	return c, true
}

// OfStrangers tells which addresses send to this node although no node of the file has them: one of
// them may be a node that is missing in the file. Anybody can send, so this is never more than a hint.
func OfStrangers(strangers []mesh.Stranger, now time.Time) []mesh.Condition {
	packets := map[netip.Addr]uint64{}
	for _, s := range strangers {
		if s.Reason == mesh.UnknownSender && now.Sub(s.Last) <= mesh.TroubleLasts {
			packets[s.Address] += s.Packets
		}
	}
	if len(packets) == 0 {
		return nil
	}
	var causes []string
	for _, address := range slices.SortedFunc(maps.Keys(packets), netip.Addr.Compare) {
		causes = append(causes, fmt.Sprintf("%d packets from %s", packets[address], address))
	}
	return []mesh.Condition{{Kind: mesh.UnknownSenders, Severity: mesh.Info, Cause: strings.Join(causes, ", "),
		Remedy: "if it is a node: add it to the file, or have it send from the address that the file has"}}
}
