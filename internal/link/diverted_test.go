package link

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"example.org/meshd/internal/dataplane/tun"
	"example.org/meshd/internal/nstest"
)

// crossroads is a node with a TUN, pods' bridge and two more interfaces, in a namespace.
func crossroads(t *testing.T, n *nstest.Namespace) Pods {
	t.Helper()
	must(t, n.IP("link set lo up", "link add eth0 type veth peer name v0", "link set eth0 mtu 9000 up",
		"link set v0 up", "addr add 172.18.0.2/24 dev eth0", "addr add 2001:db8::2/64 dev eth0 nodad",
		"link add eth1 type veth peer name v1", "link set eth1 mtu 1400 up", "link set v1 up",
		"link add cni0 type bridge", "link set cni0 up", "addr add 10.244.1.254/24 dev cni0",
		"addr add fd00:0:0:1::1/64 dev cni0 nodad"))
	must(t, n.Sysctl("ipv4.ip_forward", "1"))
	must(t, n.Sysctl("ipv6.conf.all.forwarding", "1"))
	must(t, tun.Create("mesh0"))
	must(t, n.IP("link set mesh0 up", "route add 10.244.0.0/16 dev mesh0 proto 85",
		"route add 192.168.7.0/24 dev mesh0 proto 85", "route add fd00::/48 dev mesh0 proto 85"))
	return Pods{TUN: "mesh0", Link: Interface{Index("cni0"), "cni0"},
		Networks: prefixes("10.244.0.0/16", "fd00::/48"),
		Own:      prefixes("10.244.1.0/24", "fd00:0:0:1::/64"),
		Others:   prefixes("10.244.2.0/24", "10.244.3.0/24", "192.168.7.0/24", "fd00:0:0:2::/64")}
}

// A rule is found by what the kernel does with packets of pods, whatever the rule selects by; and is
// gone once it does no harm.
func TestFindDiversions(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		p := crossroads(t, n)
		must(t, n.IP("route add 10.0.0.0/8 dev eth1 table 52", "route add default dev eth1 table 53",
			"route add throw 10.244.0.0/16 table 54", "route add fd00::/16 dev eth1 table 52",
			"route add blackhole 10.244.3.0/24 table 55", "route add 10.244.3.128/25 dev eth1 table 56"))
		all, fore := prefixes("10.244.2.0/24", "10.244.3.0/24"), prefixes("10.244.2.0/24")
		lan := netip.MustParsePrefix("192.168.7.0/24")
		third, own := prefixes("10.244.3.0/24"), prefixes("10.244.1.0/24")
		by52 := Diversion{"5270: from all lookup 52", 5270, 52, "eth1", false, all, true}
		in52 := Diversion{"5270: from all lookup 52", 5270, 52, "eth1", true, own, true}
		for _, test := range []struct {
			name, rule string
			want       []Diversion
		}{
			{"a whole table", "pref 5270 lookup 52", []Diversion{by52, in52}},
			{"as Tailscale does, with the mesh excepted", "pref 5270 lookup 54", nil},
			{"by the pods' interface", "pref 7 iif cni0 lookup 53", []Diversion{{
				"7: from all iif cni0 lookup 53", 7, 53, "eth1", false, append(all[:2:2], lan), true}}},
			{"by the TUN", "pref 7 iif mesh0 lookup 53", []Diversion{{
				"7: from all iif mesh0 lookup 53", 7, 53, "eth1", true, own, true}}},
			{"by the pods' addresses", "pref 7 from 10.244.1.0/24 to 10.244.2.0/24 lookup 53", []Diversion{{
				"7: from 10.244.1.0/24 to 10.244.2.0/24 lookup 53", 7, 53, "eth1", false, fore, false}}},
			{"of another host's mark", "pref 7 fwmark 0x5 lookup 53", nil},
			{"of all but a mark", "pref 7 not fwmark 0x5 lookup 52", []Diversion{
				{"7: not from all fwmark 0x5 lookup 52", 7, 52, "eth1", false, all, true},
				{"7: not from all fwmark 0x5 lookup 52", 7, 52, "eth1", true, own, true}}},
			{"that refuses", "pref 7 to 10.244.3.0/24 prohibit", []Diversion{{
				"7: from all to 10.244.3.0/24 prohibit", 7, 0, "", false, third, false}}},
			{"with a blackhole", "pref 7 lookup 55", []Diversion{{
				"7: from all lookup 55", 7, 55, "", false, third, false}}},
			{"a part of a subnet", "pref 7 lookup 56", []Diversion{{
				"7: from all lookup 56", 7, 56, "eth1", false, third, false}}},
			{"after main", "pref 32770 lookup 52", nil},
			{"without the default route", "pref 7 lookup 53 suppress_prefixlength 0", nil},
			{"IPv6", "-6 pref 5270 lookup 52", []Diversion{
				{"5270: from all lookup 52", 5270, 52, "eth1", false, prefixes("fd00:0:0:2::/64"), true},
				{"5270: from all lookup 52", 5270, 52, "eth1", true, prefixes("fd00:0:0:1::/64"), true}}},
		} {
			sub(t, n, test.name, func(t *testing.T) {
				change := func(verb string) {
					words := strings.Fields(test.rule)
					at := slices.Index(words, "pref")
					output(t, n, "ip", slices.Concat(words[:at], []string{"rule", verb}, words[at:])...)
				}
				change("add")
				got, err := FindDiversions(p)
				if err != nil || !reflect.DeepEqual(got, test.want) {
					t.Errorf("%v\ngot  %+v\nwant %+v", err, got, test.want)
				}
				change("del")
				if got, err := FindDiversions(p); err != nil || got != nil {
					t.Errorf("without the rule: %+v, %v", got, err)
				}
			})
		}
		sub(t, n, "cured by a rule in front", func(t *testing.T) {
			must(t, n.IP("rule add pref 5270 lookup 52", "rule add to 10.244.0.0/16 lookup main pref 5269"))
			if got, err := FindDiversions(p); err != nil || got != nil {
				t.Errorf("%+v, %v", got, err)
			}
			must(t, n.IP("rule del pref 5269"))
		})
		sub(t, n, "a host that does not forward", func(t *testing.T) {
			must(t, n.Sysctl("ipv4.ip_forward", "0"))
			want := []Diversion{{"5270: from all lookup 52", 5270, 52, "", false, all, true},
				{"5270: from all lookup 52", 5270, 52, "", true, own, true}}
			if got, err := FindDiversions(p); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%+v, %v", got, err)
			}
			must(t, n.IP("rule del pref 5270", "rule add pref 5270 lookup 54"))
			if got, err := FindDiversions(p); err != nil || got != nil {
				t.Errorf("by table main: %+v, %v", got, err)
			}
		})
	})
}

