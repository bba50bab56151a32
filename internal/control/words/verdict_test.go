package words

import (
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
)

var lunch = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// about is a problem of a peer.
func about(level, kind, peer string) control.Problem {
	return control.Problem{Level: level, Kind: kind, Peer: peer, Text: "the text of " + kind, Remedy: "do it"}
}

func TestVerdict(t *testing.T) {
	up, down := control.Peer{Name: "a", State: control.Up}, control.Peer{Name: "b", State: control.Down}
	gone := control.Peer{Name: "c", State: control.Down, Drain: &control.Drain{}}
	with := func(level string, problems ...control.Problem) control.Status {
		return control.Status{Node: "n", Health: control.Health{Level: level, Problems: problems}}
	}
	long := control.Problem{Level: control.Failed, Kind: "x", Text: strings.Repeat("long ", 20)}
	for name, test := range map[string]struct {
		status control.Status
		want   string
	}{
		"starting":     {control.Status{}, "starting: nothing is forwarded yet"},
		"alone":        {with(control.OK), "ok: the file lists no other node"},
		"one is down":  {with(control.Failed, about(control.Failed, "peer_down", "b")), "failed: b is down"},
		"a newer kind": {with(control.Failed, about(control.Failed, "new", "")), "failed: the text of new"},
		"a long text":  {with(control.Failed, long), "failed: 1 problem"},
		"a long text, and one more": {with(control.Failed, long, about(control.Degraded, "peer_loss", "b")),
			"failed: b loses probes, 1 more problem"},
		"of a group, in short": {with(control.Failed, control.Problem{Level: control.Failed, Kind: "peer_down",
			Text: "no answer and no data from all 4 peers"}), "failed: no answer and no data from all 4 peers"},
		"of a group, at length": {with(control.Degraded, control.Problem{Level: control.Degraded,
			Kind: "file_differs", Text: "this node's file differs in meaning from that of all 18 peers"}, long),
			"degraded: several peers have another file, 1 more problem"},
		"several": {with(control.Failed, about(control.Failed, "peer_down", "b"),
			about(control.Failed, "peer_down", "c"), about(control.Degraded, "file_differs", "a"), long, long),
			"failed: 2 peers are down, a has another file, 2 more problems"},
		"one does not run": {with(control.Degraded, about(control.Degraded, "port_unreachable", "b")),
			"degraded: meshd of b seems not to run"},
		"information is no reason": {with(control.Degraded, about(control.Info, "peer_drains", "b"),
			about(control.Degraded, "peer_loss", "b")), "degraded: b loses probes"},
		"a newer level": {with("sad", about("sad", "peer_loss", "b")), "sad: b loses probes"},
		"well": {control.Status{Node: "n", Health: control.Health{Level: control.OK},
			Peers: []control.Peer{up, gone, {State: control.Unknown}}},
			"ok: 1 of 3 peers up, 1 down (maintenance), 1 unknown"},
		"an older daemon": {control.Status{Node: "n", Peers: []control.Peer{up, down},
			Warnings: []string{"x is wrong"}}, "failed: b is down, 1 more problem"},
		"an older daemon with a warning": {control.Status{Node: "n", Peers: []control.Peer{up},
			Warnings: []string{"x is wrong"}}, "degraded: x is wrong"},
		"an older daemon that is well": {control.Status{Node: "n", Peers: []control.Peer{up}},
			"ok: 1 of 1 peer up"},
	} {
		t.Run(name, func(t *testing.T) {
			level, reason := Verdict(test.status)
			if got := level + ": " + reason; got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// Tags are short, and those of kinds count more than those of levels.
func TestTag(t *testing.T) {
	for kind := range kinds {
		if n := len(Tag(control.Problem{Kind: kind})); n == 0 || n > 7 {
			t.Errorf("%s: %d letters", kind, n)
		}
	}
	for level, want := range map[string]string{control.Failed: "FAILED", control.Degraded: "warn",
		control.Info: "info", "sad": "warn"} {
		check(t, "level "+level, Tag(control.Problem{Level: level, Kind: "new"}), want)
	}
	check(t, "a kind", Tag(about(control.Failed, "peer_down", "b")), "DOWN")
	check(t, "a kind that is less bad", Tag(about(control.Degraded, "peer_down", "b")), "down")
}

// Of a peer that is down the status knows more than the problem.
func TestAbout(t *testing.T) {
	heard := control.Peer{Name: "b", Address: "172.18.0.4:8285", LastSeen: new(lunch.Add(-15 * time.Second)),
		Subnets: []string{"10.1.0.0/24"}, Routes: []string{"r1", "r2", "r3"}}
	never := control.Peer{Name: "c", Address: "[2001:db8::4]:8285", Since: new(lunch.Add(-time.Minute))}
	s := control.Status{Peers: []control.Peer{heard, never, {Name: "d"}}}
	loss := about(control.Degraded, "peer_loss", "b")
	loss.Since = lunch.Add(-40 * time.Second)
	faults := about(control.Degraded, "file_rejected", "")
	faults.Text = "rejected: a:1: x\na:2: y"
	for name, test := range map[string]struct {
		problem      control.Problem
		text, remedy string
	}{
		"heard before": {about(control.Failed, "peer_down", "b"), "no packet for 15 s at 172.18.0.4:8285; " +
			"10.1.0.0/24 r1 r2 and 1 more cannot be reached", "`ping 172.18.0.4`, and on that host " +
			"`systemctl status meshd`; both firewalls must pass UDP port 8285"},
		"not heard": {about(control.Failed, "peer_down", "c"), "no answer for 1m 00s at [2001:db8::4]:8285",
			"`ping 2001:db8::4`, and on that host `systemctl status meshd`; both firewalls must pass UDP port 8285"},
		"of a group":     {about(control.Failed, "peer_down", ""), "the text of peer_down", "do it"},
		"not known":      {about(control.Failed, "peer_down", "z"), "the text of peer_down", "do it"},
		"since a while":  {loss, "the text of peer_loss (for 40 s)", "do it"},
		"several faults": {faults, "rejected: a:1: x (and 1 more)", "`meshd check` shows all faults; do it"},
	} {
		check(t, name, About(s, test.problem, lunch), test.text)
		check(t, name+", remedy", Remedy(s, test.problem), test.remedy)
	}
	if got := About(s, about(control.Failed, "peer_down", "d"), lunch); !strings.HasPrefix(got, "never heard") {
		t.Errorf("%q", got)
	}
}

func TestLock(t *testing.T) {
	fresh, old := new(lunch.Add(-time.Minute)), new(lunch.Add(-time.Hour))
	for want, w := range map[string]*control.PeerWireGuard{
		"": nil, "sealed": {LatestHandshake: fresh, Path: control.PathDirect},
		"idle":    {LatestHandshake: old, Path: control.PathDirect},
		"relayed": {Path: "via hub"}, "ready": {Path: control.PathDirect, State: control.WireGuardReady},
		"waiting": {Path: control.PathDirect, State: control.WireGuardWaiting},
		"lagging": {Path: control.PathDirect, State: control.WireGuardLagging},
	} {
		check(t, "a lock "+want, Lock(control.Status{Now: lunch}, control.Peer{Name: "b", WireGuard: w}), want)
	}
	p := control.Peer{Name: "b",
		WireGuard: &control.PeerWireGuard{Path: control.PathDirect, LatestHandshake: old}}
	for name, test := range map[string]struct {
		kind, peer, want string
	}{
		"bare":            {"sends_clear", "b", "CLEAR"},
		"another is bare": {"sends_clear", "c", "idle"},
		"refused":         {"no_handshake", "b", "refused"},
		"all refuse":      {"no_handshake", "", "refused"},
	} {
		s := control.Status{Now: lunch, Health: control.Health{Problems: []control.Problem{
			about(control.Failed, test.kind, test.peer)}}}
		check(t, name, Lock(s, p), test.want)
	}
}

func TestSameFile(t *testing.T) {
	s := control.Status{Config: control.Config{Path: "/m", Generation: 3, SHA256: "aabbccddee"}}
	check(t, "alone", SameFile(s), "/m generation 3 (aabbccdd)")
	s.Peers = []control.Peer{{ConfigMatch: new(true)}, {ConfigMatch: new(false)}}
	check(t, "all told", SameFile(s), "/m generation 3 (aabbccdd), the same on 1 of 2 peers")
	s.Peers = append(s.Peers, control.Peer{})
	check(t, "some told", SameFile(s), "/m generation 3 (aabbccdd), the same on 1 of 3 peers, unknown on 1")
}

func TestTold(t *testing.T) {
	for name, test := range map[string]struct {
		event control.Event
		want  string
	}{
		"with details": {control.Event{Kind: "peer_stale", Peer: "b", Fields: map[string]string{"silent": "3s",
			"loss": "5%"}}, "b is stale: it does not answer (loss 5%, silent 3s)"},
		"without": {control.Event{Message: "starting", Fields: map[string]string{"cause": ""}}, " starting"},
		"long": {control.Event{Message: "rejected", Fields: map[string]string{"error": `a:1: x\na:2: y\na:3: z`}},
			" rejected (error a:1: x (and 2 more))"},
	} {
		subject, rest := Told(test.event)
		check(t, name, subject+" "+rest, test.want)
	}
}
