package kernel

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"example.org/meshd/internal/nstest"
)

// BenchmarkPrograms is what the programs alone cost a packet, as the kernel measures it: most is
// its clock and a cold cache where a program runs once on each packet, since it changes that.
// What leaves by the underlay is not looked up there: the peer is not known to be meshd.
func BenchmarkPrograms(b *testing.B) {
	nstest.Require(b)
	m := meshOver(false)
	p := programsOf(b, m)
	xdp, err := p.handle().loadXDP()
	if err != nil {
		b.Fatal(err)
	}
	g := &generator{Rand: rand.New(rand.NewPCG(1, 1)), mesh: m}
	from, to := netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("10.244.0.2")
	inner := ip4(from, to, 0, 64, 17, make([]byte, 100))
	in := g.outer(m.Peers[1].Underlay().AddrPort, 0, inner)
	sending := programsOf(b, sendingMesh())
	out := ip4(netip.MustParseAddr("8.0.0.2"), netip.MustParseAddr("8.0.1.2"), 0, 64, 17, make([]byte, 100))
	for _, test := range []struct {
		name    string
		program *ebpf.Program
		packet  []byte
		repeat  int
	}{{"out", sending.handle().Out, out, 1000}, {"in", p.handle().In, in, 1}, {"xdp", xdp, in, 1}} {
		b.Run(test.name, func(b *testing.B) {
			var spent time.Duration
			for b.Loop() {
				_, took, err := test.program.Benchmark(test.packet, test.repeat, nil)
				if err != nil {
					b.Fatal(err)
				}
				spent += took
			}
			b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N), "ns/packet")
		})
	}
}
