package seal

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"example.org/meshd/internal/mesh"
)

var dawn = time.Unix(1e9, 0)

// never is when the last bare packet of peers came that sent none.
func never(string) time.Time { return time.Time{} }

// A peer lags from the switch of this node on until it says that it is sealed, or for ten minutes.
func TestLagging(t *testing.T) {
	type step struct {
		after          time.Duration
		says           string // that it is sealed
		takes          bool   // it takes that back
		followed, late []string
		lag            int
	}
	for _, test := range []struct {
		name  string
		steps []step
	}{
		{"nobody says a word", []step{{after: lagMost - 1, lag: 2}, {after: lagMost, late: []string{"a", "b"}}}},
		{"one follows", []step{{after: time.Minute, says: "a", lag: 2},
			{after: time.Minute + grace - 1, lag: 2},
			{after: time.Minute + grace, followed: []string{"a"}, lag: 1}, {after: lagMost, late: []string{"b"}}}},
		{"it says so again and again", []step{{after: time.Minute, says: "a", lag: 2},
			{after: time.Minute + grace/2, says: "a", lag: 2},
			{after: time.Minute + grace, followed: []string{"a"}, lag: 1}}},
		{"at the last moment", []step{{after: lagMost - 1, says: "a", lag: 2},
			{after: lagMost, followed: []string{"a"}, late: []string{"b"}}}},
		{"it takes that back", []step{{after: time.Minute, says: "a", lag: 2},
			{after: time.Minute, says: "a", takes: true, lag: 2},
			{after: time.Minute + grace, late: []string{"a"}, lag: 1}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var s switchover
			if lag := s.begin([]string{"a", "b"}, never, dawn); len(lag) != 2 {
				t.Fatalf("%q lag", lag)
			}
			for i, step := range test.steps {
				now := dawn.Add(step.after)
				if step.says != "" {
					s.says(step.says, !step.takes, now)
				}
				followed, late := s.end(now)
				if !slices.Equal(followed, step.followed) || !slices.Equal(late, step.late) || len(s.lag()) != step.lag {
					t.Errorf("step %d: %q have followed, %q are late, %v lag", i, followed, late, s.lag())
				}
			}
		})
	}
}

// Who has followed before does not lag, unless it has gone back since; who has left the mesh is forgotten.
func TestBeginAndCancel(t *testing.T) {
	var s switchover
	for _, name := range []string{"sealed", "back", "gone"} {
		s.says(name, true, dawn)
	}
	s.keep(map[string]bool{"sealed": true, "back": true, "new": true})
	bare := func(peer string) time.Time {
		return map[string]time.Time{"back": dawn.Add(grace + 1), "sealed": dawn.Add(grace)}[peer]
	}
	lag := s.begin([]string{"sealed", "back", "gone", "new"}, bare, dawn.Add(time.Minute))
	if want := []string{"back", "gone", "new"}; !slices.Equal(lag, want) {
		t.Errorf("%q lag, want %q", lag, want)
	}
	if got := s.cancel(); !slices.Equal(got, lag) || s.lag() != nil {
		t.Errorf("%q lagged", got)
	}
	if followed, late := s.end(dawn.Add(time.Hour)); len(followed)+len(late) > 0 {
		t.Errorf("%q, %q after the end", followed, late)
	}
}

// Probes go inside the tunnel once the peer has said there that it is sealed, until it sends bare again.
func TestInside(t *testing.T) {
	for _, test := range []struct {
		name string
		said []bool
		bare time.Time
		want bool
	}{
		{"nothing was said", nil, dawn, false},
		{"it is sealed", []bool{true}, time.Time{}, true},
		{"bare packets were on their way", []bool{true}, dawn.Add(goneBack - 1), true},
		{"it sends bare again", []bool{true}, dawn.Add(goneBack), false},
		{"it says that it is not any more", []bool{true, false}, time.Time{}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var s switchover
			for _, sealed := range test.said {
				s.says("a", sealed, dawn)
			}
			asked := 0
			bare := func(peer string) time.Time { asked++; return test.bare }
			if got := s.inside("a", bare); got != test.want {
				t.Error(got)
			}
			if said := len(test.said) > 0 && test.said[len(test.said)-1]; asked > 0 && !said {
				t.Error("the kernel is asked about a peer that has said nothing")
			}
		})
	}
}

// Only the step from prepared to sealed has packets take the other way first.
func TestSwitches(t *testing.T) {
	states := map[string]*Wanted{"plain": nil, "prepared": {Prepared: true}, "sealed": {}}
	for before, from := range states {
		for next, to := range states {
			if got, want := Switches(from, to), before == "prepared" && next == "sealed"; got != want {
				t.Errorf("from %s to %s: %v", before, next, got)
			}
		}
	}
}

// A peer is ready while its session is young; one behind a relay is as ready as the relay.
func TestReady(t *testing.T) {
	told := Told{Peers: map[string]PeerTold{"young": {Handshake: dawn.Add(1 - unanswered)},
		"old": {Handshake: dawn.Add(-unanswered)}, "never": {}, "behind": {Relay: "young"}, "lost": {Relay: "old"}}}
	for peer, want := range map[string]bool{"young": true, "old": false, "never": false, "behind": true,
		"lost": false, "unknown": false} {
		if told.Ready(peer, dawn) != want {
			t.Errorf("%s: not %v", peer, want)
		}
	}
}

// While prepared, nothing but what is bound to the interface leaves by it.
func TestRoutesOfPrepared(t *testing.T) {
	w := &Wanted{Self: mesh.Peer{Name: "a", Subnets: prefixes("10.244.1.0/24")}, Prepared: true,
		Network: prefixes("10.244.0.0/16", "fd00::/48"),
		Peers:   []Peer{{Peer: mesh.Peer{Name: "b", Subnets: prefixes("10.244.2.0/24")}}}}
	if got := fmt.Sprint(w.routes(learned{})); got != "[10.244.0.0/16 src 10.244.1.0 metric 8285]" {
		t.Error(got)
	}
}
