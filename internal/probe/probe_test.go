package probe

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/budget"
)

// sim is a prober with a clock of its own and neighbours that do as they are told.
type sim struct {
	*Prober
	t       *testing.T
	now     time.Time
	heard   map[string]time.Time
	answers func(q Question) (after time.Duration, ok bool)
	other   func(q Question, answer []byte) []byte // what comes back; nil: an answer of a meshd
	flying  []flight
	asked   map[string]int
	changes []string
}

type flight struct {
	from string
	b    []byte
	at   time.Time
}

// silence is that nothing was heard.
func silence(names []string) []time.Time { return make([]time.Time, len(names)) }

func newSim(t *testing.T, interval time.Duration, peers ...string) *sim {
	s := &sim{t: t, now: time.Unix(1e9, 0), heard: map[string]time.Time{}, asked: map[string]int{}}
	s.answers = func(Question) (time.Duration, bool) { return 7 * time.Millisecond, true }
	s.Prober = New(func(names []string) (times []time.Time) {
		for _, name := range names {
			times = append(times, s.heard[name])
		}
		return times
	})
	s.Introduce(Self{Version: "1"})
	s.Set(Settings{Peers: peers, Interval: interval})
	return s
}

// answerTo is how a neighbour answers, which is one of its own for each question: none bounds another one's.
func answerTo(q Question, at time.Time) (reply []byte, mine bool) {
	neighbour.given.used.Store(0)
	return neighbour.Answer("us", netip.AddrPort{}, false, bytes.Clone(q.Payload), at)
}

// neighbour answers as a meshd does.
var neighbour = func() *Prober {
	p := New(silence)
	p.Introduce(Self{Version: "2", Hash: [32]byte{1, 2, 3}})
	return p
}()

// run lets time pass, in the steps that the prober wants.
func (s *sim) run(span time.Duration) {
	s.t.Helper()
	for end := s.now.Add(span); s.now.Before(end); {
		questions, changes := s.Work(s.now)
		for _, c := range changes {
			word := fmt.Sprintf("%s %s>%s", c.Peer, c.Old, c.New)
			switch {
			case c.Forms:
				word = c.Peer + " forms"
			case c.Paths:
				word = c.Peer + " paths"
			case c.Told != nil:
				word = fmt.Sprintf("%s says %q %x", c.Peer, c.Told.Version, c.Told.Hash[:3])
			}
			s.changes = append(s.changes, word)
		}
		for _, q := range questions {
			s.asked[q.Peer]++
			after, ok := s.answers(q)
			if !ok {
				continue
			}
			asked := bytes.Clone(q.Payload)
			b, mine := answerTo(q, s.now)
			if want := len(asked); q.Form != Large && (!mine || len(b) != want) || len(b) < PayloadSize {
				s.t.Fatalf("the answer to %d bytes is %d bytes, mine: %v", len(asked), len(b), mine)
			}
			if s.other != nil {
				b = s.other(Question{Peer: q.Peer, Payload: asked}, b)
			}
			s.flying = append(s.flying, flight{q.Peer, b, s.now.Add(after)})
		}
		if len(questions) >= Batch {
			continue
		}
		next := s.now.Add(s.Wait())
		if next.After(end) {
			next = end
		}
		s.fly(next)
	}
}

// fly has answers arrive until a time, or until one of them wakes the prober.
func (s *sim) fly(until time.Time) {
	slices.SortStableFunc(s.flying, func(a, b flight) int { return a.at.Compare(b.at) })
	for len(s.flying) > 0 && !s.flying[0].at.After(until) {
		f := s.flying[0]
		s.flying, s.now = s.flying[1:], f.at
		if _, mine := s.Answer(f.from, netip.AddrPort{}, true, f.b, f.at); !mine {
			s.t.Fatal("an answer is shown to the host")
		}
		s.heard[f.from] = f.at
		select {
		case <-s.Woken():
			return
		default:
		}
	}
	s.now = until
}

func (s *sim) expect(changes ...string) {
	s.t.Helper()
	if got, want := strings.Join(s.changes, ", "), strings.Join(changes, ", "); got != want {
		s.t.Fatalf("after %v: %s; want %s", s.now.Sub(time.Unix(1e9, 0)), got, want)
	}
	s.changes = nil
}

