package user

import (
	"sync"
	"testing"
	"time"

	"example.org/meshd/internal/mesh"
)

// Counters go past 32 bits, also where a word has no more. Seen by an armv7 in `make test-arm`.
func TestCountersHave64Bits(t *testing.T) {
	var c counters
	const half, now = 1 << 31, 1 << 40
	for range 4 {
		c.received(half, half+1, time.Unix(0, now))
		c.sent(half+2, half+3)
		c.drop(mesh.TooBig, half-1)
	}
	got := c.read()
	want := mesh.Traffic{RxPackets: 4 * half, RxBytes: 4*half + 4, TxPackets: 4*half + 8, TxBytes: 4*half + 12,
		LastSeen: time.Unix(0, now)}
	want.Drops[mesh.TooBig] = 4*half - 4
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// The first drops of a peer come from several loops at once, and all count.
func TestFirstDropsAtOnce(t *testing.T) {
	for range 100 {
		var c counters
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { c.drop(mesh.NoRoute, 1) })
		}
		wg.Wait()
		if n := c.read().Drops[mesh.NoRoute]; n != 4 {
			t.Fatalf("%d of 4 count", n)
		}
	}
}
