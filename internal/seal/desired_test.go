package seal

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"example.org/meshd/internal/link"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
	"example.org/meshd/internal/wireguard"
)

func prefixes(words ...string) (all []netip.Prefix) {
	for _, w := range words {
		all = append(all, netip.MustParsePrefix(w))
	}
	return all
}

// three is a mesh of this node, a peer with an address, and one behind it that calls in; lan is behind both.
func three() *Wanted {
	lan := netip.MustParsePrefix("192.168.0.0/24")
	return &Wanted{
		Self: mesh.Peer{Name: "self", Subnets: prefixes("10.244.1.0/24", "fd00:1::/64"), Key: mesh.Key{1}},
		TUN:  "mesh0", Port: 51820, MTU: 1440, Keepalive: 25 * time.Second,
		Peers: []Peer{
			{Peer: mesh.Peer{Name: "hub", Key: mesh.Key{2}, Subnets: prefixes("10.244.2.0/24"),
				Routes: append(prefixes("172.20.0.0/16"), lan)},
				Endpoints: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.2:51820")}},
			{Peer: mesh.Peer{Name: "edge", Key: mesh.Key{3}, Subnets: prefixes("10.244.3.0/24", "fd00:3::/64"),
				Routes: []netip.Prefix{lan}}, Relay: "hub"},
		},
		Shares: []mesh.Share{{Prefix: lan, Carriers: []mesh.Carrier{{Peer: "hub"}, {Peer: "edge"}}}},
	}
}

// patient has no peer called by the key that is not in use.
func patient(*Peer) bool { return false }

// A prefix is in one peer: its owner, or the relay before the owner.
func TestPeersOf(t *testing.T) {
	calls := func(p *Peer) (netip.AddrPort, bool) { return p.Endpoints[0], true }
	for name, l := range map[string]learned{
		"nothing is known":    {},
		"the other carries":   {carriers: map[mesh.Prefix]string{netip.MustParsePrefix("192.168.0.0/24"): "edge"}},
		"this node carries":   {carriers: map[mesh.Prefix]string{netip.MustParsePrefix("192.168.0.0/24"): "self"}},
		"one that is no peer": {carriers: map[mesh.Prefix]string{netip.MustParsePrefix("192.168.0.0/24"): "gone"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := three().peersOf(l, map[string]mesh.Key{"hub": {2}}, calls, patient)
			want := prefixes("10.244.2.0/24", "10.244.3.0/24", "172.20.0.0/16", "fd00:3::/64")
			if by := l.carriers[netip.MustParsePrefix("192.168.0.0/24")]; by == "" || by == "edge" {
				want = append(want, prefixes("192.168.0.0/24")...) // of the hub, which relays for edge, too
			}
			if len(got) != 1 || got[0].Key != (mesh.Key{2}) || !got[0].Call || got[0].Keepalive != 25*time.Second {
				t.Fatalf("peers: %+v", got)
			}
			slices.SortFunc(got[0].Allowed, netip.Prefix.Compare)
			slices.SortFunc(want, netip.Prefix.Compare)
			if !slices.Equal(got[0].Allowed, want) {
				t.Errorf("it may send %v, want %v", got[0].Allowed, want)
			}
		})
	}
}

// Each prefix of others has one route, from the address that peers take from this host, as large as the path.
func TestRoutes(t *testing.T) {
	l := learned{directives: map[string]peers.Directive{"edge": {MTU: 1300}, "hub": {MTU: 1500}}}
	s := three().linkOf(l)
	v4, v6 := netip.MustParseAddr("10.244.1.0"), netip.MustParseAddr("fd00:1::")
	want := []link.Route{
		{Prefix: netip.MustParsePrefix("10.244.2.0/24"), Source: v4},
		{Prefix: netip.MustParsePrefix("10.244.3.0/24"), Source: v4, MTU: 1300},
		{Prefix: netip.MustParsePrefix("172.20.0.0/16"), Source: v4},
		{Prefix: netip.MustParsePrefix("192.168.0.0/24"), Source: v4},
		{Prefix: netip.MustParsePrefix("fd00:3::/64"), Source: v6, MTU: 1300},
	}
	slices.SortFunc(s.Routes, func(a, b link.Route) int { return a.Prefix.Compare(b.Prefix) })
	if !slices.Equal(s.Routes, want) {
		t.Errorf("routes %v, want %v", s.Routes, want)
	}
	if s.Interface != wireguard.Interface || s.Kind != link.Encrypted || s.MTU != 1440 || !s.Loose ||
		!slices.Equal(s.Addresses, []netip.Addr{v4, v6}) || !slices.Equal(s.Beside, []string{"mesh0"}) {
		t.Errorf("interface %+v", s)
	}
}