// Where rules choose between tables, the underlay is what the kernel says.
func TestUnderlayByRules(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		crossroads(t, n)
		must(t, n.IP("addr add 172.19.0.2/24 dev eth1", "route add default via 172.18.0.1",
			"route add 172.18.0.8/32 via 172.19.0.1 mtu 1350 table 77",
			"route add 9.9.9.0/24 table 77 nexthop via 172.18.0.1 dev eth0 nexthop via 172.19.0.1 dev eth1",
			"route add unreachable 9.9.8.0/24 table 77", "route add 9.9.7.0/24 dev mesh0 proto 85 table 77"))
		eth0, eth1 := Index("eth0"), Index("eth1")
		both := []int{eth0, eth1}
		for _, test := range []struct {
			name, rule, local, peer string
			mark                    uint32
			mtu                     int
			devices                 []int
		}{
			{"standard rules", "", "172.18.0.2", "172.18.0.8", 0, 9000, []int{eth0}},
			{"all", "lookup 77", "172.18.0.2", "172.18.0.8", 0, 1350, both},
			{"falls through to main", "lookup 77", "172.18.0.2", "172.18.0.9", 0, 9000, []int{eth0}},
			{"by the port", "ipproto udp dport 8285 lookup 77", "172.18.0.2", "172.18.0.8", 0, 1350, both},
			{"by another port", "ipproto udp dport 8 lookup 77", "172.18.0.2", "172.18.0.8", 0, 9000, []int{eth0}},
			{"by our address", "from 172.18.0.2 lookup 77", "172.18.0.2", "172.18.0.8", 0, 1350, both},
			{"by our mark", "fwmark 0x1000 lookup 77", "172.18.0.2", "172.18.0.8", 0x1000, 1350, both},
			{"by another mark", "fwmark 0x1000 lookup 77", "172.18.0.2", "172.18.0.8", 0, 9000, []int{eth0}},
			{"several hops", "lookup 77", "172.18.0.2", "9.9.9.3", 0, 1400, both},
			{"refused", "lookup 77", "172.18.0.2", "9.9.8.3", 0, 9000, []int{eth0}},
			{"into the mesh itself", "lookup 77", "172.18.0.2", "9.9.7.3", 0, 9000, []int{eth0}},
			{"this node", "lookup 77", "172.18.0.2", "172.18.0.2", 0, 9000, []int{eth0}},
			{"an address of NAT", "lookup 77", "203.0.113.1", "172.18.0.8", 0, 1350, []int{eth1}},
		} {
			sub(t, n, test.name, func(t *testing.T) {
				if test.rule != "" {
					must(t, n.IP("rule add pref 77 "+test.rule))
					defer func() { must(t, n.IP("rule del pref 77")) }()
				}
				d := datagrams(test.local)
				d.Mark = test.mark
				u, err := FindUnderlay(d, at(8285, netip.MustParseAddr(test.peer)))
				if err != nil || u.MTU != test.mtu || !slices.Equal(u.Devices, test.devices) {
					t.Errorf("%+v, %v, want MTU %d by %v", u, err, test.mtu, test.devices)
				}
			})
		}
	})
}

