package link

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The tests of this file make snapshots and routing tables themselves and need no root.

// by returns a route to a prefix by a device.
func by(prefix string, device int) netlink.Route {
	p := netip.MustParsePrefix(prefix)
	family := netlink.FAMILY_V4
	if p.Addr().Is6() {
		family = netlink.FAMILY_V6
	}
	return netlink.Route{Dst: toIPNet(p), LinkIndex: device, Family: family, Type: unix.RTN_UNICAST,
		Protocol: unix.RTPROT_BOOT}
}

// with returns a route with changes.
func with(r netlink.Route, change func(*netlink.Route)) netlink.Route {
	change(&r)
	return r
}

// snapshot has three devices, of which 3 holds the node's own address; 1 would be loopback.
func snapshot(routes ...netlink.Route) links {
	l := links{mtus: map[int]int{2: 9000, 3: 1500, 4: 1400},
		holders: map[netip.Addr][]int{addrs("172.18.0.2")[0]: {3}, addrs("127.0.0.1")[0]: {1}}}
	for _, r := range routes {
		l.ways = append(l.ways, way{destination(r), r})
	}
	return l
}

// Of one peer the snapshot says by which devices it is reached and how large a datagram may be.
func TestReachOfAPeer(t *testing.T) {
	mtu := func(bytes int) func(*netlink.Route) { return func(r *netlink.Route) { r.MTU = bytes } }
	hops := func(r *netlink.Route) {
		r.LinkIndex, r.MultiPath = 0, []*netlink.NexthopInfo{{LinkIndex: 4}, {LinkIndex: 2}}
	}
	l := snapshot(by("0.0.0.0/0", 2), by("10.0.0.0/8", 3), with(by("10.1.0.0/16", 2), mtu(1300)),
		with(by("10.2.0.0/16", 3), mtu(9000)), with(by("10.3.0.0/16", 0), hops), by("10.4.0.0/16", 1),
		with(by("10.5.0.0/16", 1), mtu(1200)), by("fd00::/64", 4))
	for name, test := range map[string]struct {
		peer    string
		mtu     int
		devices []int
	}{
		"the default route":         {"192.0.2.1", 9000, []int{2}},
		"the longest match":         {"10.9.9.9", 1500, []int{3}},
		"an MTU of the route":       {"10.1.0.1", 1300, []int{2}},
		"one larger than the link":  {"10.2.0.1", 1500, []int{3}},
		"several hops":              {"10.3.0.1", 1400, []int{4, 2}},
		"loopback":                  {"10.4.0.1", 0, nil},
		"loopback, with an MTU":     {"10.5.0.1", 1200, nil},
		"IPv6":                      {"fd00::9", 1400, []int{4}},
		"no route of that family":   {"fd01::9", 0, nil},
		"a mapped address is other": {"::ffff:10.1.0.1", 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := l.to(at(8285, netip.MustParseAddr(test.peer))[0])
			if r.mtu != test.mtu || !slices.Equal(r.devices, test.devices) {
				t.Errorf("MTU %d by %v, want %d by %v", r.mtu, r.devices, test.mtu, test.devices)
			}
		})
	}
}

// The underlay is what all peers together need.
func TestUnderlayOfAllPeers(t *testing.T) {
	limited := with(by("10.2.0.0/16", 3), func(r *netlink.Route) { r.MTU = 1300 })
	l := snapshot(by("0.0.0.0/0", 2), by("10.0.0.0/8", 3), by("10.1.0.0/16", 4), limited)
	l.names = map[int]string{2: "fast", 3: "eth0", 4: "vlan7"}
	for name, test := range map[string]struct {
		local string
		peers []netip.Addr
		want  Underlay
	}{
		"no peer": {"172.18.0.2", nil, Underlay{MTU: 1500, Narrowest: "eth0", Devices: []int{3}}},
		"an MTU of a route": {"172.18.0.2", addrs("10.2.0.1"), Underlay{MTU: 1300, Devices: []int{3},
			Ways: []string{"10.2.0.0/16 proto boot"}}},
		"one": {"172.18.0.2", addrs("192.0.2.1"), Underlay{MTU: 1500, Narrowest: "eth0", Devices: []int{2, 3},
			Ways: []string{"0.0.0.0/0 proto boot"}}},
		"several": {"172.18.0.2", addrs("10.1.0.1", "192.0.2.1", "10.1.0.2"),
			Underlay{MTU: 1400, Narrowest: "vlan7", Devices: []int{2, 3, 4},
				Lower: map[netip.Addr]int{addrs("10.1.0.1")[0]: 1400, addrs("10.1.0.2")[0]: 1400},
				Ways:  []string{"0.0.0.0/0 proto boot", "10.1.0.0/16 proto boot"}}},
		"an address of nobody": {"192.0.2.9", addrs("192.0.2.1"),
			Underlay{MTU: 9000, Narrowest: "fast", Devices: []int{2}, Ways: []string{"0.0.0.0/0 proto boot"}}},
		"only loopback": {"127.0.0.1", nil, Underlay{MTU: 1500}},
	} {
		t.Run(name, func(t *testing.T) {
			l.own = nil
			if local := at(8285, netip.MustParseAddr(test.local)); len(l.holders[local[0].Addr()]) > 0 {
				l.own = local
			}
			got := l.underlay(at(8285, test.peers...))
			for i, w := range got.Ways { // the names of this host's devices are no part of the test
				got.Ways[i] = nameless(w)
			}
			slices.Sort(got.Ways)
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
		})
	}
}

