package rules

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/filter"
	"example.org/meshd/internal/nft"
)

// The encrypted interface is guarded before Guard returns, without masquerading as well, and stays so while
// somebody flushes all rules and while those of the mesh port cannot be set. One that was made anew is
// guarded once Guard has been called again.
func TestGuarded(t *testing.T) {
	keep(t, func(k *keeping) {
		is := func(when string, want bool) {
			k.Helper()
			if got := k.Guard(k.ctx); got != want {
				k.Errorf("%s: guarded %v", when, got)
			}
		}
		chain := func() string {
			out, _ := k.n.Run("nft", "-s", "list", "table", "netdev", filter.InnerName)
			return out
		}
		ip := func(lines ...string) {
			k.Helper()
			if err := k.n.IP(lines...); err != nil {
				k.Error(err)
			}
		}
		is("before the first plan", false)
		w := wanted("10.244.0.0/16")
		k.want(w, true)
		is("nothing is encrypted", false)
		w.Masquerade, w.Accept = nil, nil
		w.Guard.Encrypted, w.Guard.Inner = "meshd-wg", prefixes("10.244.2.0/24")
		undo := k.want(w, true)
		is("there is no interface", false)
		if !k.Fine() {
			k.Error("rules fail for an interface that nobody has made yet")
		}
		ip("link add meshd-wg type bridge")
		is("the interface is there", true)
		whole := chain()
		if !strings.Contains(whole, filter.WrongDestination) || !strings.Contains(whole, "10.244.2.0/24") {
			k.Errorf("guarded by:\n%s", whole)
		}
		k.nft("flush ruleset")
		is("flushed", true)
		ip("link del meshd-wg", "link add meshd-wg type bridge")
		is("made anew", true)
		if got := chain(); got != whole {
			k.Errorf("made anew, guarded by:\n%s", got)
		}

		owner := k.others()
		if _, err := k.Set(k.ctx, w, true); err == nil || k.Fine() {
			k.Errorf("the ordinary rules are in force: %v", err)
		}
		is("without the ordinary rules", true)
		if err := owner.Close(); err != nil {
			k.Error(err)
		}
		k.hears("rules_in_force")
		if err := undo(); err != nil || !strings.Contains(chain(), filter.WrongDestination) ||
			strings.Contains(chain(), "10.244.2.0") {
			k.Errorf("what comes in encrypted passes a mesh that is not encrypted any more: %v\n%s", err, chain())
		}
	})
}

// Tables that only versions before this one have go with the first rules.
func TestFormerTablesGo(t *testing.T) {
	keep(t, func(k *keeping) {
		for _, name := range []string{"meshd-mss", "meshd-probe"} {
			if _, err := nft.NewKeeper(nft.Both(name)).Set([]nft.Table{{ID: nft.Both(name)}}); err != nil {
				k.Fatal(err)
			}
		}
		k.want(wanted("10.244.0.0/16"), true)
		if list := k.list(); strings.Contains(list, "meshd-mss") || strings.Contains(list, "meshd-probe") {
			k.Errorf("left:\n%s", list)
		}
	})
}

// What is known of narrow paths is in the rules of both directions, and goes with it.
func TestNarrowPathsAreLowered(t *testing.T) {
	keep(t, func(k *keeping) {
		w := wanted("10.244.0.0/16")
		w.Clamp = filter.ClampSettings{Interfaces: []string{"mesh0"}, MTU: 1472}
		k.want(w, true)
		news := make(chan struct{}, 100)
		k.run(func(ctx context.Context) error { return nft.WatchAll(ctx, func() { news <- struct{}{} }) })
		for _, paths := range []map[int][]netip.Prefix{{1252: prefixes("10.244.1.0/24")}, {}} {
			k.Narrow(paths)
			// One table is written after the other.
			for strings.Count(k.list(), "size set 1212") != 2*len(paths) {
				select {
				case <-news:
				case <-time.After(20 * time.Second):
					k.Fatalf("%v:\n%s", paths, k.list())
				}
			}
		}
	})
}
