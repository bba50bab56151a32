package link

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// An Interface is one of this host's.
type Interface struct {
	Index int
	Name  string
}

// Crossing is by which interfaces packets of the mesh cross this host, besides the TUN, and which
// others there are. Each list is in the order of names; no interface is in two of them. Answers to
// pods come in by the sides.
type Crossing struct {
	Pods  []Interface // lead to the node's own subnets
	Sides []Interface // the underlay's, those of default routes, those that lead to networks behind this node
	Rest  []Interface
}

// All returns those of the mesh: pods' and sides.
func (c Crossing) All() []Interface { return slices.Concat(c.Pods, c.Sides) }

// PodNames returns the names of the interfaces that lead to the node's own subnets.
func (c Crossing) PodNames() (names []string) {
	for _, one := range c.Pods {
		names = append(names, one.Name)
	}
	return names
}

// FindCrossing looks for the interfaces of a node that owns subnets, which are part of networks, and
// has further networks (routes) behind it. underlay has the indices of Underlay.Devices, which are
// never taken for pods': that would cut the node off. The interface called tun, loopback, our own
// further interfaces and ports of bridges and bonds, which route nothing themselves, are in no list.
func FindCrossing(tun string, networks, subnets, routes []netip.Prefix, underlay []int) (c Crossing, err error) {
	links, err := retry(netlink.LinkList)
	if err != nil {
		return c, fmt.Errorf("list interfaces: %w", err)
	}
	table, err := mainTable()
	if err != nil {
		return c, err
	}
	pods, sides := map[int]bool{}, map[int]bool{}
	for _, index := range underlay {
		sides[index] = true
	}
	for _, r := range table {
		switch {
		case r.Type != unix.RTN_UNICAST || r.Protocol == Protocol:
		case leadsTo(r, subnets, networks):
			mark(pods, r)
		case takesAll(r) || leadsTo(r, routes, everything):
			mark(sides, r)
		}
	}
	for _, l := range routers(links) {
		a := l.Attrs()
		one := Interface{Index: a.Index, Name: a.Name}
		switch {
		case a.Name == tun:
		case pods[a.Index] && !slices.Contains(underlay, a.Index):
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
	return c, nil
}

// takesAll tells whether a route is a default route, or half of one, which VPNs use.
func takesAll(r netlink.Route) bool { return destination(r).Bits() <= 1 }

// mark notes the interfaces of a route.
func mark(set map[int]bool, r netlink.Route) {
	set[r.LinkIndex] = true
	for _, hop := range r.MultiPath {
		set[hop.LinkIndex] = true
	}
}

// routers leaves out the interfaces that never forward a packet themselves.
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

// everything is all there is.
var everything = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}

// leadsTo tells whether a route carries packets to a part of one of the prefixes. So does a wider one
// without a gateway, since a bridge may serve several subnets, as long as it lies within networks:
// 10.0.0.0/8 on a link is not for pods.
func leadsTo(r netlink.Route, prefixes, within []netip.Prefix) bool {
	to := destination(r)
	onLink := r.Gw == nil && r.Via == nil && len(r.MultiPath) == 0
	inside := slices.ContainsFunc(within, func(p netip.Prefix) bool { return p.Bits() <= to.Bits() && p.Overlaps(to) })
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool {
		return to.Overlaps(p) && (p.Bits() <= to.Bits() || onLink && inside)
	})
}
