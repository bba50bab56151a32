package user

import (
	"net/netip"
	"testing"

	"example.org/meshd/internal/wireguard"
)

// What a large mesh costs: all peers at once, one change, a comparison that finds nothing to do, and the
// reading of each second. The goals are 1 s for the first and 0.1 s for a change.
func BenchmarkThousandPeers(b *testing.B) {
	a := hosts(b, 1)[0]
	must(b, a.up())
	peers := make([]wireguard.Peer, 1000)
	for n := range peers {
		key := wireguard.PrivateOf([32]byte{1: byte(n), 2: byte(n >> 8), 3: 1}).Public()
		at := netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})
		peers[n] = wireguard.Peer{Key: key, Endpoint: netip.AddrPortFrom(at, 51820),
			Allowed: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(64 + n>>8), byte(n), 0}), 24)}}
	}
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			must(b, a.set())
			b.StartTimer()
			must(b, a.set(peers...))
		}
	})
	b.Run("one change", func(b *testing.B) {
		own := peers[500].Allowed
		more := []netip.Prefix{own[0], netip.MustParsePrefix("192.168.7.0/24")}
		for n := 0; b.Loop(); n++ {
			peers[500].Allowed = [][]netip.Prefix{more, own}[n%2]
			must(b, a.set(peers...))
		}
	})
	b.Run("one peer comes or goes", func(b *testing.B) {
		for n := 0; b.Loop(); n++ {
			must(b, a.set(peers[n%2:]...))
		}
	})
	b.Run("nothing", func(b *testing.B) {
		must(b, a.set(peers...))
		for b.Loop() {
			must(b, a.set(peers...))
		}
	})
	b.Run("reading", func(b *testing.B) {
		for b.Loop() {
			if s, err := wireguard.Read(a.client, wireguard.Interface); err != nil || len(s.Peers) != len(peers) {
				b.Fatalf("%d peers, %v", len(s.Peers), err)
			}
		}
	})
}