// nameless takes the device out of what describe returns: it has the name of this host's.
func nameless(described string) string {
	var prefix, dev, proto string
	if n, _ := fmt.Sscanf(described, "%s dev %s proto %s", &prefix, &dev, &proto); n == 3 {
		return prefix + " proto " + proto
	}
	return described
}

// A status shows some ways, not ten thousand.
func TestWaysHaveABound(t *testing.T) {
	var l links
	var peers []netip.Addr
	for i := range waysKept * 2 {
		r := by(fmt.Sprintf("10.0.%d.0/24", i), 1<<30)
		l.ways = append(l.ways, way{destination(r), r})
		peers = append(peers, netip.AddrFrom4([4]byte{10, 0, byte(i), 1}))
	}
	if u := l.underlay(at(8285, peers...)); len(u.Ways) != waysKept || !slices.IsSorted(u.Ways) {
		t.Errorf("%d ways: %q", len(u.Ways), u.Ways)
	}
}

// slowLeading is the oracle of leading: it asks for each length, from the longest on.
func slowLeading(ways []way, peer netip.Addr) way {
	for bits := peer.BitLen(); bits >= 0; bits-- {
		p, _ := peer.Prefix(bits)
		for _, w := range ways {
			if w.prefix == p {
				return w
			}
		}
	}
	return way{}
}

func TestLeading(t *testing.T) {
	l := snapshot(by("10.0.0.0/8", 1), by("10.1.0.0/16", 2), by("10.1.2.0/24", 3), by("10.1.2.3/32", 4),
		by("::/0", 5))
	for _, ip := range addrs("10.1.2.3", "10.1.2.4", "10.1.9.9", "10.9.9.9", "11.0.0.1", "fd00::1") {
		var got way
		if at := leading(l.ways, ip); at >= 0 {
			got = l.ways[at]
		}
		if want := slowLeading(l.ways, ip); got.prefix != want.prefix {
			t.Errorf("%s: by %s, want %s", ip, got.prefix, want.prefix)
		}
	}
}

// A datagram to a node loops if nothing is more specific than the route into the mesh.
func TestLoop(t *testing.T) {
	cidr := prefixes("10.0.0.0/8", "fd00::/16")
	for name, test := range map[string]struct {
		routes []netlink.Route
		peer   string
		loops  bool
	}{
		"outside":                {nil, "172.18.0.3", false},
		"no route":               {nil, "10.60.0.1", true},
		"the default route":      {[]netlink.Route{by("0.0.0.0/0", 2)}, "10.60.0.1", true},
		"a route of that length": {[]netlink.Route{by("10.0.0.0/8", 2)}, "10.60.0.1", true},
		"one bit more":           {[]netlink.Route{by("10.0.0.0/9", 2)}, "10.60.0.1", false},
		"IPv6":                   {[]netlink.Route{by("::/0", 2)}, "fd00::1", true},
		"IPv6 with a link":       {[]netlink.Route{by("fd00::/64", 2)}, "fd00::1", false},
	} {
		t.Run(name, func(t *testing.T) {
			err := loop(snapshot(test.routes...).ways, cidr, addrs("192.0.2.7", test.peer))
			e, loops := errors.AsType[*LoopError](err)
			if loops != test.loops || loops && e.Node.String() != test.peer {
				t.Errorf("%v, want a loop: %v", err, test.loops)
			}
		})
	}
}

// Routes of others that are more specific than the mesh's take packets from it.
func TestShadowsOfATable(t *testing.T) {
	const tun = 9
	ours := func(r *netlink.Route) { r.Protocol, r.Type = BackstopProtocol, unix.RTN_UNREACHABLE }
	for name, test := range map[string]struct {
		route netlink.Route
		want  bool
	}{
		"inside":          {by("10.244.2.0/25", 2), true},
		"the same":        {by("10.244.2.0/24", 2), true},
		"wider":           {by("10.244.0.0/16", 2), false},
		"beside":          {by("10.244.3.0/24", 2), false},
		"the TUN's own":   {by("10.244.2.0/25", tun), false},
		"a backstop":      {with(by("10.244.2.0/24", 1), ours), false},
		"of another kind": {by("fd00:0:0:2::/65", 2), true},
	} {
		t.Run(name, func(t *testing.T) {
			found := shadows([]netlink.Route{test.route}, []int{tun}, prefixes("10.244.2.0/24", "fd00:0:0:2::/64"))
			if (len(found) == 1) != test.want {
				t.Errorf("%v", found)
			}
		})
	}
	var many []netlink.Route
	for i := range 20 {
		many = append(many, by(fmt.Sprintf("10.244.2.%d/32", i), 2))
	}
	if found := shadows(many, []int{tun}, prefixes("10.244.2.0/24")); len(found) != 5 {
		t.Errorf("%d of 20 are described", len(found))
	}
}
