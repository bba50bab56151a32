package link

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LocalAddresses returns the addresses of all interfaces of this host, in their
// order. Tentative IPv6 addresses, which nobody may use yet, are left out.
func LocalAddresses() ([]netip.Addr, error) {
	list, err := retry(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var ips []netip.Addr
	for _, a := range list {
		if a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 {
			ips = append(ips, toPrefix(a.IPNet).Addr())
		}
	}
	return ips, nil
}

// Underlay is how datagrams reach the peers.
type Underlay struct {
	// MTU is the lowest, in bytes, of the interfaces and routes that lead to the
	// peers, and of the interface that has our own address. Loopback does not count,
	// since nothing leaves by it. If nothing leads anywhere yet, it is 1500.
	MTU int
	// Devices are the indices of the interfaces by which peers are reached, and of the one
	// that has our own address, sorted.
	Devices []int
	// Ways are the routes that lead to peers, in words, sorted; the first few.
	Ways []string
}

// waysKept bounds Underlay.Ways.
const waysKept = 50

// FindUnderlay returns how datagrams from local reach the peers by the main table;
// routes chosen by rules (policy routing) do not count.
func FindUnderlay(local netip.Addr, peers []netip.Addr) (u Underlay, err error) {
	links, err := retry(netlink.LinkList)
	if err != nil {
		return u, fmt.Errorf("list interfaces: %w", err)
	}
	mtus := map[int]int{}
	for _, l := range links {
		if l.Attrs().RawFlags&unix.IFF_LOOPBACK == 0 {
			mtus[l.Attrs().Index] = l.Attrs().MTU
		}
	}
	addresses, err := retry(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return u, fmt.Errorf("list addresses: %w", err)
	}
	lower := func(mtu int) {
		if mtu > 0 && (u.MTU == 0 || mtu < u.MTU) {
			u.MTU = mtu
		}
	}
	use := func(device int) {
		if mtus[device] > 0 && !slices.Contains(u.Devices, device) {
			u.Devices = append(u.Devices, device)
		}
	}
	for _, a := range addresses {
		if toPrefix(a.IPNet).Addr() == local {
			lower(mtus[a.LinkIndex])
			use(a.LinkIndex)
		}
	}
	ways, err := others()
	if err != nil {
		return u, err
	}
	seen := map[netip.Prefix]bool{}
	for _, peer := range peers {
		w := leading(ways, peer)
		r := w.route
		if w.prefix.IsValid() && !seen[w.prefix] && len(u.Ways) < waysKept {
			seen[w.prefix] = true
			u.Ways = append(u.Ways, describe(r))
		}
		lower(r.MTU)
		lower(mtus[r.LinkIndex])
		use(r.LinkIndex)
		for _, hop := range r.MultiPath {
			lower(mtus[hop.LinkIndex])
			use(hop.LinkIndex)
		}
	}
	if u.MTU == 0 {
		u.MTU = 1500
	}
	slices.Sort(u.Ways)
	slices.Sort(u.Devices)
	return u, nil
}

// CheckUnderlay returns an error if the network's own prefixes would take the
// datagrams to a peer into the mesh itself: no other route to it is more
// specific.
func CheckUnderlay(cidr []netip.Prefix, peers []netip.Addr) error {
	ways, err := others()
	if err != nil {
		return err
	}
	for _, peer := range peers {
		for _, p := range cidr {
			if p.Contains(peer) && leading(ways, peer).prefix.Bits() <= p.Bits() {
				return fmt.Errorf("the route %s would take the datagrams to the node %s into the mesh itself: give it a route of its own, such as `ip route add %s via GATEWAY`, or choose another network.cidr",
					p, peer, peer)
			}
		}
	}
	return nil
}

// Shadows describes the routes of others that take a part of the prefixes away
// from us, being more specific than ours; at most a handful.
func Shadows(name string, prefixes []netip.Prefix) ([]string, error) {
	const handful = 5
	routes, err := mainTable()
	if err != nil {
		return nil, err
	}
	index := indexOf(name)
	ours := make(map[netip.Prefix]bool, len(prefixes))
	for _, p := range prefixes {
		ours[p] = true
	}
	var found []string
	for _, r := range routes {
		p := destination(r)
		if r.LinkIndex == index || isBackstop(r) || len(found) == handful {
			continue
		}
		for bits := range p.Bits() + 1 {
			if shorter, err := p.Addr().Prefix(bits); err == nil && ours[shorter] {
				found = append(found, describe(r))
				break
			}
		}
	}
	return found, nil
}

// A way is a route that could carry datagrams to a peer.
type way struct {
	prefix netip.Prefix
	route  netlink.Route
}

// others returns the unicast routes of the main table that are not ours.
func others() (ways []way, err error) {
	routes, err := mainTable()
	for _, r := range routes {
		if r.Type == unix.RTN_UNICAST && r.Protocol != Protocol {
			ways = append(ways, way{destination(r), r})
		}
	}
	return ways, err
}

// leading returns the longest match for peer; the zero way if there is none.
func leading(ways []way, peer netip.Addr) (best way) {
	for _, w := range ways {
		if w.prefix.Contains(peer) && (!best.prefix.IsValid() || w.prefix.Bits() > best.prefix.Bits()) {
			best = w
		}
	}
	return best
}
