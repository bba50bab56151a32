package rules

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.org/meshd/internal/filter"
	"example.org/meshd/internal/mesh"
)

// events is a log that remembers the attribute "event" of each line, and tells its owner of it.
type events struct {
	mu   sync.Mutex
	seen []slog.Record
	hear func(slog.Record) // called by whoever logs; may be nil
}

func (e *events) Enabled(context.Context, slog.Level) bool { return true }
func (e *events) WithAttrs([]slog.Attr) slog.Handler       { return e }
func (e *events) WithGroup(string) slog.Handler            { return e }

func (e *events) Handle(_ context.Context, r slog.Record) error {
	e.mu.Lock()
	e.seen = append(e.seen, r)
	e.mu.Unlock()
	if e.hear != nil {
		e.hear(r)
	}
	return nil
}

// attribute returns one of a line; empty if it has none of the name.
func attribute(r slog.Record, name string) (value string) {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == name {
			value = a.Value.String()
		}
		return true
	})
	return value
}

// take returns the kinds of events since the last call.
func (e *events) take() (kinds []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range e.seen {
		kinds = append(kinds, attribute(r, "event"))
	}
	e.seen = nil
	return kinds
}

// A call is one run of the program.
type call struct {
	at     time.Duration // since the start
	accept *filter.Accept
}

// program plays iptables-legacy. A run waits until release lets it end.
type program struct {
	*Legacy
	log    *events
	began  time.Time
	answer atomic.Pointer[func() (string, error)]

	mu    sync.Mutex
	calls []call
}

func newProgram() *program {
	p := &program{log: &events{}, began: time.Now()}
	p.Legacy = NewLegacy(slog.New(p.log))
	p.answers("", nil)
	p.set = func(a *filter.Accept) (string, error) {
		p.mu.Lock()
		p.calls = append(p.calls, call{time.Since(p.began), a})
		p.mu.Unlock()
		return (*p.answer.Load())()
	}
	return p
}

// answers sets what the program says from now on.
func (p *program) answers(advice string, err error) {
	p.does(func() (string, error) { return advice, err })
}

func (p *program) does(f func() (string, error)) { p.answer.Store(&f) }

// took compares the runs since the last call.
func (p *program) took(t *testing.T, when string, want ...call) {
	t.Helper()
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !reflect.DeepEqual(p.calls, want) {
		t.Errorf("%s: %+v, want %+v", when, p.calls, want)
	}
	p.calls = nil
}

