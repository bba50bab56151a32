package tui

import (
	"strings"
	"testing"

	"example.org/meshd/internal/control"
)

// node is a status of a mesh without problems of peers.
func aNode(change func(s *control.Status)) *control.Status {
	s := someMesh(0)
	s.Peers, s.Health = s.Peers[:3], control.Health{Level: control.OK}
	change(s)
	return s
}

// health is what a daemon says of itself.
func health(level string, problems ...control.Problem) func(s *control.Status) {
	return func(s *control.Status) { s.Health = control.Health{Level: level, Problems: problems} }
}

// The verdict is the daemon's. A daemon without health is judged by its peers' states.
func TestVerdict(t *testing.T) {
	state := func(state string) func(s *control.Status) {
		return func(s *control.Status) { s.Peers[0].State = state }
	}
	old := func(change func(s *control.Status)) func(s *control.Status) {
		return func(s *control.Status) { s.Health = control.Health{}; change(s) }
	}
	for name, test := range map[string]struct {
		change func(s *control.Status)
		want   string
	}{
		"nothing is wrong": {func(*control.Status) {}, "● OK  3 of 3 peers up, the file is in force"},
		"no peers": {func(s *control.Status) { s.Peers = nil },
			"● OK  the file lists no other node"},
		"starting": {func(s *control.Status) { s.Node = "" }, "◐ STARTING  nothing is forwarded yet"},
		"a peer is down": {func(s *control.Status) { state(control.Down)(s); judged(s) },
			"■ FAILED  1 DOWN"},
		"a peer is stale":            {state(control.Stale), "● OK"},
		"an old daemon, a peer down": {old(state(control.Down)), "■ FAILED  1 DOWN"},
		"an old daemon, one stale":   {old(state(control.Stale)), "◐ DEGRADED  1 stale"},
		"one is not known yet":       {state(control.Unknown), "● OK  2 of 3 peers up, 1 unknown, the file"},
		"a new state":                {state("from the future"), "● OK  2 of 3 peers up, 1 unknown, the file"},
		"an old daemon, one unknown": {old(state(control.Unknown)), "◐ DEGRADED  1 unknown"},
		"another file": {func(s *control.Status) { s.Peers[0].ConfigMatch = new(false); judged(s) },
			"◐ DEGRADED  1 with another file"},
		"loss": {func(s *control.Status) { s.Peers[0].Loss = new(0.03); judged(s) },
			"◐ DEGRADED  1 with loss"},
		"degraded": {health("degraded", control.Problem{Level: "degraded", Kind: "forwarding_off"}),
			"◐ DEGRADED  1 problem"},
		"failed": {health("failed", control.Problem{Level: "failed", Kind: "rules_failed"},
			control.Problem{Level: "degraded"}),
			"■ FAILED  2 problems"},
		"worth knowing": {health("ok", control.Problem{Level: "info", Kind: "unmerged"}),
			"● OK  3 of 3 peers up"},
		"a level alone":     {health("failed"), "■ FAILED"},
		"a level to come":   {health("worrying"), "◐ DEGRADED"},
		"a problem to come": {health("ok", control.Problem{Level: "worrying"}), "● OK"},
		"down and degraded": {func(s *control.Status) {
			health("degraded", control.Problem{Level: "degraded"})(s)
			s.Peers[0].State = control.Down
			judged(s)
		}, "■ FAILED  1 DOWN · 1 problem"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := strings.TrimSpace(verdict(aNode(test.change)).String()); !strings.HasPrefix(got, test.want) {
				t.Errorf("%q, not %q", got, test.want)
			}
		})
	}
}

// list writes problems as "word subject text".
func list(all []problem) string {
	var lines []string
	for _, p := range all {
		lines = append(lines, strings.Join([]string{p.word, p.subject, p.text()}, "|"))
	}
	return strings.Join(lines, "\n")
}

