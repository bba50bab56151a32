package rules

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"

	"example.org/meshd/internal/nstest"
)

// Rules are read again only when they have changed, or the question has; whoever waits hears of a rule that
// comes or goes, and of no other change.
func TestOthers(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		nft := func(rules string) {
			t.Helper()
			if _, err := n.Run("nft", rules); err != nil {
				t.Error(err)
			}
		}
		peer := []netip.AddrPort{netip.MustParseAddrPort("172.18.0.3:8285")}
		o := NewOthers(slog.New(slog.DiscardHandler))
		finds := func(peers []netip.AddrPort, want int) {
			t.Helper()
			if found := o.Outgoing(8285, peers); len(found) != want {
				t.Errorf("found %+v", found)
			}
			if _, read := o.look(*o.last.Load(), 8285, peers); read {
				t.Error("rules are read again though they stay")
			}
		}
		nft("table ip t { chain c { type filter hook output priority 0; }; }")
		finds(peer, 0)

		changed := make(chan struct{}, 10)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- n.Do(func() error {
				return o.Watch(ctx, func() (uint16, []netip.AddrPort) { return 8285, peer },
					func() { changed <- struct{}{} })
			})
		}()
		<-changed // at first, whatever was found
		nft("add rule ip t c udp dport 8285 ip daddr 172.18.0.3 counter")
		<-changed
		finds(peer, 1)
		finds([]netip.AddrPort{netip.MustParseAddrPort("172.18.0.4:8285")}, 0)
		finds(peer, 1)
		nft("add rule ip t c tcp dport 8285 counter") // is about TCP: no reason to wake anybody
		nft("flush chain ip t c")
		<-changed
		finds(peer, 0)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if len(changed) > 0 {
			t.Errorf("told of %d changes more", len(changed))
		}
	})
}
