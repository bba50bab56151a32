package link

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// An Interface is a network interface of this host.
type Interface struct {
	Index int
	Name  string
}

// Crossing sorts this host's interfaces by their part in the mesh. Packets of pods cross the
// host by the TUN, by Pods and by Sides; answers to pods come in by the sides. Each list is
// in the order of names, and no interface is in two lists.
type Crossing struct {
	Pods  []Interface // lead to the node's own pod subnets
	Sides []Interface // lead to peers, by default routes, or to the node's further networks
	Rest  []Interface // have no part in the mesh
}

// All returns the interfaces of the mesh: those of pods, then the sides.
func (c Crossing) All() []Interface { return slices.Concat(c.Pods, c.Sides) }

// PodNames returns the names of the interfaces that lead to the node's own subnets.
func (c Crossing) PodNames() (names []string) {
	for _, one := range c.Pods {
		names = append(names, one.Name)
	}
	return names
}

// PodLink returns the first interface that leads to the node's own subnets; the zero Interface if
// nothing leads to pods yet.
func (c Crossing) PodLink() (first Interface) {
	if len(c.Pods) > 0 {
		first = c.Pods[0]
	}
	return first
}

// FindCrossing sorts the interfaces of a node. The node owns subnets, which are part of
// networks, and has further networks, routes, behind it. underlay are the indices of
// Underlay.Devices: these are always sides, since the guards of pods' interfaces would cut
// the node off from its peers. In no list are the interface called tun, loopback, meshd's
// further interfaces, and ports of bridges and bonds, which do not route packets themselves.
func FindCrossing(tun string, networks, subnets, routes []netip.Prefix, underlay []int) (Crossing, error) {
	links, err := retry(netlink.LinkList)
	if err != nil {
		return Crossing{}, fmt.Errorf("list interfaces: %w", err)
	}
	table, err := mainTable()
	if err != nil {
		return Crossing{}, err
	}
	pods, sides := map[int]bool{}, map[int]bool{}
	for _, r := range table {
		switch {
		case r.Type != unix.RTN_UNICAST || r.Protocol == Protocol:
		case leadsTo(r, subnets, networks):
			mark(pods, r)
		case takesAll(r) || leadsTo(r, routes, everything):
			mark(sides, r)
		}
	}
	for _, index := range underlay {
		sides[index], pods[index] = true, false
	}
	return sorted(routers(links), tun, pods, sides), nil
}

// sorted puts the interfaces into the lists of a Crossing. One that leads to pods and
// elsewhere is pods'.
func sorted(links []netlink.Link, tun string, pods, sides map[int]bool) (c Crossing) {
	for _, l := range links {
		a := l.Attrs()
		one := Interface{Index: a.Index, Name: a.Name}
		switch {
		case a.Name == tun:
		case pods[a.Index]:
			c.Pods = append(c.Pods, one)
		case sides[a.Index]:
			c.Sides = append(c.Sides, one)
		default:
			c.Rest = append(c.Rest, one)
		}
	}
	for _, list := range [][]Interface{c.Pods, c.Sides, c.Rest} {
		slices.SortFunc(list, func(a, b Interface) int { return cmp.Compare(a.Name, b.Name) })
	}
	return c
}

// takesAll reports whether a route is a default route or one of two halves of it: VPNs use
// 0.0.0.0/1 and 128.0.0.0/1 to win against the default route without replacing it.
func takesAll(r netlink.Route) bool { return destination(r).Bits() <= 1 }

// mark adds the interfaces of a route to a set.
func mark(set map[int]bool, r netlink.Route) {
	for _, device := range devicesOf(r) {
		set[device] = true
	}
}

// routers leaves out the interfaces that do not route packets: loopback, meshd's own, and
// ports of another interface. Ports of a VRF do route.
func routers(links []netlink.Link) (some []netlink.Link) {
	types := map[int]string{}
	for _, l := range links {
		types[l.Attrs().Index] = l.Type()
	}
	for _, l := range links {
		a := l.Attrs()
		port := a.MasterIndex != 0 && types[a.MasterIndex] != "vrf"
		if a.RawFlags&unix.IFF_LOOPBACK == 0 && a.Alias != alias && !port {
			some = append(some, l)
		}
	}
	return some
}

// everything contains all addresses of both families.
var everything = []netip.Prefix{
	netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0),
}

// leadsTo reports whether a route carries packets to a part of one of the prefixes. A wider
// route counts, too, if it has no gateway, since a bridge can serve several subnets, and if
// it is within networks: 10.0.0.0/8 on a link is not a route for pods of 10.244.1.0/24.
func leadsTo(r netlink.Route, prefixes, within []netip.Prefix) bool {
	to := destination(r)
	onLink := r.Gw == nil && r.Via == nil && len(r.MultiPath) == 0
	inside := slices.ContainsFunc(within, func(p netip.Prefix) bool {
		return p.Bits() <= to.Bits() && p.Overlaps(to)
	})
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool {
		return to.Overlaps(p) && (p.Bits() <= to.Bits() || onLink && inside)
	})
}