// Problems are the daemon's, by level, the worst first; figures of peers are in the place of sentences.
func TestProblems(t *testing.T) {
	for name, test := range map[string]struct {
		change func(s *control.Status)
		want   string
	}{
		"a peer that this picture does not know": {health("failed",
			control.Problem{Level: "failed", Kind: peerDown, Text: "all 19 peers", Remedy: "look"}),
			"DOWN||all 19 peers; look"},
		"by level": {health("failed",
			control.Problem{Level: "info", Kind: "a", Text: "one"},
			control.Problem{Level: "degraded", Kind: "b", Text: "two", Remedy: "do this"},
			control.Problem{Level: "failed", Kind: "c", Text: "three", Peer: "edge-03"}),
			"FAILED|edge-03|three\nwarn||two; do this\ninfo||one"},
		"a file that is rejected": {func(s *control.Status) {
			s.Config.Error = "x:1:2: error: no\nx:2:1: error: never"
			health("degraded", control.Problem{Level: "degraded", Kind: "file_rejected", Text: "any words"})(s)
		}, "file||still running generation 12: x:1:2: error: no (and 1 more)"},
		"the last good file": {func(s *control.Status) {
			s.Config.Error, s.Config.Source = "x:1:2: error: no", control.SourceLastGood
			health("degraded", control.Problem{Level: "degraded", Kind: "last_good_file", Text: "any words"})(s)
		}, "file||running the last good file: x:1:2: error: no"},
		"a rejection without a fault": {health("failed", control.Problem{Level: "failed", Kind: "file_rejected",
			Text: "rejected"}),
			"FILE||rejected"},
		"warnings are not read": {func(s *control.Status) { s.Warnings = []string{"a sentence"} }, ""},
		"a daemon without health": {func(s *control.Status) {
			s.Health = control.Health{}
			s.Config.Error = "x:1:2: error: no"
			s.Warnings = []string{"x cannot be applied: x:1:2: error: no", "another sentence"}
		}, "FILE||still running generation 12: x:1:2: error: no\n" +
			"warn||x cannot be applied: x:1:2: error: no\nwarn||another sentence"},
		"another file": {func(s *control.Status) {
			s.Peers[0].ConfigMatch, s.Peers[0].ConfigSHA256 = new(false), "00c0ffee77"
			judged(s)
		},
			"drift|edge-02|runs another mesh.toml: 00c0ffee there, 9f3c1a77 here"},
		"a peer that was never heard": {func(s *control.Status) {
			p := &s.Peers[0]
			p.State, p.LastSeen, p.Since, p.Loss = control.Down, nil, nil, nil
			judged(s)
		}, "DOWN|edge-02|never heard   198.51.100.2:8285  10.2.0.0/16"},
		"a peer without packets": {func(s *control.Status) {
			p := &s.Peers[0]
			p.State, p.LastSeen, p.Loss = control.Stale, nil, new(0.5)
			s.Health = control.Health{}
		}, "stale|edge-02|no reply for 1h 00m   loss 50%   198.51.100.2:8285  10.2.0.0/16"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := list(problems(aNode(test.change))); got != test.want {
				t.Errorf("\n%s\nnot\n%s", got, test.want)
			}
		})
	}
}

// How bad a rejected file is, the daemon says; the level decides the colour.
func TestFileProblemHasItsLevel(t *testing.T) {
	for level, want := range map[string]string{control.Degraded: "◐ DEGRADED  file rejected",
		control.Failed: "■ FAILED  file rejected"} {
		t.Run(level, func(t *testing.T) {
			s := aNode(health(level, control.Problem{Level: level, Kind: "file_rejected"}))
			s.Config.Error = "x:1:2: error: no"
			if got := strings.TrimSpace(verdict(s).String()); got != want {
				t.Errorf("%q, not %q", got, want)
			}
		})
	}
}

// What does not fit is counted, and never silently left out.
func TestAttentionIsCounted(t *testing.T) {
	s := rejected(someMesh(0)) // five problems
	for h := 1; h < 12; h++ {
		lines := attention(s, names{}, 80, h)
		if len(lines) > h {
			t.Errorf("%d lines in %d", len(lines), h)
		}
		last := lines[len(lines)-1].String()
		if more := strings.Contains(last, "more: 2 shows peers"); more != (h < 5) {
			t.Errorf("the last of %d lines is %q", h, last)
		}
	}
}

// The worst peer is the one that Enter on the overview opens.
func TestWorstPeer(t *testing.T) {
	if got := worstPeer(someMesh(0)); got != "edge-14" {
		t.Errorf("%q is the worst", got)
	}
	if got := worstPeer(aNode(func(*control.Status) {})); got != "" {
		t.Errorf("%q is the worst of peers that are all up", got)
	}
}
