package health

import (
	"cmp"
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

// manyPeers is above how many peers with the same kind of trouble one condition stands for all.
const manyPeers = 8

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
	slices.SortStableFunc(all, func(a, b mesh.Condition) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Peer, b.Peer))
	})
	return fewer(all)
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
		Subject: s.Underlay.String(), Cause: r.Cause}
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
	c = mesh.Condition{Severity: mesh.Degraded, Peer: s.Name, Subject: "somebody"}
	if r.Offender.IsValid() {
		c.Subject = r.Offender.String()
	}
	address := s.Underlay.Addr()
	switch r.Means {
	case mesh.PortClosed:
		c.Kind = mesh.PeerPortClosed
		c.Remedy = fmt.Sprintf("start meshd on %s; if it runs, look for a firewall there that rejects UDP port %d",
			s.Name, s.Underlay.Port())
	case mesh.HostUnreachable:
		c.Kind = mesh.PeerUnknown
		c.Remedy = fmt.Sprintf("check that %s runs and has the address %s, and the routes of %s",
			s.Name, address, c.Subject)
		if r.Offender == self { // the kernel sends the error to itself (ipv4_link_failure)
			c.Kind = mesh.NoNeighbour
			c.Subject = address.String()
			c.Remedy = fmt.Sprintf("check that %s runs and that its cable or its network is up: "+
				"`ip neigh` and `ip route get %s` show who was asked", s.Name, address)
		}
	case mesh.Prohibited:
		c.Kind = mesh.PeerForbidden
		c.Remedy = fmt.Sprintf("allow UDP port %d in the firewall of %s", s.Underlay.Port(), c.Subject)
	case mesh.RoutingLoop:
		c.Kind = mesh.PeerLoop
		c.Remedy = fmt.Sprintf("correct the routes between here and %s: `traceroute %s` shows the loop",
			address, address)
	default:
		return c, false
	}
	return c, true
}

// fewer has one condition stand for all of its kind where there are many, so that a router that is gone
// is not thousands of problems. The conditions are sorted by kind, and by peer.
func fewer(all []mesh.Condition) (kept []mesh.Condition) {
	for len(all) > 0 {
		same := slices.IndexFunc(all, func(c mesh.Condition) bool { return c.Kind != all[0].Kind })
		if same < 0 {
			same = len(all)
		}
		if same <= manyPeers {
			kept = append(kept, all[:same]...)
		} else {
			one := all[0]
			one.Cause = strings.TrimPrefix(
				fmt.Sprintf("%s, and so it is with %d more peers", one.Cause, same-1), ", ")
			kept = append(kept, one)
		}
		all = all[same:]
	}
	return kept
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
