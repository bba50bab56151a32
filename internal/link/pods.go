package link

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// PodLinks returns the names of the interfaces that lead to prefixes, sorted: a bridge of pods, or
// the veths of pods that are routed one by one. The main table says so: a unicast route to a part
// of a prefix counts, and so does a wider one without a gateway, since a bridge may serve several
// subnets. Loopback, the interface called tun and those in except (indices: the underlay, which
// must never be mistaken for pods) are left out.
func PodLinks(tun string, prefixes []netip.Prefix, except []int) ([]string, error) {
	routes, err := mainTable()
	if err != nil {
		return nil, err
	}
	links, err := retry(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		a := l.Attrs()
		if a.RawFlags&unix.IFF_LOOPBACK == 0 && a.Name != tun && !slices.Contains(except, a.Index) {
			names[a.Index] = a.Name
		}
	}
	var found []string
	for _, r := range routes {
		if r.Type != unix.RTN_UNICAST || !leadsTo(r, prefixes) {
			continue
		}
		devices := []int{r.LinkIndex}
		for _, hop := range r.MultiPath {
			devices = append(devices, hop.LinkIndex)
		}
		for _, device := range devices {
			if name := names[device]; name != "" {
				found = append(found, name)
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// leadsTo tells whether a route carries packets to a part of one of the prefixes.
func leadsTo(r netlink.Route, prefixes []netip.Prefix) bool {
	to := destination(r)
	onLink := r.Gw == nil && r.Via == nil && len(r.MultiPath) == 0
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool {
		inside := p.Bits() <= to.Bits() && p.Overlaps(to)
		around := onLink && to.Bits() > 0 && to.Overlaps(p)
		return inside || around
	})
}
