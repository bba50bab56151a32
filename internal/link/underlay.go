package link

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// This file answers how datagrams reach the peers. A snapshot of the host's interfaces,
// addresses and routes is read once; the questions are asked of the snapshot.
//
//	way    a route of another program that can carry datagrams to peers
//	reach  what the snapshot says of one address: way, devices and the lowest MTU

// LocalAddresses returns the addresses of all interfaces of this host, in the kernel's
// order. Tentative and duplicate IPv6 addresses are left out: no socket can use them.
func LocalAddresses() ([]netip.Addr, error) {
	list, err := addresses()
	if err != nil {
		return nil, err
	}
	var ips []netip.Addr
	for _, a := range list {
		if a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 {
			ips = append(ips, toPrefix(a.IPNet).Addr())
		}
	}
	return ips, nil
}

// addresses lists the addresses of all interfaces.
func addresses() ([]netlink.Addr, error) {
	list, err := retry(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	return list, nil
}

// Underlay is how datagrams reach the peers, all of them together.
type Underlay struct {
	// MTU is the lowest MTU, in bytes, of the interfaces and routes that lead to the peers and
	// of the interface that has the node's own address. Loopback does not count, since no
	// datagram leaves by it. MTU is 1500 if nothing leads to a peer yet.
	MTU int
	// Devices are the indices of the interfaces by which peers are reached and of the one that
	// has the node's own address, sorted, without loopback.
	Devices []int
	// Ways are the routes that lead to peers, as `ip route` prints them: sorted, each once, at
	// most 50.
	Ways []string
}

const (
	waysKept   = 50   // bounds Underlay.Ways, which a status shows
	defaultMTU = 1500 // of Ethernet
)

// FindUnderlay returns how datagrams from the address local reach the peers by the main
// table. Routes that policy routing would choose from other tables do not count.
func FindUnderlay(local netip.Addr, peers []netip.Addr) (Underlay, error) {
	l, err := readLinks()
	if err != nil {
		return Underlay{}, err
	}
	return l.underlay(local, peers), nil
}

// links is a snapshot of this host's interfaces, addresses and routes.
type links struct {
	mtus    map[int]int          // in bytes, by interface index; without loopback
	holders map[netip.Addr][]int // the interfaces that have an address
	ways    []way
}

// readLinks takes the snapshot.
func readLinks() (links, error) {
	l := links{mtus: map[int]int{}, holders: map[netip.Addr][]int{}}
	devices, err := retry(netlink.LinkList)
	if err != nil {
		return l, fmt.Errorf("list interfaces: %w", err)
	}
	for _, d := range devices {
		if d.Attrs().RawFlags&unix.IFF_LOOPBACK == 0 {
			l.mtus[d.Attrs().Index] = d.Attrs().MTU
		}
	}
	list, err := addresses()
	if err != nil {
		return l, err
	}
	for _, a := range list {
		ip := toPrefix(a.IPNet).Addr()
		l.holders[ip] = append(l.holders[ip], a.LinkIndex)
	}
	l.ways, err = waysOfOthers()
	return l, err
}

// A reach is how this host reaches one address.
type reach struct {
	way     way   // zero: no route leads there
	mtu     int   // the lowest of the route and the devices, in bytes; 0: unknown
	devices []int // in the order of the route's hops
}

// over returns the reach by some devices. Those that are not in the snapshot, such as
// loopback, are left out.
func (l links) over(devices ...int) (r reach) {
	for _, device := range devices {
		if mtu := l.mtus[device]; mtu > 0 {
			r.mtu, r.devices = lower(r.mtu, mtu), append(r.devices, device)
		}
	}
	return r
}

// of returns the reach of an address of this host: the devices that hold it.
func (l links) of(local netip.Addr) reach { return l.over(l.holders[local]...) }

// to returns the reach of a peer: that of the route with the longest match. A route may have
// several hops (ECMP), and an MTU of its own (`ip route ... mtu`).
func (l links) to(peer netip.Addr) reach {
	w := leading(l.ways, peer)
	r := l.over(devicesOf(w.route)...)
	r.way, r.mtu = w, lower(r.mtu, w.route.MTU)
	return r
}

// underlay combines the reach of the node's own address and of all peers.
func (l links) underlay(local netip.Addr, peers []netip.Addr) Underlay {
	var u Underlay
	u.add(l.of(local))
	described := map[netip.Prefix]bool{}
	for _, peer := range peers {
		r := l.to(peer)
		u.add(r)
		if p := r.way.prefix; p.IsValid() && !described[p] && len(u.Ways) < waysKept {
			described[p] = true
			u.Ways = append(u.Ways, describe(r.way.route))
		}
	}
	if u.MTU == 0 {
		u.MTU = defaultMTU
	}
	slices.Sort(u.Ways)
	slices.Sort(u.Devices)
	return u
}

// add lowers the MTU to that of a reach and adds its devices.
func (u *Underlay) add(r reach) {
	u.MTU = lower(u.MTU, r.mtu)
	for _, device := range r.devices {
		if !slices.Contains(u.Devices, device) {
			u.Devices = append(u.Devices, device)
		}
	}
}

// lower returns the lower of two MTUs; 0 stands for an unknown one.
func lower(a, b int) int {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

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
	ways, err := waysOfOthers()
	if err != nil {
		return err
	}
	return loop(ways, cidr, peers)
}

// loop finds the first peer whose datagrams would loop.
func loop(ways []way, cidr []netip.Prefix, peers []netip.Addr) error {
	for _, peer := range peers {
		for _, p := range cidr {
			if p.Contains(peer) && leading(ways, peer).prefix.Bits() <= p.Bits() {
				return &LoopError{Prefix: p, Node: peer}
			}
		}
	}
	return nil
}

// Shadows describes the routes of other programs that take a part of the prefixes away from
// the interface called name: the kernel prefers them, being more specific. It returns at most
// five, as `ip route` prints them.
func Shadows(name string, prefixes []netip.Prefix) ([]string, error) {
	routes, err := mainTable()
	if err != nil {
		return nil, err
	}
	return shadows(routes, Index(name), prefixes), nil
}

// shadows is Shadows for an interface index and a table. For each route it tries the prefixes
// that contain it, so the cost does not grow with the product of routes and prefixes.
func shadows(routes []netlink.Route, own int, prefixes []netip.Prefix) (found []string) {
	const most = 5
	wanted := setOf(prefixes)
	for _, r := range routes {
		if r.LinkIndex == own || isBackstop(r) {
			continue
		}
		p := destination(r)
		for bits := range p.Bits() + 1 {
			if wider, err := p.Addr().Prefix(bits); err == nil && wanted[wider] {
				found = append(found, describe(r))
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

// waysOfOthers returns the unicast routes of the main table that meshd did not make.
func waysOfOthers() (ways []way, err error) {
	routes, err := mainTable()
	for _, r := range routes {
		if r.Type == unix.RTN_UNICAST && r.Protocol != Protocol {
			ways = append(ways, way{destination(r), r})
		}
	}
	return ways, err
}

// leading returns the longest match for peer; the zero way if no route matches.
func leading(ways []way, peer netip.Addr) (best way) {
	for _, w := range ways {
		if w.prefix.Contains(peer) && (!best.prefix.IsValid() || w.prefix.Bits() > best.prefix.Bits()) {
			best = w
		}
	}
	return best
}
