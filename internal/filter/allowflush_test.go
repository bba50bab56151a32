package filter

import (
	"net/netip"
	"sync/atomic"
	"testing"

	"example.org/meshd/internal/nstest"
)

// While another program flushes the ruleset again and again, no packet passes that no rule allows, and what
// rules allow passes: there is no moment without rules, and none with a part of them.
func TestAllowWhileOthersFlush(t *testing.T) {
	eachAllow(t, func(t *testing.T, n *nstest.Namespace, a *Allow) {
		w := newWire(t, n)
		if _, err := a.Set(someRules()); err != nil {
			t.Fatal(err)
		}
		var flushes atomic.Int64
		end, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			for {
				select {
				case <-end:
					return
				default:
				}
				if _, err := n.Run("nft", "flush", "ruleset"); err != nil {
					t.Error(err)
				}
				flushes.Add(1)
			}
		}()
		closed, open := netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("10.244.2.5")
		own, rounds := uint16(1024), uint64(0)
		for ; rounds < 20 || flushes.Load() < 20; rounds++ {
			var packets []judged
			for range 40 {
				own++
				packets = append(packets, judged{closed, netip.MustParseAddr("10.244.1.5"), 6, 443, own},
					judged{open, netip.MustParseAddr("10.244.1.5"), 6, 443, own})
			}
			for i, passed := range w.through(packets, false) {
				if passed != (packets[i].from == open) {
					t.Fatalf("%+v passed: %v", packets[i], passed)
				}
			}
			if _, err := a.Set(someRules()); err != nil { // as the repair does
				t.Fatal(err)
			}
		}
		close(end)
		<-ended
		if _, dropped, err := a.Counters(); err != nil || a.rules.Owns() && dropped != rounds*40 {
			t.Errorf("dropped %d, %v", dropped, err)
		}
	})
}
