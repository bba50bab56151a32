package ask

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/probe"
)

// BenchmarkSend sends questions to peers, a batch of the Prober's at a time.
func BenchmarkSend(b *testing.B) {
	n := nstest.ForTest(b)
	if err := n.IP("link add "+device+" type veth peer name wire", "link set wire up",
		"address add 10.0.0.0/32 dev "+device,
		"link set "+device+" up arp off",
		"route add 10.0.0.0/8 dev "+device); err != nil {
		b.Fatal(err)
	}
	m := mesh.Mesh{Self: "0"}
	for i := range 1000 {
		m.Peers = append(m.Peers, mesh.Peer{Name: fmt.Sprint(i),
			Subnets: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", i/250, i%250))}})
	}
	c := New(Options{Log: slog.New(slog.DiscardHandler), Interface: device})
	c.Set(m)
	if err := n.Do(func() error { c.open(0); return nil }); err != nil {
		b.Fatal(err)
	}
	defer c.close()
	batch, payload := make([]dataplane.Echo, probe.Batch), make([]byte, probe.PayloadSize)
	next := 0
	for b.Loop() {
		for i := range batch {
			next++
			batch[i] = dataplane.Echo{Peer: fmt.Sprint(1 + next%999), Payload: payload}
		}
		if err := c.SendEcho(batch...); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(batch)), "ns/question")
}
