package tui

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"example.org/meshd/internal/control"
)

// A snapshot a second of a mesh of many peers, from the line that the daemon writes to the picture: what the
// dashboard costs while somebody looks at it. A core does 1e9 ns a second: 1 % of it are 1e7 ns an operation.
func BenchmarkSnapshot(b *testing.B) {
	for _, peers := range []int{100, 1000, 10000} {
		for _, size := range [][2]int{{80, 24}, {140, 40}} {
			b.Run(fmt.Sprintf("%d-peers-%dx%d", peers, size[0], size[1]), func(b *testing.B) {
				m, c := newTest(size[0], size[1])
				tell(m, hello("x"))
				lines := make([][]byte, 2)
				for i := range lines {
					s := someMesh(i)
					for n := range peers {
						s.Peers = append(s.Peers, somePeer(100+n, i))
					}
					line, err := json.Marshal(snapshot(s))
					if err != nil {
						b.Fatal(err)
					}
					lines[i] = line
				}
				for i := 0; b.Loop(); i++ {
					var w control.Watched
					if err := json.Unmarshal(lines[i%2], &w); err != nil {
						b.Fatal(err)
					}
					c.forward(time.Second)
					w.Status.UptimeSeconds = float64(i)
					tell(m, w)
					m.View()
				}
			})
		}
	}
}
