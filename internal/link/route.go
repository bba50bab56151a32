package link

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// RouteError says that a route is in the main table for a prefix that the mesh needs.
type RouteError struct {
	Prefix netip.Prefix
	Route  string // the other route, as `ip route` prints it
	Ours   bool   // it has meshd's protocol number, but goes through another interface
	Host   bool   // this host lives by it, see livesBy
}

// Error names the route and says what to do.
func (e *RouteError) Error() string {
	if e.Ours {
		return fmt.Sprintf("route %s is of another meshd that runs on this host: stop it, or change network.cidr",
			e.Route)
	}
	if e.Host {
		return fmt.Sprintf("route %s is this host's own way to others, and nobody may delete it: "+
			"choose another network.cidr, or give the mesh a smaller part of it", e.Route)
	}
	return fmt.Sprintf("route %s is not meshd's and conflicts with it: delete it with `ip route del %s`, "+
		"or change network.cidr or the node's routes", e.Route, e.Prefix)
}

// Is makes errors.Is(err, ErrEarlier) true for routes of a meshd with another interface.
func (e *RouteError) Is(target error) bool { return target == ErrEarlier && e.Ours }

// CheckRoutes returns a *RouteError if a route of the main table, of any type, has one of
// the prefixes and does not go through the interface called name. With two routes for one
// prefix the kernel would choose by metric, so the pods' packets could go either way. Routes of
// meshd's over the interfaces beside are no conflict. No interface need exist.
func CheckRoutes(name string, prefixes []netip.Prefix, beside ...string) error {
	routes, err := mainTable()
	if err != nil {
		return err
	}
	return conflict(routes, Index(name), prefixes, indices(beside))
}

// conflict is CheckRoutes for interface indices and a table. A route of another program is returned
// before one of meshd's own, which meshd can remove.
func conflict(routes []netlink.Route, own int, prefixes []netip.Prefix, beside []int) (err error) {
	wanted := setOf(prefixes)
	for _, r := range routes {
		p, ours := destination(r), r.Protocol == Protocol
		switch {
		case !wanted[p], r.LinkIndex == own, isBackstop(r), ours && slices.Contains(beside, r.LinkIndex):
		case !ours:
			return &RouteError{Prefix: p, Route: describe(r), Host: livesBy(r)}
		case err == nil: // to describe one of thousands is enough
			err = &RouteError{Prefix: p, Route: describe(r), Ours: true}
		}
	}
	return err
}

// livesBy tells whether a host may be cut off when a route is deleted: the network of one of its addresses,
// for which the kernel makes the route, and a default route.
func livesBy(r netlink.Route) bool {
	return r.Protocol == unix.RTPROT_KERNEL || destination(r).Bits() == 0
}

// indices returns the indices of those of some interfaces that exist.
func indices(names []string) (some []int) {
	for _, name := range names {
		if index := Index(name); index >= 0 {
			some = append(some, index)
		}
	}
	return some
}

// setOf returns the prefixes as a set.
func setOf(prefixes []netip.Prefix) map[netip.Prefix]bool {
	set := make(map[netip.Prefix]bool, len(prefixes))
	for _, p := range prefixes {
		set[p] = true
	}
	return set
}

// mainTable lists the routes of the main table of both families and of all types: a
// blackhole route takes packets, too.
func mainTable() ([]netlink.Route, error) {
	filter := &netlink.Route{Table: unix.RT_TABLE_MAIN}
	routes, err := retry(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return routes, nil
}

// destination returns the prefix of a route. The library shows a default route as one
// without a destination or as one of length 0, depending on its version and on the family.
func destination(r netlink.Route) netip.Prefix {
	if r.Dst != nil {
		return toPrefix(r.Dst)
	}
	if r.Family == netlink.FAMILY_V6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

// devicesOf returns the interface indices of a route: of each hop, if it has several.
func devicesOf(r netlink.Route) []int {
	devices := []int{r.LinkIndex}
	for _, hop := range r.MultiPath {
		devices = append(devices, hop.LinkIndex)
	}
	return devices
}

// describe prints a route as `ip route` does: a person has to find it there.
func describe(r netlink.Route) string {
	words := destination(r).String()
	if kind, ok := typeNames[r.Type]; ok {
		words = kind + " " + words
	}
	hops := []*netlink.NexthopInfo{{Gw: r.Gw, LinkIndex: r.LinkIndex}}
	if len(r.MultiPath) > 0 {
		hops = r.MultiPath
	}
	for _, hop := range hops {
		if hop.Gw != nil {
			words += " via " + hop.Gw.String()
		}
		if dev, err := netlink.LinkByIndex(hop.LinkIndex); err == nil {
			words += " dev " + dev.Attrs().Name
		}
	}
	words += " proto " + r.Protocol.String()
	if r.Table != unix.RT_TABLE_MAIN && r.Table != unix.RT_TABLE_UNSPEC { // else `ip route` does not say
		words += " table " + tableName(r.Table)
	}
	return words
}

// typeNames are the route types that `ip route` spells out; it omits unicast.
var typeNames = map[int]string{
	unix.RTN_BLACKHOLE: "blackhole", unix.RTN_UNREACHABLE: "unreachable",
	unix.RTN_PROHIBIT: "prohibit", unix.RTN_THROW: "throw",
}

// LeadsOn reports whether this host forwards a packet that comes in by an interface to another
// interface that is up. It asks the kernel, whose answer takes rules, tables, the reverse path and,
// for IPv4, the switch of forwarding into account (inet_rtm_getroute with RTA_IIF).
func LeadsOn(in string, from, to netip.Addr) bool {
	if to.Is6() { // ip6_forward asks the switch, a lookup does not
		on, err := os.ReadFile("/proc/sys/net/ipv6/conf/all/forwarding")
		if err != nil || strings.TrimSpace(string(on)) == "0" {
			return false
		}
	}
	routes, err := netlink.RouteGetWithOptions(to.AsSlice(),
		&netlink.RouteGetOptions{Iif: in, SrcAddr: from.AsSlice()})
	if err != nil || len(routes) == 0 {
		return false
	}
	r := routes[0]
	return r.Type == unix.RTN_UNICAST && r.LinkIndex > 0 && r.LinkIndex != Index(in)
}
