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

// A Reach is what probes have found out about a peer. ICMP errors only explain it: whoever knows two
// addresses can forge one.
type Reach uint8

// What probes found out.
const (
	Unasked   Reach = iota // probes do not ask the peer, or nothing is known yet
	Answering              // it answers
	Failing                // it has not answered for some probes
)

// Suspect is a peer, as far as its trouble is explained by it.
type Suspect struct {
	Name     string
	Underlay netip.AddrPort
	Reach    Reach
	Trouble  mesh.Trouble
}

// OfTroubles says why datagrams do not reach peers. self is this node's address in the underlay.
//
// This host's own refusals cannot be forged, so they count whatever probes say, from the second in a row:
// one alone may be a firewall that loads its rules. An ICMP error counts only for a peer that probes do
// not reach, and never for longer than mesh.TroubleLasts after the last one.
func OfTroubles(suspects []Suspect, self netip.Addr, now time.Time) []mesh.Condition {
	var all []mesh.Condition
	for _, s := range suspects {
		if c, ok := ofRefusal(s, now); ok {
			all = append(all, c)
		}
		if c, ok := ofReport(s, self, now); ok {
			all = append(all, c)
		}
	}
	return all
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

// ofRefusal says that this host does not send to a peer. A full queue of the device is no trouble of its
// own: any pod can fill it, and whoever sends slows down. It is one where no probe passes, either.
func ofRefusal(s Suspect, now time.Time) (c mesh.Condition, ok bool) {
	r := s.Trouble.Refused
	if r.Last.IsZero() || now.Sub(r.Last) > mesh.TroubleLasts {
		return c, false
	}
	if s.Reach != Failing && (r.InARow < 2 || r.Errno == errNoBuffers) {
		return c, false
	}
	c = mesh.Condition{Kind: mesh.SendRefused, Severity: mesh.Degraded, Peer: s.Name,
		Cause: r.Cause}
	switch r.Errno {
	case errPermission:
		c.Remedy = fmt.Sprintf("find the rule that drops UDP port %d on its way out, such as one in OUTPUT: "+
			"`nft list ruleset`, `iptables -S OUTPUT`", s.Underlay.Port())
	case errAccess, errNetDown, errNetUnreachable, errHostUnreachable:
		c.Remedy = fmt.Sprintf("correct the route: `ip route get %s` shows it", s.Underlay.Addr())
	case errNoBuffers:
		c.Remedy = "look for a full queue of the device: `tc -s qdisc`; or a full neighbour table: `ip -s neigh`"
	}
	return c, true
}

// ofReport says what ICMP errors say about a peer that probes do not reach.
func ofReport(s Suspect, self netip.Addr, now time.Time) (c mesh.Condition, ok bool) {
	r := s.Trouble.Reported
	if s.Reach != Failing || r.Last.IsZero() || now.Sub(r.Last) > mesh.TroubleLasts {
		return c, false
	}
	who, address, port := "a router", s.Underlay.Addr(), s.Underlay.Port()
	if r.Offender.IsValid() {
		who = r.Offender.String()
	}
	c = mesh.Condition{Severity: mesh.Degraded, Peer: s.Name, Subject: who}
	switch r.Means {
	case mesh.PortClosed:
		c.Kind, c.Cause = mesh.PeerPortClosed, fmt.Sprintf("%s says that no program listens on port %d", who, port)
		c.Remedy = fmt.Sprintf("start meshd on %s; if it runs, look for a firewall there that rejects UDP port %d",
			s.Name, port)
	case mesh.HostUnreachable:
		c.Kind, c.Cause = mesh.PeerUnknown, fmt.Sprintf("%s says that %s is unreachable", who, address)
		c.Remedy = fmt.Sprintf("check that %s runs and has the address %s, and the routes of %s",
			s.Name, address, who)
		if r.Offender == self { // the kernel sends the error to itself (ipv4_link_failure)
			c.Kind, c.Cause = mesh.NoNeighbour, fmt.Sprintf("this host asked for %s or for the router to it", address)
			c.Remedy = fmt.Sprintf("check that %s runs and that its cable or its network is up: "+
				"`ip route get %s` shows on which link this host asks", s.Name, address)
		}
	case mesh.Prohibited:
		c.Kind, c.Cause = mesh.PeerForbidden, fmt.Sprintf("%s says that a firewall forbids it", who)
		c.Remedy = fmt.Sprintf("allow UDP port %d in the firewall of %s", port, who)
	case mesh.RoutingLoop:
		c.Kind, c.Cause = mesh.PeerLoop, fmt.Sprintf("%s says that the TTL of datagrams to %s ran out", who, address)
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
