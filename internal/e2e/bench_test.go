package e2e

import (
	"net/netip"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/udp"
)

// BenchmarkPlainPath sends UDP packets from pod to pod as fast as the sender
// can and reports how many a second the mesh delivered, how many datagrams it
// sent, and what was lost on the way. Both hosts and the sender share this
// machine's CPUs.
func BenchmarkPlainPath(b *testing.B) {
	for _, payload := range []struct {
		name string
		size int
	}{{"64B", 64 - 28}, {"1400B", 1400 - 28}} {
		b.Run(payload.name, func(b *testing.B) {
			m := newMesh(b)
			listen(b, m.PodW, "10.244.1.2:7000")
			var conn *udp.Conn
			if err := m.PodW2b.Do(func() (err error) {
				conn, err = udp.Open(netip.MustParseAddrPort("10.244.2.3:0"), false)
				return err
			}); err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { conn.Close() })
			sender, batch := conn.NewSender(16), make([]packet.Burst, 16)
			for i := range batch {
				batch[i].Addr = netip.MustParseAddrPort("10.244.1.2:7000")
				batch[i].Add(make([]byte, payload.size))
			}
			b.ResetTimer()
			for sent := 0; sent < b.N; sent += len(batch) {
				if _, err := sender.Write(batch); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			total := uint64((b.N + 15) / 16 * 16)
			out := waitStatus(b, m.w2, "all packets have left", func(s control.Status) bool {
				return s.Totals.TxPackets+s.Totals.Drops["tun_overflow"]+s.Totals.Drops["send_error"] >= total
			}).Totals
			in := waitStatus(b, m.w, "all packets have arrived", func(s control.Status) bool {
				return s.Totals.RxPackets+s.Totals.Drops["socket_overflow"] >= out.TxPackets
			}).Totals
			seconds := b.Elapsed().Seconds()
			b.ReportMetric(float64(total)/seconds, "offered/s")
			b.ReportMetric(float64(out.TxPackets)/seconds, "sent/s")
			b.ReportMetric(float64(in.RxPackets)/seconds, "delivered/s")
			b.ReportMetric(100*(1-float64(in.RxPackets)/float64(total)), "%lost")
		})
	}
}