// has compares what is told of the rules.
func (p *program) has(t *testing.T, when string, want ...mesh.Kind) {
	t.Helper()
	synctest.Wait()
	var got []mesh.Kind
	for _, c := range p.Conditions() {
		got = append(got, c.Kind)
		if c.Cause == "" || c.Subject == "" {
			t.Errorf("%s: %+v does not say what of, and why", when, c)
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: %v, want %v", when, got, want)
	}
}

// running runs a test with a Legacy in a bubble, and ends both.
func running(t *testing.T, test func(t *testing.T, p *program)) {
	synctest.Test(t, func(t *testing.T) {
		p := newProgram()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		test(t, p)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// rule is a wish that is not equal to another one.
func rule(name string) *filter.Accept { return &filter.Accept{Interfaces: []string{name}} }

// The program runs for each new wish, and for one that is asked for again.
func TestLegacyRunsForWishes(t *testing.T) {
	running(t, func(t *testing.T, p *program) {
		p.took(t, "at the start")
		p.Set(nil, false) // rules of an earlier run have to go
		p.took(t, "no rules", call{0, nil})
		p.Set(nil, false)
		p.took(t, "the same")
		p.Set(rule("a"), false)
		p.took(t, "a rule", call{0, rule("a")})
		p.Set(rule("a"), false)
		p.took(t, "an equal rule")
		p.Set(rule("a"), true)
		p.took(t, "an equal rule, but the file was read again", call{0, rule("a")})
		p.Set(nil, false)
		p.took(t, "no rules any more", call{0, nil})
		p.has(t, "all is well")
		time.Sleep(time.Hour)
		p.took(t, "no timer runs while all is well")
	})
}

// Nothing waits for the program. While it runs, the last wish takes the place of those before.
func TestLegacyNeverWaits(t *testing.T) {
	running(t, func(t *testing.T, p *program) {
		end := make(chan struct{})
		p.does(func() (string, error) { <-end; return "", nil })
		p.Set(rule("a"), false)
		p.took(t, "it runs", call{0, rule("a")})
		for _, name := range []string{"b", "c", "d"} {
			p.Set(rule(name), false) // a bubble in which this waits fails
		}
		p.took(t, "it still runs")
		close(end)
		p.took(t, "the last wish", call{0, rule("d")})
	})
}

// Nor does anything wait before the task runs.
func TestLegacyNeverWaitsForItsTask(t *testing.T) {
	p := newProgram()
	for range 100 {
		p.Set(rule("a"), true)
	}
	p.Set(rule("b"), false)
	if got := <-p.asked; !reflect.DeepEqual(got.accept, rule("b")) || len(p.asked) != 0 {
		t.Errorf("%+v, and %d more", got.accept, len(p.asked))
	}
}

// What fails is tried again, after longer and longer pauses, and told once.
func TestLegacyTriesAgain(t *testing.T) {
	running(t, func(t *testing.T, p *program) {
		const s = time.Second
		p.answers("", errors.New("locked"))
		p.Set(rule("a"), false)
		time.Sleep(7*s + s/2)
		a := rule("a")
		p.took(t, "it fails", call{0, a}, call{1 * s, a}, call{3 * s, a}, call{7 * s, a})
		p.has(t, "it fails", mesh.RulesFailed)
		if got := p.log.take(); !reflect.DeepEqual(got, []string{"rules_failed"}) {
			t.Errorf("logged %q", got)
		}
		p.answers("", nil)
		time.Sleep(8 * s)
		p.took(t, "it works", call{15 * s, rule("a")})
		p.has(t, "it works")
		time.Sleep(time.Hour)
		p.took(t, "nothing is left to do")

		// The next failure is a new one.
		p.answers("", errors.New("locked"))
		p.Set(rule("b"), false)
		at := time.Since(p.began)
		time.Sleep(s + s/2)
		p.took(t, "it fails again", call{at, rule("b")}, call{at + s, rule("b")})
		if got := p.log.take(); !reflect.DeepEqual(got, []string{"rules_failed"}) {
			t.Errorf("logged %q", got)
		}
	})
}

// A new wish does not wait for the time of the next attempt, and takes the old one's place.
func TestLegacyWishWhileItFails(t *testing.T) {
	running(t, func(t *testing.T, p *program) {
		p.answers("", errors.New("locked"))
		p.Set(rule("a"), false)
		p.took(t, "it fails", call{0, rule("a")})
		p.answers("", nil)
		p.Set(nil, false)
		p.took(t, "another wish", call{0, nil})
		p.has(t, "it works")
		time.Sleep(time.Hour)
		p.took(t, "the old wish is not tried again")
	})
}

// What the program cannot do is a piece of advice, which is no failure.
func TestLegacyAdvice(t *testing.T) {
	running(t, func(t *testing.T, p *program) {
		p.answers("run it as root", nil)
		p.Set(rule("a"), false)
		p.has(t, "an advice", mesh.LegacyRules)
		time.Sleep(time.Hour)
		p.took(t, "an advice is not tried again", call{0, rule("a")})
		p.answers("", nil)
		p.Set(rule("a"), true)
		p.has(t, "it was followed")
	})
}

// A child that hangs does not keep the daemon from ending.
func TestLegacyEndsWhileItsProgramHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProgram()
		end := make(chan struct{})
		p.does(func() (string, error) { <-end; return "", nil })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		p.Set(rule("a"), false)
		p.took(t, "it runs", call{0, rule("a")})
		cancel()
		if err := <-done; err != nil { // a bubble in which this waits fails
			t.Error(err)
		}
		close(end)
	})
}
