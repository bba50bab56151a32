package health_test

import (
	"fmt"
	"testing"
	"time"

	"example.org/meshd/internal/health"
	"example.org/meshd/internal/mesh"
)

// BenchmarkCauses10000 is what is judged each second in a mesh of 10,000 nodes of which all others are down.
func BenchmarkCauses10000(b *testing.B) {
	var conditions []mesh.Condition
	var peers []health.Peer
	for i := range 9_999 {
		name := fmt.Sprint("node-", i)
		conditions = append(conditions, mesh.Condition{Kind: mesh.PeerDown, Severity: mesh.Failed, Peer: name})
		peers = append(peers, health.Peer{Name: name})
	}
	b.ReportAllocs()
	for b.Loop() {
		if all := health.Causes(conditions, peers); len(all) != 1 {
			b.Fatalf("%d conditions", len(all))
		}
	}
}

// BenchmarkGrowth10000 is what a reading of 10,000 nodes costs where it is kept, which one in ten is.
func BenchmarkGrowth10000(b *testing.B) {
	c := health.Counted{Peers: map[string]mesh.Traffic{}}
	for i := range 9_999 {
		c.Peers[fmt.Sprint("node-", i)] = mesh.Traffic{RxPackets: uint64(i)}
	}
	var g health.Growth
	now := time.Unix(1e9, 0)
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(10 * time.Second)
		g.Take(c, now)
		if all := g.Conditions(c, now); len(all) > 0 {
			b.Fatalf("%+v", all)
		}
	}
}
