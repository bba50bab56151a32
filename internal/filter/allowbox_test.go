package filter

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"example.org/meshd/internal/nft"
)

// Prefixes are merged into as few as have the same addresses.
func TestPlaces(t *testing.T) {
	for _, test := range []struct {
		name     string
		ps, want []netip.Prefix
	}{
		{"none", nil, nil},
		{"of one family", prefixes("10.0.0.0/8", "fd00::/16"), prefixes("10.0.0.0/8")},
		{"one in another", prefixes("10.1.0.0/16", "10.0.0.0/8", "10.1.2.3/32"), prefixes("10.0.0.0/8")},
		{"twice", prefixes("10.0.0.0/8", "10.0.0.0/8"), prefixes("10.0.0.0/8")},
		{"halves", prefixes("10.0.1.0/24", "10.0.0.0/24"), prefixes("10.0.0.0/23")},
		{"side by side, but no halves", prefixes("10.0.1.0/24", "10.0.2.0/24"),
			prefixes("10.0.1.0/24", "10.0.2.0/24")},
		{"halves of halves", prefixes("10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/25", "10.0.3.128/25"),
			prefixes("10.0.0.0/22")},
		{"all there is", prefixes("0.0.0.0/1", "128.0.0.0/1"), prefixes("0.0.0.0/0")},
		{"the last ones", prefixes("255.255.255.254/32", "255.255.255.255/32"), prefixes("255.255.255.254/31")},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := placesOf(nft.IPv4, "x", test.ps); !slices.Equal(got.prefixes, test.want) {
				t.Errorf("%v, want %v", got.prefixes, test.want)
			}
		})
	}
}

// An address is in merged prefixes if and only if it is in one of them.
func TestPlacesAreTheSameAddresses(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		var ps []netip.Prefix
		for range r.IntN(12) {
			ip := netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(256))})
			ps = append(ps, netip.PrefixFrom(ip, 24+r.IntN(9)).Masked())
		}
		merged := placesOf(nft.IPv4, "x", ps).prefixes
		if len(merged) > len(ps) {
			t.Fatalf("%v became %v", ps, merged)
		}
		for last := range 256 {
			ip := netip.AddrFrom4([4]byte{10, 0, 0, byte(last)})
			contains := func(p netip.Prefix) bool { return p.Contains(ip) }
			if slices.ContainsFunc(ps, contains) != slices.ContainsFunc(merged, contains) {
				t.Fatalf("%v became %v, which is something else at %v", ps, merged, ip)
			}
		}
	}
}

// A service that an earlier rule of the same pair allows is counted there. Boxes of one kind share no port.
func TestAllowedOfAPair(t *testing.T) {
	type box struct {
		kind        kind
		first, last uint16
		rule        string
	}
	all := func(a *allowed) (boxes []box) {
		a.each(func(of kind, b nft.Box) { boxes = append(boxes, box{of, b.Ports[0], b.Ports[1], b.Name}) })
		return boxes
	}
	tcp := func(first, last uint16) service { return service{protocol: 6, ports: ports{first, last}} }
	for _, test := range []struct {
		name     string
		services []service // of rules a, b, c
		want     []box
	}{
		{"one port", []service{tcp(443, 443)}, []box{{onePort, 443, 443, "a"}}},
		{"the same twice", []service{tcp(443, 443), tcp(443, 443)}, []box{{onePort, 443, 443, "a"}}},
		{"a range around a port", []service{tcp(443, 443), tcp(442, 445)},
			[]box{{onePort, 442, 442, "b"}, {onePort, 443, 443, "a"}, {somePorts, 444, 445, "b"}}},
		{"a port in a range", []service{tcp(400, 500), tcp(443, 443)}, []box{{somePorts, 400, 500, "a"}}},
		{"a protocol behind its port", []service{tcp(443, 443), tcp(0, 65535), tcp(80, 80)},
			[]box{{onePort, 443, 443, "a"}, {oneProtocol, 0, 65535, "b"}}},
		{"everything behind a port", []service{tcp(443, 443), {all: true}, tcp(80, 80)},
			[]box{{onePort, 443, 443, "a"}, {everything, 0, 65535, "b"}}},
		{"everything first", []service{{all: true}, tcp(443, 443), tcp(0, 65535)},
			[]box{{everything, 0, 65535, "a"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var a allowed
			for i, s := range test.services {
				a.add(s, string(rune('a'+i)))
			}
			if got := all(&a); !slices.Equal(got, test.want) {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}
