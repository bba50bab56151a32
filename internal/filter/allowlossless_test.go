package filter

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"

	"example.org/meshd/internal/nstest"
)

// While rules are replaced by others, again and again, what both allow passes: also where the kernel looks
// into sets of ranges, which it publishes later than the rules of the same transaction.
func TestAllowIsReplacedWithoutLoss(t *testing.T) {
	eachAllow(t, func(t *testing.T, n *nstest.Namespace, a *Allow) {
		w := newWire(t, n)
		from, to := netip.MustParseAddr("10.244.2.5"), netip.MustParseAddr("10.244.1.5")
		rules := func(more bool) *AllowSettings {
			s := someRules()
			many := AllowRule{Name: "many", To: prefixes("10.244.1.0/24"), Services: []Service{tcp(5000, 5100)}}
			for i := range 9 {
				many.From = append(many.From, prefixes(fmt.Sprintf("10.%d.0.0/17", 100+i))...)
			}
			if s.Rules = append(s.Rules, many); more {
				s.Rules = append(s.Rules, AllowRule{Name: "more", From: prefixes("10.244.3.0/25"), To: many.To,
					Services: []Service{tcp(600, 700)}})
			}
			return s
		}
		set := func(s *AllowSettings) {
			t.Helper()
			if changed, err := a.Set(s); err != nil || !changed {
				t.Errorf("changed %v, %v", changed, err)
			}
		}
		set(rules(false))
		var replaced atomic.Int64
		end, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			for i := 0; ; i++ {
				select {
				case <-end:
					return
				default:
					set(rules(i%2 == 0))
					replaced.Add(1)
				}
			}
		}()
		defer func() { close(end); <-ended }()
		for round := 0; replaced.Load() < 100; round++ {
			own := uint16(1024 + round%60000)
			packets := []judged{
				{from, to, 6, 443, own}, {from, to, 6, 450, own}, {from, to, 6, 8050, own},
				{netip.MustParseAddr("10.104.9.9"), to, 6, 5050, own},
				{netip.MustParseAddr("fd00:0:0:2::9"), netip.MustParseAddr("fd00:0:0:1::5"), 6, 8001, own},
			}
			for i, passed := range w.through(packets, false) {
				if !passed {
					t.Fatalf("round %d: %+v did not pass", round, packets[i])
				}
			}
		}
	})
}
