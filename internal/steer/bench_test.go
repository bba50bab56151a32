package steer_test

import (
	"fmt"
	"testing"
	"time"

	"example.org/meshd/internal/peers"
)

// BenchmarkHeed10000Down is what is decided again each second where 10,000 peers are down.
func BenchmarkHeed10000Down(b *testing.B) {
	s, _, _, _, _ := newSteerer()
	for i := range 10_000 {
		s.Learn(fmt.Sprint("n", i), noon, func(f *peers.Facts) { f.Asked, f.State = true, peers.Down })
	}
	now := noon
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Second)
		s.Heed(now)
	}
}
