package tui

import (
	"fmt"
	"testing"
	"time"

	"example.org/meshd/internal/control"
)

// A snapshot a second of a mesh of many peers, to the picture: what the dashboard costs while somebody
// looks at it, besides reading (BenchmarkFigures10000 of control) and the terminal (BENCHFLAGS=-dashboard).
// A core does 1e9 ns a second: 1 % of it are 1e7 ns an operation.
func BenchmarkSnapshot(b *testing.B) {
	for _, peers := range []int{100, 1000, 10000} {
		for _, size := range [][2]int{{80, 24}, {140, 40}} {
			b.Run(fmt.Sprintf("%d-peers-%dx%d", peers, size[0], size[1]), func(b *testing.B) {
				m, c := newTest(size[0], size[1])
				tell(m, hello("x"))
				m.options.Tidy = true // as of the client, which cleans what is new
				var snapshots [2]*control.Status
				for i := range snapshots {
					s := someMesh(i)
					for n := range peers {
						s.Peers = append(s.Peers, somePeer(100+n, i))
					}
					snapshots[i] = s
				}
				for i := 0; b.Loop(); i++ {
					s := *snapshots[i%2]
					c.forward(time.Second)
					s.UptimeSeconds = float64(i)
					tell(m, snapshot(&s))
					m.View()
				}
			})
		}
	}
}