func (s *sim) report(peer string) Report {
	s.t.Helper()
	r, ok := s.Report(peer)
	if !ok {
		s.t.Fatalf("nothing is known of %q", peer)
	}
	return r
}

func silent(Question) (time.Duration, bool) { return 0, false }

func TestLifeOfAPeer(t *testing.T) {
	s := newSim(t, time.Second, "b")
	r := s.report("b")
	if r.State != Unknown || r.Figures.Probes != 0 || !r.Since.IsZero() {
		t.Errorf("at first: %+v", r)
	}
	answers := s.answers
	s.run(2 * time.Second)
	s.expect(`b says "2" 010203`, "b unknown>up")
	s.run(time.Minute)
	s.expect()
	r = s.report("b")
	f := r.Figures
	if f.Loss != 0 || f.P50 != 7*time.Millisecond || f.Probes < 50 || r.Sent < 60 || r.Received < 60 {
		t.Errorf("%+v", r)
	}

	s.answers = silent
	s.run(2900 * time.Millisecond)
	s.expect()
	s.run(1200 * time.Millisecond)
	s.expect("b up>stale")
	s.run(5800 * time.Millisecond)
	s.expect()
	s.run(1300 * time.Millisecond)
	s.expect("b stale>down")
	s.run(time.Minute)
	s.expect()
	if r := s.report("b"); r.Figures.Loss != 1 || r.Figures.P50 != 0 {
		t.Errorf("%+v", r)
	}

	s.answers = answers
	s.run(2200 * time.Millisecond)
	s.expect("b down>up")
}

// One that answers now and then, but never twice, is not up.
func TestOneAnswerIsNotEnough(t *testing.T) {
	s := newSim(t, time.Second, "b")
	n := 0
	s.answers = func(Question) (time.Duration, bool) { n++; return 0, n%3 == 0 }
	s.run(time.Minute)
	s.expect(`b says "2" 010203`)
}

// Packets and questions of a peer never make it up: a pod of its host, or one in its name, may send
// them. Only answers to questions of ours do.
func TestHearingIsNotEnough(t *testing.T) {
	s := newSim(t, time.Second, "b", "c")
	answers := s.answers
	hear := func(span time.Duration) {
		t.Helper()
		asks := New(silence)
		asks.Set(Settings{Peers: []string{"us"}})
		for end := s.now.Add(span); s.now.Before(end); {
			s.run(100 * time.Millisecond)
			for _, forged := range []bool{false, true} {
				q, _, forget, _ := asks.Ping("us", 0, s.now)
				forget()
				s.Answer("b", netip.AddrPort{}, forged, q.Payload, s.now) // a question, and an answer to none of ours
			}
			s.heard["b"] = s.now
		}
	}
	s.answers = silent
	hear(20 * time.Second)
	s.expect("b unknown>one-way", "c unknown>down")
	r := s.report("b")
	if r.Figures.Loss != 1 || r.Received != 0 || !r.Answered.IsZero() || s.now.Sub(r.Heard) > 2*time.Second {
		t.Errorf("%+v", r)
	}
	if r := s.report("c"); !r.Answered.IsZero() || !r.Heard.IsZero() {
		t.Errorf("never heard: %+v", r)
	}
	s.answers = answers
	s.run(3 * time.Second)
	s.expect(`b says "2" 010203`, `c says "2" 010203`, "b one-way>up", "c down>up")
	last := s.report("b").Answered
	s.answers = silent
	hear(20 * time.Second)
	s.expect("b up>one-way", "c up>stale", "c stale>down")
	if r := s.report("b"); r.Answered.Sub(last) > 2*time.Second || r.Heard.Sub(r.Answered) < 10*time.Second {
		t.Errorf("%+v, answered before %v", r, last)
	}
}

func TestNeverThere(t *testing.T) {
	s := newSim(t, time.Second, "b")
	s.answers = silent
	s.run(9 * time.Second)
	s.expect()
	s.run(3 * time.Second)
	s.expect("b unknown>down")
}

// A kernel without a meshd sends back what it got.
func TestPlainNeighbour(t *testing.T) {
	s := newSim(t, time.Second, "b")
	s.other = func(q Question, _ []byte) []byte { return q.Payload }
	s.run(time.Minute)
	s.expect("b unknown>up")
	if r := s.report("b"); r.Told != (Self{}) || r.Figures.Loss != 0 || r.Figures.P50 == 0 {
		t.Errorf("%+v", r)
	}
	s.other = nil // meshd was installed there
	s.run(2 * time.Second)
	s.expect(`b says "2" 010203`)
}

