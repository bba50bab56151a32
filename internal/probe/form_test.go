package probe

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// everything is a trait by which every form is measured, and limits are bounds by which it is.
var (
	everything = Trait{Data: true, DSCP: 1<<0 | 1<<10 | 1<<46}
	limits     = Bounds{Sizes: Sizes{Least: 548, Most: 1444}, Forwarded: true}
)

// newFormSim returns a sim whose neighbour b measures forwarding.
func newFormSim(t *testing.T, interval time.Duration, peers ...string) *sim {
	s := newSim(t, interval)
	s.Set(Settings{Peers: peers, Interval: interval, Bounds: slices.Repeat([]Bounds{limits}, len(peers))})
	s.Differ(everything)
	s.other = func(_ Question, answer []byte) []byte { return answered(answer, Meaning{7}, 0) }
	return s
}

// answered is an answer of a neighbour that tells a meaning and flags.
func answered(answer []byte, m Meaning, f Flags) []byte {
	p, _ := parse(answer)
	p.flags, p.Meaning = f, m
	p.write(answer)
	return answer
}

func (s *sim) form(f Form) FormReport { return s.report("b").Forms[f-1] }

// loses has the path lose one form, from now on.
func (s *sim) loses(is func(Question) bool) {
	s.answers = func(q Question) (time.Duration, bool) { return time.Millisecond, !is(q) }
}

func nothing(Question) bool { return false }

// Each form that is lost is found within seconds, is the only one that is, and passes again soon after.
func TestFormIsLost(t *testing.T) {
	for _, f := range Forms() {
		t.Run(f.String(), func(t *testing.T) {
			s := newFormSim(t, time.Second, "b")
			s.loses(nothing)
			s.run(time.Minute)
			for _, one := range s.report("b").Forms {
				if !one.Measured || one.Fails || one.Loss != 0 || one.Sent < 5 || one.Sent > 16 || one.Received < 5 {
					t.Errorf("while all is well: %+v", one)
				}
			}
			s.changes = nil
			s.loses(func(q Question) bool { return q.Form == f })
			s.run(15 * time.Second)
			s.expect("b forms")
			for _, one := range s.report("b").Forms {
				if one.Fails != (one.Form == f) {
					t.Errorf("%+v while %s is lost", one, f)
				}
			}
			if s.report("b").State != Up {
				t.Error("a form changes the state")
			}
			s.run(time.Minute)
			s.expect()
			s.loses(nothing)
			s.run(10 * time.Second)
			s.expect("b forms")
			if got := s.form(f); got.Fails || got.LostInRow != 0 {
				t.Errorf("after it: %+v", got)
			}
		})
	}
}

// One answer among lost ones ends nothing, and two losses begin nothing.
func TestFormsDoNotFlap(t *testing.T) {
	s := newFormSim(t, time.Second, "b")
	s.loses(nothing)
	s.run(20 * time.Second)
	s.changes = nil
	n := 0
	s.loses(func(q Question) bool {
		if q.Form != Forwarded {
			return false
		}
		n++
		return n%3 != 0 // two are lost, one passes
	})
	s.run(5 * time.Minute)
	s.expect()
	s.loses(func(q Question) bool { return q.Form == Forwarded })
	s.run(30 * time.Second)
	s.expect("b forms")
	n = 0
	s.loses(func(q Question) bool {
		if q.Form != Forwarded {
			return false
		}
		n++
		return n%2 != 0 // every second one passes
	})
	s.run(5 * time.Minute)
	s.expect()
}

// Where plain probes are lost as well, the loss of a form says nothing of the form.
func TestFormsOnALossyPath(t *testing.T) {
	s := newFormSim(t, time.Second, "b")
	n := 0
	s.loses(func(Question) bool { n++; return n%2 == 0 })
	s.run(10 * time.Minute)
	for _, one := range s.report("b").Forms {
		if one.Fails {
			t.Errorf("%+v", one)
		}
	}
}

