package rules

import (
	"strings"
	"testing"

	"example.org/meshd/internal/filter"
)

// The guard of the encrypted interface is in force before Set returns, without masquerading as well, and
// stays while somebody flushes all rules and while the ordinary ones cannot be set.
func TestGuarded(t *testing.T) {
	keep(t, func(k *keeping) {
		is := func(when string, want bool) {
			k.Helper()
			if got := k.Guarded(); got != want {
				k.Errorf("%s: guarded %v", when, got)
			}
		}
		stands := func() bool { return strings.Contains(k.list(), "table inet "+filter.StandbyName+" ") }
		w := wanted("10.244.0.0/16")
		k.want(w, true)
		is("nothing is encrypted", false)
		w.Masquerade, w.Accept = nil, nil
		w.Guard.Encrypted, w.Guard.Inner = "meshd-wg", prefixes("10.244.2.0/24")
		undo := k.want(w, true)
		is("encrypted", true)
		ordinary := func() string { return k.nft("-s", "list", "table", "inet", filter.TableName) }
		whole := ordinary()
		k.nft("flush ruleset")
		if !stands() {
			k.Errorf("nothing stands by:\n%s", k.list())
		}
		is("flushed", true)
		k.want(w, true)
		if got := ordinary(); got != whole || !strings.Contains(got, filter.WrongDestination) {
			k.Errorf("%s\nwant\n%s", got, whole)
		}

		k.nft("flush ruleset")
		owner := k.others()
		if _, err := k.Set(k.ctx, w, true); err == nil || k.Fine() {
			k.Errorf("the ordinary rules are in force: %v", err)
		}
		is("the standby rules alone", true)
		if err := owner.Close(); err != nil {
			k.Error(err)
		}
		k.hears("rules_in_force")
		if err := undo(); err != nil || !stands() || strings.Contains(k.nft("list", "set", "inet",
			filter.StandbyName, "inner4"), "10.244.2.0") {
			k.Errorf("what comes in encrypted passes a mesh that is not encrypted any more: %v\n%s", err, k.list())
		}
	})
}