// Wrong nonces, wrong peers, late and repeated answers change nothing.
func TestForgedAnswers(t *testing.T) {
	s := newSim(t, time.Second, "b", "c")
	s.other = func(q Question, answer []byte) []byte {
		s.Answer("stranger", netip.AddrPort{}, true, answer, s.now)
		other := map[string]string{"b": "c", "c": "b"}[q.Peer]
		s.Answer(other, netip.AddrPort{}, true, answer, s.now)
		answer[16]++
		return answer
	}
	s.run(12 * time.Second)
	s.expect("b unknown>down", "c unknown>down")
	for _, name := range []string{"b", "c"} {
		if r := s.report(name); r.Received != 0 || r.Figures.Loss != 1 || r.Told != (Self{}) {
			t.Errorf("%s: %+v", name, r)
		}
	}
	s.other = nil
	s.run(3 * time.Second)
	questions, _ := s.Work(s.now)
	for len(questions) == 0 {
		s.now = s.now.Add(s.Wait())
		questions, _ = s.Work(s.now)
	}
	q := questions[0]
	b, _ := answerTo(q, s.now)
	before := s.report(q.Peer).Received
	for range 3 {
		s.Answer(q.Peer, netip.AddrPort{}, true, b, s.now)
	}
	if got := s.report(q.Peer).Received; got != before+1 {
		t.Errorf("one answer, three times, counts as %d", got-before)
	}
	if _, mine := s.Answer("b", netip.AddrPort{}, true, []byte("somebody's ping"), s.now); mine {
		t.Error("a stranger's echo is taken from the host")
	}
}

// Questions to many are spread evenly, and no more than maxRate are asked.
func TestSpread(t *testing.T) {
	var names []string
	for i := range 10000 {
		names = append(names, fmt.Sprint("n", i))
	}
	for _, test := range []struct{ peers, low, high int }{{20, 58, 62}, {1000, 58, 62}, {10000, 11, 13}} {
		s := newSim(t, time.Second, names[:test.peers]...)
		most := 0
		s.answers = func(q Question) (time.Duration, bool) { return 0, false }
		last := s.now
		for range 60 * 4 {
			before := 0
			for _, n := range s.asked {
				before += n
			}
			s.run(tick)
			after := 0
			for _, n := range s.asked {
				after += n
			}
			most = max(most, after-before)
		}
		if s.now.Sub(last) < 59*time.Second {
			t.Fatal("time stands still")
		}
		for name, n := range s.asked {
			if n < test.low || n > test.high {
				t.Errorf("%d peers: %s was asked %d times in a minute", test.peers, name, n)
				break
			}
		}
		if bound := min(maxRate, test.peers) / 4 * 3 / 2; most > max(bound, 2) {
			t.Errorf("%d peers: %d questions at once", test.peers, most)
		}
	}
}

// Who stays keeps his figures; who comes is asked first; who goes is forgotten; 0
// ends all.
func TestSet(t *testing.T) {
	s := newSim(t, time.Second, "b", "c")
	s.run(10 * time.Second)
	s.changes = nil
	sent := s.report("b").Sent
	s.Set(Settings{Peers: []string{"b", "d"}, Interval: 2 * time.Second})
	if s.report("b").Sent != sent {
		t.Error("b is somebody else")
	}
	if _, known := s.Report("c"); known {
		t.Error("c is remembered")
	}
	s.run(4 * time.Second)
	s.expect(`d says "2" 010203`, "d unknown>up")
	s.Set(Settings{Peers: []string{"b", "d"}})
	asked := s.asked["b"]
	s.run(10 * time.Second)
	s.expect()
	if s.asked["b"] != asked || s.report("b").State != Unknown {
		t.Errorf("still asked: %+v", s.report("b"))
	}
	if _, mine := s.Answer("b", netip.AddrPort{}, false, bytes.Clone(ask(s)), s.now); !mine {
		t.Error("whoever does not ask does not answer either")
	}
}

func ask(s *sim) []byte {
	q, _, forget, ok := s.Ping("b", 0, s.now)
	if !ok {
		s.t.Fatal("no such peer")
	}
	forget()
	return q.Payload
}