// A DSCP value that is lost is named, and the others that pods send with are asked about.
func TestDSCPValues(t *testing.T) {
	s := newFormSim(t, time.Second, "b")
	asked := map[uint8]int{}
	s.loses(func(q Question) bool {
		if q.Form == Marked {
			asked[q.DSCP]++
		} else if q.DSCP != 0 {
			t.Errorf("%s with DSCP %d", q.Form, q.DSCP)
		}
		return false
	})
	s.run(2 * time.Minute)
	if len(asked) != 2 || asked[10] < 5 || asked[46] < 5 {
		t.Errorf("asked with %v", asked)
	}
	s.loses(func(q Question) bool { return q.DSCP == 46 })
	s.run(30 * time.Second)
	if got := s.form(Marked); !got.Fails || got.DSCP != 46 {
		t.Errorf("%+v", got)
	}
	s.changes = nil
	s.Differ(Trait{DSCP: 1<<0 | 1<<10}) // pods use it no more
	s.run(30 * time.Second)
	if got := s.form(Marked); got.Fails || got.DSCP != 10 {
		t.Errorf("%+v", got)
	}
	s.Differ(Trait{DSCP: 1 << 0})
	s.run(10 * time.Second)
	if got := s.form(Marked); got.Measured {
		t.Errorf("%+v", got)
	}
}

// What says nothing of a peer is not measured.
func TestMeasured(t *testing.T) {
	all := map[Form]bool{Data: true, Large: true, Marked: true, Forwarded: true}
	without := func(fs ...Form) map[Form]bool {
		rest := map[Form]bool{Data: true, Large: true, Marked: true, Forwarded: true}
		for _, f := range fs {
			delete(rest, f)
		}
		return rest
	}
	for _, test := range []struct {
		name    string
		trait   Trait
		bounds  Bounds
		meaning Meaning
		flags   Flags
		flannel bool
		want    map[Form]bool
	}{
		{name: "all", trait: everything, bounds: limits, meaning: Meaning{1}, want: all},
		{name: "pods send as meshd does", trait: Trait{DSCP: 2}, bounds: limits, meaning: Meaning{1},
			want: without(Data)},
		{name: "no pod sets a DSCP value", trait: Trait{Data: true, DSCP: 1}, bounds: limits, meaning: Meaning{1},
			want: without(Marked)},
		{name: "no bounds", trait: everything, meaning: Meaning{1}, want: without(Large, Forwarded)},
		{name: "an old meshd", trait: everything, bounds: limits, want: without(Forwarded)},
		{name: "a meshd without pods", trait: everything, bounds: limits, meaning: Meaning{1}, flags: Unmeasured,
			want: without(Forwarded)},
		{name: "flannel", trait: everything, bounds: limits, flannel: true, want: without(Data, Forwarded)},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSim(t, time.Second)
			s.Set(Settings{Peers: []string{"b"}, Interval: time.Second, Bounds: []Bounds{test.bounds}})
			s.Differ(test.trait)
			s.other = func(q Question, answer []byte) []byte {
				if test.flannel {
					return q.Payload
				}
				return answered(answer, test.meaning, test.flags)
			}
			s.run(time.Minute)
			for _, got := range s.report("b").Forms {
				if got.Measured != test.want[got.Form] || (got.Sent > 0) != test.want[got.Form] {
					t.Errorf("%s: measured %v, %d sent", got.Form, got.Measured, got.Sent)
				}
			}
		})
	}
}

// What was lost is forgotten once the form says nothing any more.
func TestFormIsForgotten(t *testing.T) {
	s := newFormSim(t, time.Second, "b")
	s.loses(func(q Question) bool { return q.Form == Data })
	s.run(time.Minute)
	if !s.form(Data).Fails {
		t.Fatal("it is not lost")
	}
	s.changes = nil
	s.Differ(Trait{DSCP: everything.DSCP})
	s.run(3 * time.Second)
	s.expect("b forms")
	if got := s.form(Data); got.Fails || got.Measured {
		t.Errorf("%+v", got)
	}
}

// A question that could not be sent for a reason of its own counts as none.
func TestUnsent(t *testing.T) {
	s := newFormSim(t, time.Second, "b")
	s.loses(nothing)
	s.run(20 * time.Second)
	s.answers = func(q Question) (time.Duration, bool) {
		if q.Form == Marked {
			s.Unsent(q)
		}
		return 0, q.Form != Marked
	}
	s.run(time.Minute)
	if got := s.form(Marked); got.Fails || got.LostInRow > 0 || got.Loss > 0 {
		t.Errorf("%+v", got)
	}
}

