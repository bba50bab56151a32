package link

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// CheckRoutes returns an error that names the culprit if a route of the main
// table, of any type, has one of the prefixes and does not go through the
// interface name. Two routes for one prefix would leave it to metrics and chance
// who gets the pods' packets. The interface need not exist.
func CheckRoutes(name string, prefixes []netip.Prefix) error {
	routes, err := mainTable()
	if err != nil {
		return err
	}
	index := indexOf(name)
	wanted := make(map[netip.Prefix]bool, len(prefixes))
	for _, p := range prefixes {
		wanted[p] = true
	}
	for _, r := range routes {
		if p := destination(r); wanted[p] && r.LinkIndex != index && !isBackstop(r) {
			if r.Protocol == Protocol {
				return fmt.Errorf("route %s is left from a mesh with another network.interface: run `meshd cleanup`", describe(r))
			}
			return fmt.Errorf("route %s is not meshd's and in its way: delete it with `ip route del %s`, or change network.cidr or the node's routes", describe(r), p)
		}
	}
	return nil
}

// setRoutes adds the missing routes and deletes ours that are not wanted.
func setRoutes(dev netlink.Link, s Settings) (changed []string, err error) {
	routes, err := mainTable()
	if err != nil {
		return nil, err
	}
	missing := make(map[netip.Prefix]bool, len(s.Routes))
	for _, p := range s.Routes {
		missing[p] = true
	}
	for _, r := range routes {
		p := destination(r)
		switch {
		case r.LinkIndex != dev.Attrs().Index:
		case missing[p]:
			delete(missing, p)
		case r.Protocol == Protocol:
			if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
				return changed, fmt.Errorf("delete route %s: %w", p, err)
			}
			changed = append(changed, fmt.Sprintf("route %s was there", p))
		}
	}
	for _, p := range s.Routes {
		if !missing[p] {
			continue
		}
		r := &netlink.Route{LinkIndex: dev.Attrs().Index, Dst: toIPNet(p), Protocol: Protocol, Table: unix.RT_TABLE_MAIN}
		if p.Addr().Is4() {
			r.Scope = netlink.SCOPE_LINK
		}
		// EEXIST would be a route that came after CheckRoutes looked.
		if err := netlink.RouteAdd(r); err != nil {
			return changed, fmt.Errorf("add route %s: %w", p, err)
		}
		changed = append(changed, fmt.Sprintf("route %s was missing", p))
	}
	return changed, nil
}

// mainTable lists the routes of the main table, both families, all types: a
// blackhole is a route, too.
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

// destination returns the prefix of a route; all of its family for a default
// route, which netlink tells in two ways.
func destination(r netlink.Route) netip.Prefix {
	if r.Dst != nil {
		return toPrefix(r.Dst)
	}
	if r.Family == netlink.FAMILY_V6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

// describe names a route as `ip route` would.
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
	return words + " proto " + r.Protocol.String()
}

// typeNames are the route types that `ip route` spells out.
var typeNames = map[int]string{
	unix.RTN_BLACKHOLE: "blackhole", unix.RTN_UNREACHABLE: "unreachable", unix.RTN_PROHIBIT: "prohibit", unix.RTN_THROW: "throw",
}

func indexOf(name string) int {
	dev, err := netlink.LinkByName(name)
	if err != nil {
		return -1
	}
	return dev.Attrs().Index
}
