package link

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// This file holds the routes of other programs against those of the mesh: which of them carry datagrams to
// peers, and which take packets away from the TUN.

// LoopError says that the route into the mesh would also take the datagrams to a node.
type LoopError struct {
	Prefix netip.Prefix // of network.cidr
	Node   netip.Addr
}

// Error names the route and the node, and says what to do.
func (e *LoopError) Error() string {
	return fmt.Sprintf("the route %s would take the datagrams to the node %s into the mesh itself: give "+
		"the node a route of its own, such as `ip route add %s via GATEWAY`, or choose another network.cidr",
		e.Prefix, e.Node, e.Node)
}

// CheckUnderlay returns a *LoopError if a prefix of the network contains a peer's address and
// no other route to the peer is more specific: the outer packets to the peer would enter the
// TUN.
func CheckUnderlay(cidr []netip.Prefix, peers []netip.Addr) error {
	routes, err := mainTable()
	if err != nil {
		return err
	}
	return loop(waysOfOthers(routes), cidr, peers)
}

// loop finds the first peer whose datagrams would loop.
func loop(ways []way, cidr []netip.Prefix, peers []netip.Addr) error {
	for _, peer := range peers {
		for _, p := range cidr {
			if !p.Contains(peer) {
				continue
			}
			if at := leading(ways, peer); at < 0 || ways[at].prefix.Bits() <= p.Bits() {
				return &LoopError{Prefix: p, Node: peer}
			}
		}
	}
	return nil
}

// A Shadow is a route that takes packets away from the mesh.
type Shadow struct {
	Route string // as `ip route` prints it
	Host  bool   // this host lives by it: to delete it may cut the host off
}

// Shadows describes the routes of other programs that take a part of the prefixes away from
// the interface called name, and from meshd's interfaces beside: the kernel prefers them, being
// more specific. It returns at most five.
func Shadows(name string, prefixes []netip.Prefix, beside ...string) ([]Shadow, error) {
	routes, err := mainTable()
	if err != nil {
		return nil, err
	}
	return shadows(routes, append(indices(beside), Index(name)), prefixes), nil
}

// shadows is Shadows for interface indices and a table. For each route it tries the prefixes
// that contain it, so the cost does not grow with the product of routes and prefixes.
func shadows(routes []netlink.Route, own []int, prefixes []netip.Prefix) (found []Shadow) {
	const most = 5
	wanted := setOf(prefixes)
	for _, r := range routes {
		if slices.Contains(own, r.LinkIndex) || isBackstop(r) {
			continue
		}
		p := destination(r)
		for bits := range p.Bits() + 1 {
			if wider, err := p.Addr().Prefix(bits); err == nil && wanted[wider] {
				found = append(found, Shadow{describe(r), livesBy(r)})
				break
			}
		}
		if len(found) == most {
			break
		}
	}
	return found
}

// A way is a route that can carry datagrams to a peer, with its destination.
type way struct {
	prefix netip.Prefix
	route  netlink.Route
}

// A wayID tells the routes of all tables apart.
type wayID struct {
	prefix netip.Prefix
	table  int
}

func (w way) id() wayID { return wayID{w.prefix, w.route.Table} }

// carries reports whether a route sends packets somewhere, and is not one of meshd's.
func carries(r netlink.Route) bool { return r.Type == unix.RTN_UNICAST && r.Protocol != Protocol }

// waysOfOthers returns those of the routes that can carry datagrams to peers.
func waysOfOthers(routes []netlink.Route) (ways []way) {
	for _, r := range routes {
		if carries(r) {
			ways = append(ways, way{destination(r), r})
		}
	}
	return ways
}

// leading returns the index of the longest match for peer; -1 if no route matches.
func leading(ways []way, peer netip.Addr) (best int) {
	best = -1
	for i := range ways { // a way is large
		p := ways[i].prefix
		if p.Contains(peer) && (best < 0 || p.Bits() > ways[best].prefix.Bits()) {
			best = i
		}
	}
	return best
}

// sourceOf returns the address that a route says packets leave with (`ip route ... src`); invalid if it says
// none.
func sourceOf(r netlink.Route) netip.Addr {
	ip, _ := netip.AddrFromSlice(r.Src)
	return ip.Unmap()
}
