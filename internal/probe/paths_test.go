package probe

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// vias are addresses of a peer.
func vias(n int) (all []netip.AddrPort) {
	for i := range n {
		all = append(all, netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 18, byte(i), 3}), 8285))
	}
	return all
}

// newPaths returns a simulation of peers that have two addresses each.
func newPaths(t *testing.T, interval time.Duration, peers ...string) *sim {
	s := newSim(t, interval)
	both := map[string][]netip.AddrPort{}
	for _, name := range peers {
		both[name] = vias(2)
	}
	s.Set(Settings{Peers: peers, Interval: interval, Via: both})
	return s
}

// onlyBy has peers answer at one address.
func onlyBy(via netip.AddrPort) func(Question) (time.Duration, bool) {
	return func(q Question) (time.Duration, bool) { return 7 * time.Millisecond, q.Via == via }
}

// A path that falls silent is found within three seconds, whenever it happens and whatever the round trip
// takes, and the other one has answered meanwhile.
func TestSilenceIsFound(t *testing.T) {
	for _, interval := range []time.Duration{100 * time.Millisecond, time.Second, 10 * time.Second} {
		for _, rtt := range []time.Duration{time.Millisecond, 30 * time.Millisecond, 150 * time.Millisecond} {
			t.Run(fmt.Sprint(interval, rtt), func(t *testing.T) {
				for range 8 {
					s := newPaths(t, interval, "b")
					s.answers = func(Question) (time.Duration, bool) { return rtt, true }
					s.run(30*time.Second + rand.N(10*time.Second))
					if p := s.report("b").Paths; p[0].Silent || !p[0].Active || p[1].Active || p[1].State != Up {
						t.Fatalf("before: %+v", p)
					}
					cut := s.now
					s.answers = func(q Question) (time.Duration, bool) { return rtt, q.Via != vias(1)[0] }
					for !s.report("b").Silent && s.now.Sub(cut) < 3*time.Second {
						s.run(50 * time.Millisecond)
					}
					p := s.report("b").Paths
					if !p[0].Silent || !p[1].Answered.After(cut) || !p[0].Good.Before(cut) {
						t.Fatalf("%+v", p)
					}
					s.Prefer("b", p[1].Via)
					s.changes = nil
					s.run(3 * time.Second)
					if r := s.report("b"); r.State != Up || !r.Paths[1].Active {
						t.Fatalf("after: %+v", r)
					}
					for _, change := range s.changes {
						if change != "b forms" && change != "b paths" { // a new path is searched for its size
							t.Fatalf("the change of paths shows as %s", change)
						}
					}
				}
			})
		}
	}
}

// Loss of single datagrams is no silence.
func TestLossIsNoSilence(t *testing.T) {
	s := newPaths(t, time.Second, "b")
	s.answers = func(Question) (time.Duration, bool) { return 7 * time.Millisecond, rand.IntN(20) > 0 }
	for range 1800 {
		s.run(time.Second)
		if s.report("b").Paths[0].Silent {
			t.Fatalf("silent after %v", s.now.Sub(time.Unix(1e9, 0)))
		}
	}
}

// What carries nothing is asked rarely while it is known how it is; what packets should go back to is
// followed once it answers.
func TestRareQuestions(t *testing.T) {
	s := newPaths(t, time.Second, "b")
	count := func() map[netip.AddrPort]int {
		asked, before := map[netip.AddrPort]int{}, s.answers
		s.answers = func(q Question) (time.Duration, bool) {
			if q.Form == Plain {
				asked[q.Via]++
			}
			return before(q)
		}
		s.run(100 * time.Second)
		s.answers = before
		return asked
	}
	s.run(30 * time.Second)
	first, second := vias(2)[0], vias(2)[1]
	if n := count(); n[second] < 8 || n[second] > 12 || n[first] < 95 || n[first] > 105 {
		t.Errorf("at first: %v", n)
	}
	s.answers = onlyBy(second)
	s.run(5 * time.Second)
	s.Prefer("b", second)
	s.run(time.Minute)
	if p := s.report("b").Paths[0]; p.State != Down || !p.Good.IsZero() {
		t.Errorf("a dead one: %+v", p)
	}
	if n := count(); n[first] < 8 || n[first] > 12 || n[second] < 95 {
		t.Errorf("a dead one: %v", n)
	}
	s.answers = func(Question) (time.Duration, bool) { return time.Millisecond, true }
	s.run(20 * time.Second)
	if n := count(); n[first] < 95 {
		t.Errorf("one that came back: %v", n)
	}
	if p := s.report("b").Paths[0]; p.Silent || s.now.Sub(p.Good) < 100*time.Second {
		t.Errorf("one that came back: %+v", p)
	}
}

