package tui

import (
	"testing"
	"time"

	"example.org/meshd/internal/control"
)

// What is known of a peer's session and its problems is one lock.
func TestLock(t *testing.T) {
	ago := func(d time.Duration) *control.PeerWireGuard {
		return &control.PeerWireGuard{Path: control.PathDirect, LatestHandshake: new(noon.Add(-d))}
	}
	state := func(word string, d time.Duration) *control.PeerWireGuard {
		w := ago(d)
		w.State = word
		return w
	}
	never := &control.PeerWireGuard{Path: control.PathDirect}
	for _, test := range []struct {
		name, want string
		wireGuard  *control.PeerWireGuard
		problem    control.Problem
	}{
		{"not encrypted", "none", nil, control.Problem{}},
		{"a session", "sealed", ago(time.Minute), control.Problem{}},
		{"an old session", "idle", ago(time.Hour), control.Problem{}},
		{"never", "idle", never, control.Problem{}},
		{"never answered", "refused", never, control.Problem{Kind: noHandshake, Peer: "b"}},
		{"nobody answered", "refused", ago(time.Hour), control.Problem{Kind: noHandshake}},
		{"another one never answered", "idle", never, control.Problem{Kind: noHandshake, Peer: "c"}},
		{"a session, and bare packets", "CLEAR", ago(time.Second), control.Problem{Kind: sendsClear, Peer: "b"}},
		{"bare packets of another one", "sealed", ago(time.Second), control.Problem{Kind: sendsClear, Peer: "c"}},
		{"could be encrypted", "ready", state(control.WireGuardReady, time.Second), control.Problem{}},
		{"could not be yet", "waiting", state(control.WireGuardWaiting, time.Hour), control.Problem{}},
		{"still sends bare", "lagging", state(control.WireGuardLagging, time.Second), control.Problem{}},
		{"has followed", "sealed", state(control.WireGuardSealed, time.Second), control.Problem{}},
		{"behind another node", "relayed", &control.PeerWireGuard{Path: "via hub"}, control.Problem{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &control.Status{Now: noon, Health: control.Health{Problems: []control.Problem{test.problem}}}
			if _, word, _ := lock(s, control.Peer{Name: "b", WireGuard: test.wireGuard}); word != test.want {
				t.Errorf("%q, want %q", word, test.want)
			}
		})
	}
}
