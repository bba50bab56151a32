package mesh_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"example.org/meshd/internal/mesh"
)

func prefixes(ss ...string) (ps []mesh.Prefix) {
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func endpoint(s string) mesh.Endpoint { return mesh.Endpoint{AddrPort: netip.MustParseAddrPort(s)} }

// three is a mesh of one node with both families, one with a network behind it, and one of IPv6.
var three = mesh.Mesh{Self: "a", Peers: []mesh.Peer{
	{Name: "a", Addresses: []mesh.Endpoint{endpoint("172.18.0.2:8285")}, Subnets: prefixes("10.244.1.0/24",
		"10.244.9.0/24",
		"fd00:1::/64")},
	{Name: "b", Addresses: []mesh.Endpoint{endpoint("172.18.0.3:8285")}, Subnets: prefixes("10.244.2.0/24"),
		Routes: prefixes("192.168.0.0/16", "10.244.1.128/25")},
	{Name: "c", Addresses: []mesh.Endpoint{endpoint("[2001:db8::4]:8285")}, Subnets: prefixes("fd00:3::/64")},
}}

func TestOuterHeaders(t *testing.T) {
	for _, test := range []struct {
		name, at string
		want     int
	}{
		{"IPv4", "172.18.0.2:8285", 28},
		{"IPv6", "[2001:db8::1]:8285", 48},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := endpoint(test.at).OuterHeaders(); got != test.want {
				t.Errorf("%d bytes, want %d", got, test.want)
			}
		})
	}
}

// Endpoints are keys of maps, so two of the same place are equal.
func TestEndpointsAreComparable(t *testing.T) {
	at := map[mesh.Endpoint]string{endpoint("172.18.0.2:8285"): "a"}
	if at[endpoint("172.18.0.2:8285")] != "a" || at[endpoint("172.18.0.2:8286")] != "" {
		t.Errorf("%v", at)
	}
}

func TestSubnetsOfAFamily(t *testing.T) {
	for _, test := range []struct {
		peer           string
		first4, first6 mesh.Prefix
		tun4, tun6     netip.Addr
	}{
		{"a", prefixes("10.244.1.0/24")[0], prefixes("fd00:1::/64")[0],
			netip.MustParseAddr("10.244.1.0"), netip.MustParseAddr("fd00:1::")},
		{"b", prefixes("10.244.2.0/24")[0], mesh.Prefix{}, netip.MustParseAddr("10.244.2.0"), netip.Addr{}},
		{"c", mesh.Prefix{}, prefixes("fd00:3::/64")[0], netip.Addr{}, netip.MustParseAddr("fd00:3::")},
	} {
		t.Run(test.peer, func(t *testing.T) {
			p, ok := three.Peer(test.peer)
			if !ok || p.FirstSubnet(false) != test.first4 || p.FirstSubnet(true) != test.first6 {
				t.Errorf("%v, %v, %v", ok, p.FirstSubnet(false), p.FirstSubnet(true))
			}
			if p.TUNAddress(false) != test.tun4 || p.TUNAddress(true) != test.tun6 {
				t.Errorf("TUN addresses %v, %v", p.TUNAddress(false), p.TUNAddress(true))
			}
		})
	}
}

func TestCanSpeakTo(t *testing.T) {
	for _, test := range []struct {
		name string
		a, b []mesh.Prefix
		want bool
	}{
		{"both IPv4", prefixes("10.0.1.0/24"), prefixes("10.0.2.0/24"), true},
		{"both IPv6", prefixes("fd00:1::/64"), prefixes("fd00:2::/64"), true},
		{"IPv6 beside IPv4", prefixes("10.0.1.0/24", "fd00:1::/64"), prefixes("fd00:2::/64"), true},
		{"different families", prefixes("10.0.1.0/24"), prefixes("fd00:2::/64"), false},
		{"no subnets", nil, prefixes("10.0.2.0/24", "fd00:2::/64"), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := mesh.Peer{Subnets: test.a}, mesh.Peer{Subnets: test.b}
			if a.CanSpeakTo(b) != test.want || b.CanSpeakTo(a) != test.want {
				t.Errorf("%v and %v, want %v", a.CanSpeakTo(b), b.CanSpeakTo(a), test.want)
			}
		})
	}
}