// The size of a large probe is the bound, and all others are small.
func TestSizes(t *testing.T) {
	s := newFormSim(t, time.Second, "b")
	s.loses(func(q Question) bool {
		want := PayloadSize
		if q.Form == Large {
			want = limits.Sizes.Most
		}
		if len(q.Payload) != want {
			t.Errorf("%s has %d bytes", q.Form, len(q.Payload))
		}
		return false
	})
	s.other = func(q Question, answer []byte) []byte {
		if len(answer) != PayloadSize { // the way back is no part of the measurement
			t.Errorf("%d bytes are answered with %d", len(q.Payload), len(answer))
		}
		return answered(answer, Meaning{7}, 0)
	}
	s.run(time.Minute)
}

// All forms together, of any number of peers, in whatever state, keep to a rate, and every peer gets
// its share.
func TestRateOfForms(t *testing.T) {
	for _, test := range []struct {
		name  string
		peers int
		lost  bool // all forms are
	}{
		{"few peers", 20, false}, {"few peers, all forms lost", 20, true},
		{"many peers", 1000, false}, {"many peers, all forms lost", 1000, true},
		{"very many peers", 10000, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var names []string
			for i := range test.peers {
				names = append(names, string(rune('a'+i%26))+time.Duration(i).String())
			}
			s := newFormSim(t, time.Second, names...)
			plain, others, each := 0, 0, map[string]int{}
			s.loses(func(q Question) bool {
				if q.Form == Plain {
					plain++
					return false
				}
				others++
				each[q.Peer]++
				return test.lost
			})
			s.run(time.Minute)
			plain, others, each = 0, 0, map[string]int{}
			s.run(time.Minute)
			if most := min(maxRate, test.peers)*61 + Batch; plain > most || plain < most*9/10 {
				t.Errorf("%d plain probes in a minute, want %d", plain, most)
			}
			if most := min(maxFormRate+maxSizeRate, test.peers*4) * 61; others > most {
				t.Errorf("%d other probes in a minute, at most %d", others, most)
			}
			if len(each) < test.peers*3/4 { // chance decides which, so in a minute a few are left out
				t.Errorf("%d of %d peers were asked in other forms", len(each), test.peers)
			}
			t.Logf("%.1f plain and %.1f other probes a second", float64(plain)/60, float64(others)/60)
		})
	}
}

// A peer whose packets arrive while its meshd does not answer is silent, and down once nothing arrives.
func TestSilent(t *testing.T) {
	s := newSim(t, time.Second, "b", "c")
	s.run(10 * time.Second)
	s.changes = nil
	s.answers = silent
	for range 30 {
		s.run(time.Second)
		s.heard["b"] = s.now
	}
	s.expect("b up>silent", "c up>stale", "c stale>down")
	s.run(20 * time.Second)
	s.expect("b silent>down")
}

// A host that drops questions inside a tunnel is heard all the same, by its WireGuard, once in ten
// seconds. It is silent then, and stays so.
func TestSilentInATunnel(t *testing.T) {
	s := newSim(t, time.Second, "b")
	s.run(10 * time.Second)
	s.changes = nil
	s.answers = silent
	for second := range 60 {
		s.run(time.Second)
		if second%11 == 5 {
			s.heard["b"] = s.now
		}
	}
	s.expect("b up>stale", "b stale>silent")
}

// Who dies is never silent: what was heard before tells nothing of now.
func TestDeadIsNotSilent(t *testing.T) {
	s := newSim(t, time.Second, "b")
	s.run(10 * time.Second)
	s.changes = nil
	s.answers = silent
	s.heard["b"] = s.now.Add(Timeout) // the last packets
	s.run(20 * time.Second)
	s.expect("b up>stale", "b stale>down")
}

// Who answers too late is heard all the time, but not silent.
func TestLateIsNotSilent(t *testing.T) {
	s := newSim(t, time.Second, "b")
	s.answers = func(Question) (time.Duration, bool) { return 3 * Timeout / 2, true }
	s.run(20 * time.Second)
	s.expect("b unknown>down")
}