// Of several own addresses datagrams leave with the one that the host's routes choose.
func TestFindUnderlayChoosesSources(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		crossroads(t, n)
		must(t, n.IP("addr add 172.19.0.2/24 dev eth1", "addr add 172.18.0.7/24 dev eth0",
			"addr add fd18::2/64 dev eth0 nodad", "route add default via 172.19.0.1",
			"route add 9.9.1.0/24 via 172.19.0.1 src 172.18.0.7",
			"route add default via 172.18.0.1 table 18",
			"route add 9.9.2.0/24 via 172.19.0.1 src 172.18.0.7 table 19"))
		const first, second, third = "172.18.0.2", "172.19.0.2", "172.18.0.7"
		for _, test := range []struct {
			name, rule string
			own        []string
			peer, want string // empty: the first of its family
			by         string // the interface of the way
		}{
			{"on the link of the first", "", []string{first, second}, "172.18.0.9", "", "eth0"},
			{"on the link of the second", "", []string{first, second}, "172.19.0.9", second, "eth1"},
			{"by the default route", "", []string{first, second}, "203.0.113.9", second, "eth1"},
			{"the second is preferred", "", []string{second, first}, "172.18.0.9", first, "eth0"},
			{"the route names the source", "", []string{first, second, third}, "9.9.1.9", third, "eth1"},
			{"the route names one that is not listed", "", []string{first, second}, "9.9.1.9", second, "eth1"},
			{"one of them is not here", "", []string{"192.0.2.1", first}, "203.0.113.9", "", "eth1"},
			{"one", "", []string{first}, "203.0.113.9", "", "eth1"},
			{"one of each family", "", []string{first, "fd18::2"}, "fd18::9", "", "eth0"},
			{"a rule leaves by the other", "to 203.0.113.0/24 lookup 18", []string{second, first},
				"203.0.113.9", first, "eth0"},
			{"a rule names the source", "to 9.9.2.0/24 lookup 19", []string{first, third}, "9.9.2.9", third, "eth1"},
			{"a rule by the chosen source", "from 172.19.0.2 lookup 18", []string{first, second},
				"203.0.113.9", second, "eth0"},
		} {
			sub(t, n, test.name, func(t *testing.T) {
				if test.rule != "" {
					must(t, n.IP("rule add pref 77 "+test.rule))
					defer func() { must(t, n.IP("rule del pref 77")) }()
				}
				peer := netip.MustParseAddr(test.peer)
				l, err := readLinks(datagrams(test.own...))
				if err != nil {
					t.Fatal(err)
				}
				defer l.close()
				if r := l.to(at(8285, peer)[0]); len(r.devices) != 1 || l.names[r.devices[0]] != test.by {
					t.Errorf("it leaves by %v, want %s", r.devices, test.by)
				}
				got, known := l.underlay(at(8285, peer)).Sources[peer]
				if known != (test.want != "") || known && got.String() != test.want {
					t.Errorf("from %v (%t), want %q", got, known, test.want)
				}
			})
		}
	})
}

// A strict rp_filter where our address is, and a way to a peer that leads elsewhere, do not go together.
func TestFindUnderlayNamesStrictFilters(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		crossroads(t, n)
		must(t, n.IP("addr add 172.19.0.2/24 dev eth1", "route add default via 172.19.0.1"))
		far, near := netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("172.18.0.9")
		for _, test := range []struct {
			name, all, own string
			peers          []netip.Addr
			want           []Filtered
		}{
			{"strict", "0", "1", []netip.Addr{near, far}, []Filtered{{"eth0", far, "eth1"}}},
			{"strict by default of all", "1", "0", []netip.Addr{far, near}, []Filtered{{"eth0", far, "eth1"}}},
			{"loose wins over strict", "1", "2", []netip.Addr{far}, nil},
			{"off", "0", "0", []netip.Addr{far}, nil},
			{"the way back is the way in", "1", "1", []netip.Addr{near}, nil},
		} {
			sub(t, n, test.name, func(t *testing.T) {
				must(t, n.Sysctl("ipv4.conf.all.rp_filter", test.all))
				must(t, n.Sysctl("ipv4.conf.eth0.rp_filter", test.own))
				u, err := FindUnderlay(datagrams("172.18.0.2"), at(8285, test.peers...))
				if err != nil || !reflect.DeepEqual(u.Filtered, test.want) {
					t.Errorf("%+v, %v, want %+v", u.Filtered, err, test.want)
				}
			})
		}
	})
}