func TestOthers(t *testing.T) {
	for _, test := range []struct {
		name, self string
		want       []string
	}{
		{"in the middle", "b", []string{"a", "c"}},
		{"not in the mesh", "d", []string{"a", "b", "c"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := mesh.Mesh{Self: test.self, Peers: three.Peers}
			var got []string
			for p := range m.Others() {
				got = append(got, p.Name)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
	for p := range (mesh.Mesh{Self: "a", Peers: three.Peers[:1]}).Others() {
		t.Errorf("a node alone has %q", p.Name)
	}
	for p := range (mesh.Mesh{Self: "a", Peers: three.Peers}).Others() {
		if p.Name != "b" {
			t.Errorf("%q after the end", p.Name)
		}
		break
	}
}

func TestPeer(t *testing.T) {
	if p, ok := three.Peer("b"); !ok || !reflect.DeepEqual(p, three.Peers[1]) {
		t.Errorf("%+v, %v", p, ok)
	}
	if p, ok := three.Peer("d"); ok || p.Name != "" {
		t.Errorf("%+v, %v", p, ok)
	}
}

func TestRoute(t *testing.T) {
	for _, test := range []struct {
		name, to string
		want     mesh.Route
	}{
		{"a pod of this node", "10.244.1.5", mesh.Route{Peer: "a", Prefix: prefixes("10.244.1.0/24")[0],
			Self: true}},
		{"a pod of a peer", "10.244.2.5", mesh.Route{Peer: "b", Prefix: prefixes("10.244.2.0/24")[0]}},
		{"a network behind a peer", "192.168.7.7", mesh.Route{Peer: "b", Prefix: prefixes("192.168.0.0/16")[0]}},
		{"a part of a subnet of another", "10.244.1.200", mesh.Route{Peer: "b",
			Prefix: prefixes("10.244.1.128/25")[0]}},
		{"IPv6", "fd00:3::7", mesh.Route{Peer: "c", Prefix: prefixes("fd00:3::/64")[0]}},
		{"IPv4 in the form of IPv6", "::ffff:10.244.2.5", mesh.Route{Peer: "b",
			Prefix: prefixes("10.244.2.0/24")[0]}},
		{"elsewhere", "192.0.2.1", mesh.Route{}},
		{"elsewhere in IPv6", "2001:db8::1", mesh.Route{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := three.Route(netip.MustParseAddr(test.to)); got != test.want {
				t.Errorf("%+v, want %+v", got, test.want)
			}
		})
	}
}

// oracle finds a route the slow way: it tries every length of prefix, longest first, and asks whether
// some node has exactly that prefix.
func oracle(m mesh.Mesh, dst netip.Addr) mesh.Route {
	for bits := dst.BitLen(); bits >= 0; bits-- {
		want := netip.PrefixFrom(dst, bits).Masked()
		for _, p := range m.Peers {
			if slices.Contains(p.Subnets, want) || slices.Contains(p.Routes, want) {
				return mesh.Route{Peer: p.Name, Prefix: want, Self: p.Name == m.Self}
			}
		}
	}
	return mesh.Route{}
}

// Meshes of nested prefixes, some of them of length 0, answer as the oracle does.
func TestRouteLikeTheOracle(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	address := func() netip.Addr { // few bits vary, so that prefixes lie within each other
		v4 := [4]byte{10, byte(random.IntN(2)), byte(random.IntN(4)), byte(random.IntN(256))}
		if random.IntN(2) == 0 {
			return netip.AddrFrom4(v4)
		}
		v6 := [16]byte{0xfd, byte(random.IntN(2)), 15: byte(random.IntN(256))}
		return netip.AddrFrom16(v6)
	}
	matched := 0
	for round := range 200 {
		m, taken := mesh.Mesh{Self: "n3"}, map[mesh.Prefix]bool{}
		for i := range 1 + random.IntN(8) {
			p := mesh.Peer{Name: fmt.Sprint("n", i)}
			for range random.IntN(6) {
				at := address()
				prefix := netip.PrefixFrom(at, random.IntN(at.BitLen()+1)).Masked()
				switch {
				case taken[prefix]: // of two nodes with one prefix either may be right
				case random.IntN(2) == 0:
					p.Subnets = append(p.Subnets, prefix)
				default:
					p.Routes = append(p.Routes, prefix)
				}
				taken[prefix] = true
			}
			m.Peers = append(m.Peers, p)
		}
		for range 50 {
			to := address()
			got, want := m.Route(to), oracle(m, to)
			if got != want {
				t.Fatalf("round %d, to %s: %+v, want %+v in %+v", round, to, got, want, m)
			}
			if want.Peer != "" {
				matched++
			}
		}
	}
	if matched < 1000 {
		t.Errorf("only %d addresses are in some prefix: the meshes are too empty to prove anything", matched)
	}
}

func TestForwardedProbe(t *testing.T) {
	for _, test := range []struct{ name, subnet, want string }{
		{"before the broadcast address", "10.244.2.0/24", "10.244.2.254"},
		{"across bytes", "10.244.0.0/21", "10.244.7.254"},
		{"of four addresses", "10.0.0.4/30", "10.0.0.6"},
		{"of two addresses", "10.0.0.4/31", "10.0.0.5"},
		{"of one address", "10.0.0.4/32", ""},
		{"IPv6 has no broadcast", "fd00:1::/64", "fd00:1::ffff:ffff:ffff:ffff"},
		{"a bit within a byte", "fd00::/121", "fd00::7f"},
		{"one IPv6 address", "fd00::1/128", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			subnet := netip.MustParsePrefix(test.subnet)
			p := mesh.Peer{Subnets: []mesh.Prefix{subnet}}
			got := p.ForwardedProbe(subnet.Addr().Is6())
			if got.IsValid() != (test.want != "") || got.IsValid() && got.String() != test.want {
				t.Errorf("%s, want %q", got, test.want)
			}
			if other := p.ForwardedProbe(!subnet.Addr().Is6()); other.IsValid() {
				t.Errorf("of a family without subnets: %s", other)
			}
		})
	}
}

// shared is a mesh in which two others have one prefix, and this node and another one have a second.
func shared() mesh.Mesh {
	p := netip.MustParsePrefix
	one, two := p("192.168.7.0/24"), p("192.168.8.0/24")
	return mesh.Mesh{Self: "a", Peers: []mesh.Peer{
		{Name: "a", Subnets: []mesh.Prefix{p("10.244.1.0/24")}, Routes: []mesh.Prefix{two}},
		{Name: "b", Subnets: []mesh.Prefix{p("10.244.2.0/24")}, Routes: []mesh.Prefix{one, two}},
		{Name: "c", Subnets: []mesh.Prefix{p("10.244.3.0/24")}, Routes: []mesh.Prefix{one}},
	}, Shares: []mesh.Share{
		{Prefix: one, Carriers: []mesh.Carrier{{Peer: "c", Metric: 50}, {Peer: "b", Metric: 100}}},
		{Prefix: two, Carriers: []mesh.Carrier{{Peer: "b", Metric: 50}, {Peer: "a", Metric: 100}}},
	}}
}

// A shared prefix is behind one number, the lowest.
func TestBehindShares(t *testing.T) {
	for _, test := range []struct {
		name  string
		peers map[string]int
		want  string
	}{
		{"none", nil, "map[]"},
		{"one of them", map[string]int{"b": 7}, "map[7:[192.168.7.0/24 192.168.8.0/24 10.244.2.0/24]]"},
		{"both, the same", map[string]int{"b": 7, "c": 7},
			"map[7:[192.168.7.0/24 192.168.8.0/24 10.244.2.0/24 10.244.3.0/24]]"},
		{"both", map[string]int{"b": 7, "c": 5},
			"map[5:[192.168.7.0/24 10.244.3.0/24] 7:[192.168.8.0/24 10.244.2.0/24]]"},
		{"the other way round", map[string]int{"b": 5, "c": 7},
			"map[5:[192.168.7.0/24 192.168.8.0/24 10.244.2.0/24] 7:[10.244.3.0/24]]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := fmt.Sprint(shared().Behind(test.peers)); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

// Of several carriers this node itself comes first, and then the lowest metric.
func TestRouteOfShares(t *testing.T) {
	m := shared()
	for to, want := range map[string]string{
		"192.168.7.1": "c false", "192.168.8.1": "a true", "10.244.2.1": "b false",
	} {
		r := m.Route(netip.MustParseAddr(to))
		if got := fmt.Sprint(r.Peer, " ", r.Self); got != want {
			t.Errorf("%s: %s, want %s", to, got, want)
		}
	}
}