func TestPing(t *testing.T) {
	s := newSim(t, 0, "b")
	q, answer, forget, ok := s.Ping("b", 1000, s.now)
	if !ok || len(q.Payload) != 1000 {
		t.Fatalf("%v, %d bytes", ok, len(q.Payload))
	}
	b, _ := answerTo(q, s.now)
	s.Answer("b", netip.AddrPort{}, true, b, s.now.Add(3*time.Millisecond))
	if rtt := <-answer; rtt != 3*time.Millisecond {
		t.Errorf("%v", rtt)
	}
	forget()
	s.Answer("b", netip.AddrPort{}, true, b, s.now)
	if _, _, _, ok := s.Ping("nobody", 0, s.now); ok {
		t.Error("nobody was asked")
	}
	if r := s.report("b"); r.Figures.Probes != 0 {
		t.Errorf("a ping counts as a probe: %+v", r)
	}
}

// Whatever comes, an answer is never longer than its question, and text is fit for
// a terminal.
func FuzzAnswer(f *testing.F) {
	s := &sim{Prober: New(silence)}
	s.Introduce(Self{Version: strings.Repeat("v", 40)})
	s.Set(Settings{Peers: []string{"b"}, Interval: time.Second})
	q, _, _, _ := s.Ping("b", 0, time.Now())
	f.Add(false, q.Payload)
	f.Add(true, q.Payload)
	f.Add(true, []byte(magic))
	f.Fuzz(func(t *testing.T, isReply bool, b []byte) {
		defer budget.Of(t)()
		before := len(b)
		said, ok := parse(b)
		reply, mine := s.Answer("b", netip.AddrPort{}, isReply, b, time.Now())
		if mine != ok || len(reply) > before || isReply && reply != nil {
			t.Errorf("%d bytes are answered with %d; mine: %v", before, len(reply), mine)
		}
		unfit := func(r rune) bool { return r < '!' || r > '~' }
		if strings.ContainsFunc(said.Version, unfit) || len(said.Version) > versionSize {
			t.Errorf("version %q", said.Version)
		}
		if reply != nil {
			again, ok := parse(reply)
			if !ok || !again.answer || again.nonce != said.nonce || again.Version != strings.Repeat("v", versionSize) {
				t.Errorf("%+v", again)
			}
		}
	})
}

// An answer to no question, of which nothing is right but the layout, does not make a peer one that answers
// late: its questions arrive, and it does not answer.
func TestForgedAnswerIsNotLate(t *testing.T) {
	s := newSim(t, time.Second, "b")
	s.answers = func(Question) (time.Duration, bool) { return 0, false }
	forged, question := make([]byte, PayloadSize), make([]byte, PayloadSize)
	payload{answer: true}.write(forged)
	payload{nonce: 1}.write(question)
	for range 20 {
		s.run(time.Second)
		s.Answer("b", netip.AddrPort{}, true, bytes.Clone(forged), s.now)
		s.Answer("b", netip.AddrPort{}, false, bytes.Clone(question), s.now)
	}
	if got := s.report("b").State; got != OneWay {
		t.Errorf("%s", got)
	}
}

// While the link to a peer is full on purpose, probes that stay without an answer are no loss, as long as
// packets of the peer arrive. Without any, a failure is found as fast as ever.
func TestLoaded(t *testing.T) {
	s := newSim(t, time.Second, "b")
	s.run(20 * time.Second)
	s.Loaded("nobody", s.now.Add(time.Hour))
	data := func(Question) (time.Duration, bool) { s.heard["b"] = s.now.Add(Timeout / 2); return 0, false }
	s.Loaded("b", s.now.Add(20*time.Second))
	s.answers = data
	s.run(20 * time.Second)
	if r, _ := s.Report("b"); r.State != Up || r.Figures.Loss != 0 || r.Recent.Lost != 0 {
		t.Errorf("under load: %+v", r)
	}
	s.Loaded("b", s.now.Add(time.Minute))
	s.answers = func(Question) (time.Duration, bool) { return 0, false }
	s.run(20 * time.Second)
	if r, _ := s.Report("b"); r.State != Down || r.Recent.Lost == 0 {
		t.Errorf("a failure under load: %+v", r)
	}
	s.answers = data
	s.Loaded("b", s.now)
	s.run(20 * time.Second)
	if r, _ := s.Report("b"); r.State != Silent {
		t.Errorf("afterwards: %+v", r)
	}
}