// A peer tells whether it hears us: by its questions, which are all that arrives.
func TestOneWay(t *testing.T) {
	s := newSim(t, time.Second, "b")
	asks := New(silence)
	asks.Set(Settings{Peers: []string{"us"}, Interval: time.Second})
	question := func(flags Flags) {
		b := make([]byte, PayloadSize)
		payload{flags: flags, nonce: 1}.write(b)
		s.Answer("b", netip.AddrPort{}, false, b, s.now)
	}
	s.run(10 * time.Second)
	s.changes = nil
	answers := s.answers
	s.answers = silent
	for range 8 {
		question(Unheard)
		s.run(time.Second)
	}
	s.expect("b up>stale", "b stale>one-way")
	if !s.report("b").NotHeard {
		t.Error("it does not tell that it does not hear us")
	}
	s.answers = answers
	question(0)
	s.run(3 * time.Second)
	s.expect("b one-way>up")

	// Answers arrive, but the peer tells for long that it does not hear us.
	for range 5 {
		question(Unheard)
		s.other = func(_ Question, answer []byte) []byte { return answered(answer, Meaning{}, Unheard) }
		s.run(time.Second)
	}
	s.expect()
	for range 5 {
		question(Unheard)
		s.run(time.Second)
	}
	s.expect("b up>one-way")
	s.other = nil
	s.run(2 * time.Second)
	s.expect("b one-way>up")
}

// A peer that starts again asks before it could answer, and one on a slow host answers too late: neither is
// reached one way only.
func TestNotOneWay(t *testing.T) {
	s := newSim(t, time.Second, "b")
	question := func() {
		b := make([]byte, PayloadSize)
		payload{nonce: 1}.write(b)
		s.Answer("b", netip.AddrPort{}, false, b, s.now)
	}
	s.run(10 * time.Second)
	s.changes = nil
	answers := s.answers
	s.answers = silent
	s.run(2900 * time.Millisecond)
	s.answers = answers
	for range 20 {
		question()
		s.run(200 * time.Millisecond)
	}
	if got := strings.Join(s.changes, ", "); strings.Contains(got, "one-way") || s.report("b").State != Up {
		t.Errorf("a restart: %s", got)
	}
	s.changes = nil
	s.answers = func(Question) (time.Duration, bool) { return 3 * Timeout / 2, true }
	for range 60 {
		question()
		s.run(100 * time.Millisecond)
	}
	s.expect("b up>stale")
	if p, _ := parse(answerOf(s, "b")); p.flags.Has(Unheard) {
		t.Error("a peer is told that it is not heard, while its answers are late")
	}
	s.answers = answers
	s.run(3 * time.Second)
	s.expect("b stale>up")
}

// answerOf returns what a peer is answered.
func answerOf(s *sim, peer string) []byte {
	b := make([]byte, PayloadSize)
	payload{nonce: 1}.write(b)
	reply, _ := s.Answer(peer, netip.AddrPort{}, false, b, s.now)
	return reply
}

// A node tells those who do not answer it, and nobody else, that it does not hear them.
func TestTellsUnheard(t *testing.T) {
	s := newSim(t, time.Second, "b", "c")
	s.run(5 * time.Second)
	s.answers = func(q Question) (time.Duration, bool) { return 0, q.Peer != "b" }
	s.run(6 * time.Second)
	ask := func(peer string) Flags {
		b := make([]byte, PayloadSize)
		payload{nonce: 1}.write(b)
		reply, _ := s.Answer(peer, netip.AddrPort{}, false, b, s.now)
		p, _ := parse(bytes.Clone(reply))
		q, _, forget, _ := s.Ping(peer, 0, s.now)
		forget()
		if asked, _ := parse(q.Payload); asked.flags != p.flags {
			t.Errorf("%s: questions tell %d, answers %d", peer, asked.flags, p.flags)
		}
		return p.flags
	}
	if b, c := ask("b"), ask("c"); b != Unheard|Unmeasured || c != Unmeasured {
		t.Errorf("b is told %d, c %d", b, c)
	}
	s.Forwards(true)
	if c := ask("c"); c != 0 {
		t.Errorf("c is told %d", c)
	}
}