// The state of a peer is that of the path that packets take; a change of paths is told of by what it
// changes.
func TestStateIsOfThePathInUse(t *testing.T) {
	s := newPaths(t, time.Second, "b")
	first, second := vias(2)[0], vias(2)[1]
	s.run(20 * time.Second)
	s.answers = silent
	s.run(20 * time.Second)
	if r := s.report("b"); r.State != Down || !r.Silent {
		t.Fatalf("%+v", r)
	}
	s.changes = nil
	s.answers = onlyBy(second)
	s.run(30 * time.Second)
	if r := s.report("b"); r.State == Up || r.Paths[1].State != Up {
		t.Fatalf("%q, %+v", s.changes, r) // packets still go where nothing answers
	}
	s.Prefer("b", second)
	s.run(2 * time.Second)
	if r := s.report("b"); !slices.Contains(s.changes, "b silent>up") || r.State != Up || r.Silent {
		t.Errorf("%q, %+v", s.changes, r)
	}
	s.Prefer("b", netip.AddrPort{})
	s.run(2 * time.Second)
	if r := s.report("b"); !slices.Contains(s.changes, "b up>silent") || !r.Paths[0].Active ||
		r.Paths[0].Via != first {
		t.Errorf("%q, %+v", s.changes, r)
	}
}

// Addresses come, go and change places; what is known of those that stay is kept.
func TestAddressesChange(t *testing.T) {
	all := vias(3)
	s := newSim(t, time.Second, "b")
	set := func(via ...netip.AddrPort) {
		s.Set(Settings{Peers: []string{"b"}, Interval: time.Second, Via: map[string][]netip.AddrPort{"b": via}})
	}
	s.run(30 * time.Second)
	sent := s.report("b").Sent
	for _, step := range []struct {
		name   string
		via    []netip.AddrPort
		active int
	}{
		{"a second one", all[:2], 0},
		{"the order changes", []netip.AddrPort{all[1], all[0]}, 1},
		{"a third one", []netip.AddrPort{all[2], all[1], all[0]}, 2},
		{"one is left", all[:1], 0},
		{"the only one has another value", all[1:2], 0},
		{"none has a name", nil, 0},
	} {
		t.Run(step.name, func(t *testing.T) {
			s.changes = nil
			set(step.via...)
			s.run(3 * time.Second)
			r := s.report("b")
			if r.State != Up || r.Sent <= sent {
				t.Errorf("%+v", r)
			}
			sent = r.Sent
			if len(step.via) > 1 && (len(r.Paths) != len(step.via) || !r.Paths[step.active].Active) {
				t.Errorf("%+v", r.Paths)
			}
			for _, change := range s.changes {
				if change != "b paths" && change != "b forms" {
					t.Errorf("told: %q", s.changes)
				}
			}
		})
	}
	t.Run("the one in use goes", func(t *testing.T) {
		set(all[:2]...)
		s.run(30 * time.Second)
		s.changes = nil
		s.answers = onlyBy(all[1])
		set(all[1:]...)
		s.run(3 * time.Second)
		if r := s.report("b"); r.State != Up || !r.Paths[0].Active || slices.Contains(s.changes, "b unknown>up") {
			t.Errorf("%+v, %q", r, s.changes)
		}
	})
}

// The uplink of this host fails: all peers are found silent soon, and the questions stay bounded.
func TestAllFallSilent(t *testing.T) {
	var names []string
	for i := range 300 {
		names = append(names, fmt.Sprint("n", i))
	}
	s := newPaths(t, time.Second, names...)
	s.run(30 * time.Second)
	s.answers = onlyBy(vias(2)[1])
	asked := 0
	before := s.answers
	s.answers = func(q Question) (time.Duration, bool) { asked++; return before(q) }
	s.run(5 * time.Second)
	left := 0
	for _, name := range names {
		if p := s.report(name).Paths; !p[0].Silent || s.now.Sub(p[1].Answered) > 5*time.Second {
			left++
		}
	}
	if left > 0 || asked > 5*(maxRate+maxDoubtRate)+doubtBurst {
		t.Errorf("%d of 300 are not found; %d questions", left, asked)
	}
}

// The size of a path that carries nothing is checked rarely once it is known, and at once when packets go
// there.
func TestSizeOfAPathThatRests(t *testing.T) {
	all := vias(2)
	s := newSim(t, time.Second)
	s.Set(Settings{Peers: []string{"b"}, Interval: time.Second, Bounds: []Bounds{{Sizes: limits.Sizes}},
		Via: map[string][]netip.AddrPort{"b": all}})
	carries, asked := limits.Sizes.Most, map[netip.AddrPort]int{}
	s.answers = func(q Question) (time.Duration, bool) {
		if q.Form == Large {
			asked[q.Via]++
		}
		return time.Millisecond, q.Via == all[0] || len(q.Payload) <= carries
	}
	s.run(2 * time.Minute)
	clear(asked)
	s.run(5 * time.Minute)
	if asked[all[1]] < 3 || asked[all[1]] > 6 || asked[all[0]] < 60 {
		t.Errorf("in 5 minutes: %v", asked)
	}
	carries = 1200
	s.Prefer("b", all[1])
	s.until(carries+limits.Sizes.Headers, 10*time.Second)
}
