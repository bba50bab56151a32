package filter

import (
	"net/netip"
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
		end, ended := make(chan struct{}), make(chan int, 1)
		go func() {
			for flushes := 0; ; flushes++ {
				select {
				case <-end:
					ended <- flushes
					return
				default:
				}
				if _, err := n.Run("nft", "flush", "ruleset"); err != nil {
					t.Error(err)
				}
			}
		}()
		closed, open := netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("10.244.2.5")
		own := uint16(1024)
		for range 60 {
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
		if flushes := <-ended; flushes < 5 {
			t.Errorf("%d flushes are too few", flushes)
		}
		if _, dropped, err := a.Counters(); err != nil || a.rules.Owns() && dropped != 60*40 {
			t.Errorf("dropped %d, %v", dropped, err)
		}
	})
}
