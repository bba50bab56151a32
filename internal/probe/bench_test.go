package probe

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// One second of all questions to 1,000 peers and their answers, without the system calls. It may cost
// 20 ms, a fiftieth of a core, together with those.
func BenchmarkThousandPeers(b *testing.B) {
	var names []string
	var bounds []Bounds
	for i := range 1000 {
		names = append(names, fmt.Sprint("n", i))
		bounds = append(bounds, limits)
	}
	p := New(silence)
	p.Set(Settings{Peers: names, Interval: time.Second, Bounds: bounds})
	p.Differ(everything)
	p.Forwards(true)
	now, asked := time.Unix(1e9, 0), 0
	second := func() {
		for end := now.Add(time.Second); now.Before(end); now = now.Add(p.Wait()) {
			for {
				questions, _ := p.Work(now)
				asked += len(questions)
				for _, q := range questions {
					reply, _ := p.Answer(q.Peer, netip.AddrPort{}, false, q.Payload, now) // the peers are this prober itself
					p.Answer(q.Peer, netip.AddrPort{}, true, reply, now)
				}
				if len(questions) < Batch {
					break
				}
			}
		}
	}
	for range 20 { // until all are up
		second()
	}
	asked = 0
	for b.Loop() {
		second()
	}
	b.ReportMetric(float64(asked)/float64(b.N), "questions/s")
}

// What is asked of each of thousands of peers every second.
func BenchmarkGlance(b *testing.B) {
	p, now := New(silence), time.Unix(1e9, 0)
	p.Set(Settings{Peers: []string{"b"}, Interval: time.Second, Bounds: []Bounds{limits}})
	second := func() { // its probe is answered, so that figures are new
		questions, _ := p.Work(now)
		for _, q := range questions {
			reply, _ := p.Answer("b", netip.AddrPort{}, false, q.Payload, now)
			p.Answer("b", netip.AddrPort{}, true, reply, now.Add(time.Millisecond))
		}
		now = now.Add(time.Second)
	}
	for name, look := range map[string]func(){
		"glance": func() { p.Glance("b") }, "report": func() { p.Report("b") },
	} {
		b.Run(name, func(b *testing.B) {
			for range 2 * Window {
				second()
			}
			for b.Loop() {
				b.StopTimer()
				second()
				b.StartTimer()
				look()
			}
		})
	}
}
