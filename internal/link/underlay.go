package link

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// This file answers how datagrams reach the peers. A snapshot of the host's interfaces,
// addresses and routes is read once; the questions are asked of the snapshot, or of the kernel
// where rules of other programs choose between tables (resolve.go).
//
//	way    a route of another program that can carry datagrams to peers
//	reach  how this host reaches one address: way, devices and the lowest MTU

// LocalAddresses returns the addresses of all interfaces of this host, in the kernel's
// order, each once: meshd's interfaces share theirs. Tentative and duplicate IPv6 addresses are
// left out: no socket can use them.
func LocalAddresses() ([]netip.Addr, error) {
	list, err := addresses()
	if err != nil {
		return nil, err
	}
	var ips []netip.Addr
	known := map[netip.Addr]bool{}
	for _, a := range list {
		ip := toPrefix(a.IPNet).Addr()
		if a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 && !known[ip] {
			known[ip] = true
			ips = append(ips, ip)
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
	// of those that have the node's own addresses. Loopback does not count, since no
	// datagram leaves by it. MTU is 1500 if nothing leads to a peer yet.
	MTU int
	// Narrowest is the name of an interface with that MTU; empty if a route has it, or nothing leads to a peer.
	Narrowest string
	// Lower are the MTUs towards those peers whose interface or route carries less than that of another
	// peer, by address.
	Lower map[netip.Addr]int
	// Sources are the node's own addresses from which datagrams to a peer's address leave, where the
	// route chooses another one than the first of that family. With one own address of a family nothing
	// has to be chosen.
	Sources map[netip.Addr]netip.Addr
	// Devices are the indices of the interfaces by which peers are reached and of those that
	// have the node's own addresses, sorted, without loopback.
	Devices []int
	// Ways are the routes that lead to peers, as `ip route` prints them: sorted, each once, at
	// most 50.
	Ways []string
	// Filtered are interfaces that have an own address of the node, check the source of what comes
	// in strictly (rp_filter 1), and are not those by which this host reaches some peer: the
	// kernel drops that peer's datagrams if they come in there. Sorted, each once.
	Filtered []Filtered
}

// Filtered is an interface that may drop the datagrams of a peer, see Underlay.
type Filtered struct {
	Interface string
	Peer      netip.Addr // the first such peer
	By        string     // the interface by which this host reaches the peer
}

// Datagrams are those that this node sends to its peers.
type Datagrams struct {
	From []netip.AddrPort // this node's own addresses, in order of preference
	Mark uint32           // SO_MARK of the socket, by which rules may choose
}

const (
	waysKept   = 50   // bounds Underlay.Ways, which a status shows
	defaultMTU = 1500 // of Ethernet
)

// FindUnderlay returns how datagrams reach the peers. Where the host has routing rules of its
// own, the kernel is asked.
func FindUnderlay(d Datagrams, peers []netip.AddrPort) (Underlay, error) {
	l, err := readLinks(d)
	if err != nil {
		return Underlay{}, err
	}
	defer l.close()
	return l.underlay(peers), nil
}

// links is a snapshot of this host's interfaces, addresses and routes.
type links struct {
	mtus    map[int]int          // in bytes, by interface index; without loopback
	names   map[int]string       // of all interfaces, by index
	holders map[netip.Addr][]int // the interfaces that have an address
	ways    []way                // of table main
	own     []netip.AddrPort     // those of this node's addresses that are here

	kernel   *resolver // nil where table main decides alone
	datagram question  // what the kernel is asked, but for addresses and ports
	close    func()
}

// readLinks takes the snapshot.
func readLinks(d Datagrams) (links, error) {
	l := links{mtus: map[int]int{}, names: map[int]string{}, holders: map[netip.Addr][]int{}, close: func() {}}
	devices, err := retry(netlink.LinkList)
	if err != nil {
		return l, fmt.Errorf("list interfaces: %w", err)
	}
	for _, d := range devices {
		l.names[d.Attrs().Index] = d.Attrs().Name
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
	for _, a := range d.From { // the kernel refuses a source that the host does not have
		if len(l.holders[a.Addr()]) > 0 {
			l.own = append(l.own, a)
		}
	}
	routes, err := allTables()
	if err != nil {
		return l, err
	}
	l.ways = waysOfOthers(inTable(routes, unix.RT_TABLE_MAIN))
	return l, l.prepare(d, routes)
}

// prepare opens the way to the kernel, if the host has rules or routes that need it: table
// default has none unless somebody has put one there.
func (l *links) prepare(d Datagrams, routes []netlink.Route) error {
	rules, needless, err := readAllRules()
	if err != nil || needless && len(inTable(routes, unix.RT_TABLE_DEFAULT)) == 0 {
		return err
	}
	kernel, err := openAsker()
	if err != nil {
		return err
	}
	l.kernel, l.close = newResolver(rules, routes, kernel.ask), kernel.close
	l.datagram = question{mark: d.Mark}
	if len(d.From) > 0 {
		l.datagram.fromPort = d.From[0].Port()
	}
	return nil
}

// A reach is how this host reaches one address.
type reach struct {
	way     way        // zero: no route leads there
	mtu     int        // the lowest of the route and the devices, in bytes; 0: unknown
	devices []int      // in the order of the route's hops
	source  netip.Addr // of this node's own addresses; invalid: it has none of that family here
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

// of returns the reach of this node's own addresses: the devices that hold them.
func (l links) of() reach {
	var devices []int
	for _, a := range l.own {
		for _, device := range l.holders[a.Addr()] {
			if !slices.Contains(devices, device) {
				devices = append(devices, device)
			}
		}
	}
	return l.over(devices...)
}

// family returns this node's own addresses of the family of a peer.
func (l links) family(peer netip.Addr) (some []netip.AddrPort) {
	for _, a := range l.own {
		if a.Addr().Is4() == peer.Is4() {
			some = append(some, a)
		}
	}
	return some
}

// source returns the one of several own addresses of a family that a way leaves with: the route's, or else
// one of the device that it leaves by, or else the first. The kernel chooses so for a socket that is bound to
// no address (fib_select_path, inet_select_addr), if that address is one that the peers know.
func (l links) source(own []netip.AddrPort, w way) netip.AddrPort {
	for _, a := range own {
		if a.Addr() == sourceOf(w.route) {
			return a
		}
	}
	for _, device := range devicesOf(w.route) {
		for _, a := range own {
			if slices.Contains(l.holders[a.Addr()], device) {
				return a
			}
		}
	}
	return own[0]
}

// to returns the reach of a peer: that of the route that the kernel chooses, which is the one
// with the longest match where table main decides. A route may have several hops (ECMP), and
// an MTU of its own (`ip route ... mtu`).
func (l links) to(peer netip.AddrPort) reach {
	var w way
	if at := leading(l.ways, peer.Addr()); at >= 0 {
		w = l.ways[at]
	}
	own, from := l.family(peer.Addr()), netip.AddrPort{}
	switch {
	case len(own) == 1:
		from = own[0]
	case len(own) > 1 && l.kernel == nil:
		from = l.source(own, w)
	case len(own) > 1: // rules may choose by the source, which the first answer chooses
		from = l.source(own, l.asked(netip.AddrPort{}, peer, w))
	}
	if l.kernel != nil {
		w = l.asked(from, peer, w)
	}
	r := l.over(devicesOf(w.route)...)
	r.way, r.mtu, r.source = w, lower(r.mtu, w.route.MTU), from.Addr()
	return r
}

// asked returns the way from an own address to a peer by the kernel's answer; zero if the kernel would not
// send, and for the mesh's own routes, see CheckUnderlay. otherwise is for answers that are none.
func (l links) asked(from, peer netip.AddrPort, otherwise way) way {
	q := l.datagram
	q.to, q.toPort = peer.Addr(), peer.Port()
	if from.IsValid() {
		q.from, q.fromPort = from.Addr(), from.Port()
	}
	switch a := l.kernel.resolve(q); {
	case a.err == nil && carries(a.route):
		return way{destination(a.route), a.route}
	case a.err == nil || refused(a.err):
		return way{}
	}
	return otherwise
}

// underlay combines the reach of the node's own addresses and of all peers.
func (l links) underlay(peers []netip.AddrPort) Underlay {
	var u Underlay
	own, ours := l.of(), map[netip.Addr]bool{}
	for _, a := range l.own {
		ours[a.Addr()] = true
	}
	u.add(own)
	described := map[wayID]bool{}
	mtus := make([]int, len(peers))       // 0: not known
	shared := make([]*reach, len(l.ways)) // by the index of the way, where table main decides
	for i, peer := range peers {
		if l.kernel != nil && ours[peer.Addr()] {
			continue // table local has it
		}
		at := -1
		if l.kernel == nil {
			at = leading(l.ways, peer.Addr())
		}
		if at >= 0 && shared[at] != nil {
			u.leaves(peer.Addr(), shared[at].source, l.own)
			mtus[i] = shared[at].mtu
			continue
		}
		r := l.to(peer)
		u.leaves(peer.Addr(), r.source, l.own)
		u.add(r)
		if mtus[i] = r.mtu; at >= 0 {
			shared[at] = &r
		}
		if id := r.way.id(); id.prefix.IsValid() && !described[id] && len(u.Ways) < waysKept {
			described[id] = true
			u.Ways = append(u.Ways, describe(r.way.route))
			u.Filtered = append(u.Filtered, l.filtered(own, r, peer.Addr(), u.Filtered)...)
		}
	}
	if u.MTU == 0 {
		u.MTU = defaultMTU
	}
	if len(mtus) > 0 {
		most := slices.Max(mtus)
		for i, mtu := range mtus {
			if mtu != 0 && mtu < most {
				u.lowers(peers[i].Addr(), mtu)
			}
		}
	}
	slices.Sort(u.Ways)
	slices.Sort(u.Devices)
	if i := slices.IndexFunc(u.Devices, func(d int) bool { return l.mtus[d] == u.MTU }); i >= 0 {
		u.Narrowest = l.names[u.Devices[i]]
	}
	slices.SortFunc(u.Filtered, func(a, b Filtered) int { return cmp.Compare(a.Interface, b.Interface) })
	return u
}

// filtered returns the interfaces with the node's own addresses that drop the datagrams of a
// peer, less those that are known.
func (l links) filtered(own, r reach, peer netip.Addr, known []Filtered) (more []Filtered) {
	for _, device := range own.devices {
		name := l.names[device]
		isKnown := slices.ContainsFunc(known, func(f Filtered) bool { return f.Interface == name })
		if len(r.devices) > 0 && !slices.Contains(r.devices, device) && !isKnown && peer.Is4() && strict(name) {
			more = append(more, Filtered{Interface: name, Peer: peer, By: l.names[r.devices[0]]})
		}
	}
	return more
}

// strict reports whether an interface accepts a packet only if the way back leads by it. The
// higher value of "all" and of the interface counts (IN_DEV_RPFILTER in linux/inetdevice.h).
func strict(name string) bool {
	const all = "/proc/sys/net/ipv4/conf/all/rp_filter"
	global, _ := os.ReadFile(all)
	return max(strings.TrimSpace(string(global)), setting("ipv4", name, "rp_filter")) == "1"
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

// leaves notes the source of datagrams to a peer, unless it is the first of its family.
func (u *Underlay) leaves(peer, source netip.Addr, own []netip.AddrPort) {
	first := slices.IndexFunc(own, func(a netip.AddrPort) bool { return a.Addr().Is4() == peer.Is4() })
	if !source.IsValid() || first >= 0 && own[first].Addr() == source {
		return
	}
	if u.Sources == nil {
		u.Sources = map[netip.Addr]netip.Addr{}
	}
	u.Sources[peer] = source
}

// lowers notes the MTU towards a peer.
func (u *Underlay) lowers(peer netip.Addr, mtu int) {
	if u.Lower == nil {
		u.Lower = map[netip.Addr]int{}
	}
	u.Lower[peer] = mtu
}

// lower returns the lower of two MTUs; 0 stands for an unknown one.
func lower(a, b int) int {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}
