package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// Whatever somebody does to the rules, they come back, and nobody notices: a
// quiet connection through NAT, a download and a new connection go on.
func TestRulesComeBack(t *testing.T) {
	nstest.Share(t, nstest.Busy)
	m := newMesh(t)
	outside := m.outside()
	long, err := dialStream(m.PodW2b, outside.Namespace, "172.18.0.77:81")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { long.Close() })
	finish := startDownload(t, m.PodW2b, outside.Namespace, "172.18.0.77:82")
	serve(t, outside.Namespace, "172.18.0.77:80")
	run(t, m.Worker2.Namespace, "nft", "add table ip foreign { chain c { counter; }; }")
	whole := run(t, m.Worker2.Namespace, "nft", "-s", "list", "table", "ip", "meshd")
	for i, damage := range []string{
		"flush ruleset",
		"delete table ip meshd",
		"flush table ip meshd",
		"insert rule ip meshd postrouting accept",
		"flush set ip meshd mesh",
	} {
		run(t, m.Worker2.Namespace, "nft", damage)
		began := time.Now()
		seenAs(t, m.PodW2b, "172.18.0.77:80", "172.18.0.3") // at once, not only after the repair
		waitStatus(t, m.w2, damage, func(s control.Status) bool { return s.Masquerade.Repairs == uint64(i+1) })
		t.Logf("%q was seen repaired after %v", damage, time.Since(began).Round(time.Millisecond))
		if got := run(t, m.Worker2.Namespace, "nft", "-s", "list", "table", "ip", "meshd"); got != whole {
			t.Errorf("after %q:\n%s", damage, got)
		}
		seenAs(t, m.PodW2b, "172.18.0.77:80", "172.18.0.3")
		if err := long.echo(fmt.Sprintf("after %d\n", i)); err != nil {
			t.Errorf("the old connection after %q: %v", damage, err)
		}
	}
	finish()
	waitEvents(t, m.w2, 5, "rules_restored", "program", "nft")
	// Others may rewrite their own tables as often as they like.
	for range 20 {
		run(t, m.Worker2.Namespace, "nft",
			"add table ip foreign { chain c { counter; }; }; flush table ip foreign; delete table ip foreign")
	}
	if s := status(t, m.w2); s.Masquerade.Repairs != 5 {
		t.Errorf("%d repairs", s.Masquerade.Repairs)
	}
}

// Rules that somebody flushes over and over come back when that ends, with nobody asking.
func TestRulesComeBackAfterAStorm(t *testing.T) {
	nstest.Share(t, nstest.Busy)
	w := newWorld(t)
	run(t, w.Worker2.Namespace, "nft",
		"add table ip own { chain f { type filter hook forward priority 0; policy drop; }; }")
	m := w.startAll(demoFile(t))
	const own = "add table ip own { chain f { type filter hook forward priority 0; policy drop; }; }"
	ruleset := func() string { return run(t, m.Worker2.Namespace, "nft", "-s", "list", "ruleset") }
	whole := sortedLines(ruleset())
	for range 3 {
		run(t, m.Worker2.Namespace, "sh", "-c", "for i in $(seq 50); do nft flush ruleset; nft '"+own+"'; done")
		waitStatus(t, m.w2, "the rules are back",
			func(control.Status) bool { return sortedLines(ruleset()) == whole })
	}
}

// sortedLines returns lines in their alphabet: tables come back in another order.
func sortedLines(text string) string {
	lines := strings.Split(nstest.SortSets(text), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// Everything in [masquerade] changes live; running connections go on.
func TestMasqueradeChangesLive(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	m := w.startAll(demoFile(t))
	outside := m.outside()
	serve(t, outside.Namespace, "172.18.0.77:80")
	if err := outside.IP("route add 10.244.2.0/24 via 172.18.0.3"); err != nil {
		t.Fatal(err)
	}
	run(t, m.Worker2.Namespace, "iptables-nft", "-P", "FORWARD", "DROP")
	d := m.w2
	ruleset := func() string { return run(t, m.Worker2.Namespace, "nft", "-s", "list", "ruleset") }
	seenAs(t, m.PodW2b, "172.18.0.77:80", "172.18.0.3")
	long, err := dialStream(m.PodW2b, outside.Namespace, "172.18.0.77:81")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { long.Close() })
	change := func(generation int, masquerade string) {
		t.Helper()
		s := rewrite(t, d, demoFile(t)+"[masquerade]\n"+masquerade)
		if s.Config.Generation != generation || s.Config.Error != "" || len(problems(s)) != 0 ||
			s.Masquerade.Repairs != 0 {
			t.Errorf("config %+v, warnings %q, masquerade %+v", s.Config, s.Warnings, s.Masquerade)
		}
		if err := long.echo("still here\n"); err != nil {
			t.Errorf("the connection after %q: %v", masquerade, err)
		}
	}
	change(2, `exclude = ["172.18.0.77/32"]`)
	seenAs(t, m.PodW2b, "172.18.0.77:80", "10.244.2.3")
	change(3, "fully_random = false")
	seenAs(t, m.PodW2b, "172.18.0.77:80", "172.18.0.3")
	if strings.Contains(ruleset(), "fully-random") {
		t.Errorf("still fully random:\n%s", ruleset())
	}
	change(4, "enabled = false")
	seenAs(t, m.PodW2b, "172.18.0.77:80", "10.244.2.3")
	if strings.Contains(ruleset(), "counter masquerade") || strings.Contains(ruleset(), "mesh-to-mesh") {
		t.Errorf("rules:\n%s", ruleset())
	}
	change(5, "")
	seenAs(t, m.PodW2b, "172.18.0.77:80", "172.18.0.3")
	s := rewrite(t, d, demoFile(t)+"[masquerade]\nforward = false\n")
	if s.Config.Generation != 6 || strings.Contains(ruleset(), `comment "meshd"`) {
		t.Errorf("generation %d\n%s", s.Config.Generation, ruleset())
	}
	change(7, "forward = true")
	if got := ruleset(); !strings.Contains(got, `iifname "mesh0" counter`) ||
		strings.Contains(got, `oifname "mesh0" counter accept`) {
		t.Errorf("not the forward rules:\n%s", got)
	}
	change(8, `forward = "all"`)
	if !strings.Contains(ruleset(), `oifname "mesh0" counter accept`) {
		t.Errorf("not all that goes to the mesh is accepted:\n%s", ruleset())
	}
}
