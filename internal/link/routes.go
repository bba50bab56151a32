package link

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// This file keeps meshd's routes over one interface as wanted.

// A Route leads the packets to a prefix through an interface of meshd's. Its text is that of `ip route`.
type Route struct {
	netip.Prefix            // masked
	Source       netip.Addr // of packets of this host; the zero Addr: the kernel chooses
	Metric       int        // 0: the kernel's best, which for IPv6 is the usual 1024
	MTU          int        // in bytes; 0: that of the interface
}

// RoutesTo returns routes to prefixes of which nothing else is wanted.
func RoutesTo(prefixes ...netip.Prefix) (routes []Route) {
	for _, p := range prefixes {
		routes = append(routes, Route{Prefix: p})
	}
	return routes
}

// Prefixes returns the prefixes of the wanted routes.
func (s Settings) Prefixes() []netip.Prefix {
	prefixes := make([]netip.Prefix, len(s.Routes))
	for i, r := range s.Routes {
		prefixes[i] = r.Prefix
	}
	return prefixes
}

// String writes a route as `ip route` does.
func (r Route) String() string {
	words := r.Prefix.String()
	if r.Source.IsValid() {
		words += " src " + r.Source.String()
	}
	if r.Metric != 0 {
		words += fmt.Sprintf(" metric %d", r.Metric)
	}
	if r.MTU != 0 {
		words += fmt.Sprintf(" mtu %d", r.MTU)
	}
	return words
}

// metric returns the metric as the kernel shows it: it has no IPv6 route of metric 0 and takes
// IP6_RT_PRIO_USER instead (ip6_route_info_create in net/ipv6/route.c).
func (r Route) metric() int {
	const usual6 = 1024
	if r.Metric == 0 && r.Addr().Is6() {
		return usual6
	}
	return r.Metric
}

// as tells whether a route of the kernel's is as wanted.
func (r Route) as(have netlink.Route) bool {
	return r.metric() == have.Priority && r.Source == sourceOf(have) && r.MTU == have.MTU
}

// over returns the route over an interface as the library wants it.
func (r Route) over(device int) *netlink.Route {
	route := &netlink.Route{
		LinkIndex: device, Dst: toIPNet(r.Prefix), Protocol: Protocol, Table: unix.RT_TABLE_MAIN,
		Src: r.Source.AsSlice(), Priority: r.Metric, MTU: r.MTU,
	}
	if r.Addr().Is4() { // IPv6 routes have no scope
		route.Scope = netlink.SCOPE_LINK
	}
	return route
}

// A place is what one route can have in a table: the kernel holds no second one there, whatever its
// interface.
type place struct {
	prefix netip.Prefix
	metric int
}

func placeOf(r netlink.Route) place { return place{destination(r), r.Priority} }

// A difference is what separates the kernel's routes from those wanted.
type difference struct {
	missing map[netip.Prefix]Route // wanted, and not there as wanted
	stale   []netlink.Route        // of meshd's over this interface, and not wanted so
	ours    map[place]bool         // where the kernel holds a route of meshd's that can be replaced
	was     map[netip.Prefix]Route // what a missing one was before, of those that were otherwise
}

// compare looks at each route once. A route of another program over the interface counts as well: it
// leads packets to the right place.
func compare(routes []netlink.Route, device int, wanted []Route, beside []int) difference {
	d := difference{missing: make(map[netip.Prefix]Route, len(wanted)), ours: map[place]bool{},
		was: map[netip.Prefix]Route{}}
	for _, w := range wanted {
		d.missing[w.Prefix] = w
	}
	for _, r := range routes {
		p, ours := destination(r), r.Protocol == Protocol
		w, isMissing := d.missing[p]
		switch {
		case r.LinkIndex != device:
			if ours && slices.Contains(beside, r.LinkIndex) {
				d.ours[placeOf(r)] = true
			}
		case isMissing && (w.as(r) || !ours && w.metric() == r.Priority):
			delete(d.missing, p)
		case ours:
			d.stale = append(d.stale, r)
		}
	}
	for _, r := range d.stale {
		p := destination(r)
		d.ours[placeOf(r)] = true
		if _, isMissing := d.missing[p]; isMissing {
			d.was[p] = Route{Prefix: p, Source: sourceOf(r), Metric: r.Priority, MTU: r.MTU}
		}
	}
	return d
}

// setRoutes brings meshd's routes over an interface to those wanted. routes are those of table main, and
// beside are meshd's other interfaces. A prefix keeps a route while its own changes: one at the same place
// is replaced in one step (NLM_F_REPLACE), others are deleted after the new ones are there.
func setRoutes(routes []netlink.Route, device int, wanted []Route, beside []int) (
	changed []string, err error) {
	d := compare(routes, device, wanted, beside)
	if len(d.missing)+len(d.stale) == 0 {
		return nil, nil
	}
	kernel, err := netlink.NewHandle(unix.NETLINK_ROUTE) // one socket for thousands of routes
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	defer kernel.Close()
	replaced := map[place]bool{}
	for _, w := range wanted {
		if _, isMissing := d.missing[w.Prefix]; !isMissing {
			continue
		}
		w = d.missing[w.Prefix] // a prefix that is listed twice: the last one counts
		delete(d.missing, w.Prefix)
		at := place{w.Prefix, w.metric()}
		put := kernel.RouteAdd // EEXIST is an error: another program made the route after the look
		if d.ours[at] {
			put, replaced[at] = kernel.RouteReplace, true
		}
		if err := put(w.over(device)); err != nil {
			return changed, fmt.Errorf("add route %s: %w", w, err)
		}
		changed = append(changed, d.told(w))
	}
	for _, r := range d.stale {
		p := destination(r)
		if replaced[placeOf(r)] {
			continue
		}
		if err := kernel.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return changed, fmt.Errorf("delete route %s: %w", p, err)
		}
		if _, otherwise := d.was[p]; !otherwise {
			changed = append(changed, fmt.Sprintf("route %s was unwanted", p))
		}
	}
	return changed, nil
}

// told says what was found instead of a wanted route.
func (d difference) told(w Route) string {
	if was, ok := d.was[w.Prefix]; ok {
		return fmt.Sprintf("route %s was %s", w, was)
	}
	return fmt.Sprintf("route %s was missing", w)
}
