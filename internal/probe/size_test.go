package probe

import (
	"math/rand/v2"
	"testing"
	"time"
)

// path carries payloads of up to a number of bytes, from now on. It loses a share of all questions, too.
func (s *sim) path(carries int, loses float64) {
	s.answers = func(q Question) (time.Duration, bool) {
		return 3 * time.Millisecond, len(q.Payload) <= carries && rand.Float64() >= loses
	}
}

func (s *sim) size() Size { return s.report("b").Size }

// until lets time pass until the size in use is one, and returns how long that took.
func (s *sim) until(size int, most time.Duration) (took time.Duration) {
	s.t.Helper()
	for began := s.now; s.size().InUse != size || !s.size().Proven; s.run(50 * time.Millisecond) {
		if took = s.now.Sub(began); took > most {
			s.t.Fatalf("%+v after %s, want %d", s.size(), took, size)
		}
	}
	return took
}

// Whatever a path carries is found to the byte: within 10 seconds when it becomes less, within half a
// minute when it becomes more. Few questions are asked for it.
func TestSizeOfAPath(t *testing.T) {
	for range 300 {
		least, most := limits.Sizes.Least, limits.Sizes.Most
		carries := least + rand.IntN(most-least)
		s := newFormSim(t, time.Second, "b")
		s.path(most, 0)
		s.until(most, 10*time.Second)
		s.run(time.Duration(rand.IntN(10_000)) * time.Millisecond)
		before := s.form(Large).Sent
		s.path(carries, 0)
		s.until(carries, 10*time.Second)
		if asked := s.form(Large).Sent - before; asked > 40 {
			t.Errorf("%d questions to find %d", asked, carries)
		}
		s.path(most, 0)
		s.until(most, 30*time.Second)
	}
}

// Inside a tunnel a host without meshd returns one question a second: its size is not asked about, and what
// the interface carries is taken for it. Once its meshd answers, it is measured.
func TestSizeOfABareHost(t *testing.T) {
	s := newFormSim(t, time.Second, "b")
	inside := limits
	inside.Sizes.Meshd = true
	s.Set(Settings{Peers: []string{"b"}, Interval: time.Second, Bounds: []Bounds{inside}})
	s.other = func(q Question, _ []byte) []byte { return q.Payload }
	s.path(1000, 0)
	s.run(time.Minute)
	if got := s.size(); s.form(Large).Sent > 0 || got.InUse != got.Most {
		t.Errorf("%d questions, %+v", s.form(Large).Sent, got)
	}
	s.other = nil
	s.until(1000, 30*time.Second)
}

// What has not been asked about before is found, too: a path that was narrow from the beginning, and one
// that widens by a little.
func TestSizeGrowsByALittle(t *testing.T) {
	s := newFormSim(t, time.Second, "b")
	s.path(1252, 0)
	s.until(1252, 20*time.Second)
	for _, carries := range []int{1253, 1254, 1300, 1443, 1444} {
		s.path(carries, 0)
		s.until(carries, 30*time.Second)
	}
	if got := s.form(Large); got.Fails {
		t.Errorf("%+v", got)
	}
}

// Datagrams that are lost by chance do not change what is known, or not for long.
func TestSizeOnALossyPath(t *testing.T) {
	s := newFormSim(t, time.Second, "b")
	s.path(1444, 0)
	s.run(10 * time.Second)
	s.path(1444, 0.05)
	wrong := 0
	for range 3600 {
		s.run(time.Second)
		if s.size().InUse != 1444 {
			wrong++
		}
	}
	if wrong > 120 {
		t.Errorf("not the size for %d seconds of an hour", wrong)
	}
}

// A path that loses all but plain probes has no size; it is said, and ends with the fault.
func TestNoSizePasses(t *testing.T) {
	s := newFormSim(t, time.Second, "b")
	s.path(1444, 0)
	s.run(10 * time.Second)
	s.path(PayloadSize, 0)
	s.run(15 * time.Second)
	if got := s.size(); !got.Nothing || got.InUse != 1444 {
		t.Errorf("%+v", got)
	}
	s.path(1000, 0)
	s.until(1000, 15*time.Second)
	if s.size().Nothing {
		t.Error("something passes")
	}
}

// Somebody says that the path carries less: it is asked about at once, and nothing changes.
func TestLook(t *testing.T) {
	s := newFormSim(t, time.Second, "b")
	s.path(1444, 0)
	s.run(10 * time.Second)
	before := s.form(Large).Sent
	for range 10 {
		s.Look("b")
		s.run(time.Second)
	}
	if asked := s.form(Large).Sent - before; asked < 9 || asked > 14 {
		t.Errorf("%d questions", asked)
	}
	if got := s.size(); got.InUse != 1444 || !got.Proven {
		t.Errorf("%+v", got)
	}
	s.Look("nobody")
}

// While the peer does not answer at all, its size is left alone; it is looked at when it comes back.
func TestSizeOfADeadPeer(t *testing.T) {
	s := newFormSim(t, time.Second, "b")
	s.path(1300, 0)
	s.until(1300, 20*time.Second)
	s.path(0, 0)
	s.run(time.Minute)
	if got := s.size(); got.InUse != 1300 || got.Nothing {
		t.Errorf("%+v", got)
	}
	s.path(1400, 0)
	s.until(1400, 10*time.Second)
}

// Other bounds keep what was found as far as it lies within them.
func TestOtherBounds(t *testing.T) {
	s := newFormSim(t, time.Second, "b")
	s.path(1300, 0)
	s.until(1300, 20*time.Second)
	set := func(most int) {
		s.Set(Settings{Peers: []string{"b"}, Interval: time.Second,
			Bounds: []Bounds{{Sizes: Sizes{Least: 548, Most: most}}}})
	}
	for _, step := range []struct{ most, now, later int }{
		{8900, 1300, 1300}, {1200, 1200, 1200}, {1444, 1444, 1300}, {0, 0, 0}, {1444, 1444, 1300},
	} {
		set(step.most)
		if got := s.size(); got.InUse != step.now || got.Most != step.most {
			t.Errorf("most %d: %+v at first", step.most, got)
		}
		s.run(15 * time.Second)
		if got := s.size(); got.InUse != step.later || got.Proven != (step.most > 0) {
			t.Errorf("most %d: %+v", step.most, got)
		}
	}
}
