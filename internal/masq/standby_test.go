package masq

import (
	"regexp"
	"strings"
	"testing"

	"example.org/meshd/internal/nstest"
)

// What `nft list` says of the standby rules: those of both families, once more.
func TestStandbyAsNftShowsIt(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		m := New()
		stands(t, m, both)
		owner := regexp.MustCompile(` # progname .*`)
		got := run(t, n, "-s", "list", "table", "inet", "meshd")
		golden(t, "testdata/standby.nft", owner.ReplaceAllString(got, ""))
	})
}

func stands(t *testing.T, m *Masq, s Settings) {
	t.Helper()
	if _, err := m.Set(s); err != nil {
		t.Fatal(err)
	}
	if err := m.StandBy(s); err != nil {
		t.Fatal(err)
	}
}

// Nobody else can touch the standby rules, and they follow what Set is given.
func TestStandbyIsOurs(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		list := func() string { return run(t, n, "-s", "list", "ruleset") }
		standby := func() bool { return strings.Contains(list(), "table inet meshd {") }
		run(t, n, "add table inet meshd { chain stale { }; }") // a ruleset that was saved and loaded again
		m := New()
		stands(t, m, both)
		whole := list()
		if !standby() || strings.Contains(whole, "stale") {
			t.Fatalf("no standby rules:\n%s", whole)
		}
		if out, err := n.Run("nft", "delete table inet meshd"); err == nil {
			t.Errorf("somebody else deleted the table: %s", out)
		}
		run(t, n, "flush ruleset")
		if got := list(); !strings.HasPrefix(got, "table inet meshd {") {
			t.Errorf("after flush:\n%s", got)
		}
		if changed, err := m.Set(both); err != nil || !changed {
			t.Errorf("Set: %v, %v", changed, err)
		}
		stands(t, m, both)
		for _, part := range strings.SplitAfter(whole, "\n}\n") {
			if !strings.Contains(list(), part) {
				t.Errorf("missing after repair:\n%s", part)
			}
		}

		// Somebody who comes second lives without.
		second := New()
		stands(t, second, one)
		if strings.Contains(list(), "mesh6") == false {
			t.Error("the second took the table of the first")
		}
		for range 50 { // the table is free the moment it is given up
			stands(t, m, one)
			if strings.Contains(list(), "mesh6") || !standby() {
				t.Fatal("standby rules are not those of Set")
			}
			stands(t, m, both)
		}

		for _, end := range []func() error{m.Remove, m.Close} {
			stands(t, m, both)
			if err := end(); err != nil || standby() {
				t.Errorf("standby rules are left: %v\n%s", err, list())
			}
		}
		run(t, n, "add table inet meshd")
		if removed, err := CleanUp(); err != nil || !removed || list() != "" {
			t.Errorf("CleanUp: %v, %v, left:\n%s", removed, err, list())
		}
	})
}
