package rules

import (
	"context"
	"log/slog"
	"reflect"
	"sync/atomic"
	"time"

	"example.org/meshd/internal/backoff"
	"example.org/meshd/internal/filter"
	"example.org/meshd/internal/mesh"
)

// Legacy keeps the accept rules in iptables-legacy, which is a program of its own, with a lock
// of its own that others may hold for long: so nothing waits for it. The kernel has no news of those
// tables; they are looked at when a file is read.
type Legacy struct {
	log    *slog.Logger
	set    func(*filter.Accept) (advice string, err error) // runs the program, for seconds at times
	asked  chan wish
	wanted *filter.Accept // of the goroutine that calls Set
	known  bool           // Set was called
	notes  atomic.Pointer[[]mesh.Condition]
}

// A wish is rules to keep.
type wish struct {
	accept *filter.Accept // nil: no rules
	tried  chan struct{}  // closed once the program was run for it, or it is not wanted any more
}

// NewLegacy returns a Legacy that has not looked at the tables.
func NewLegacy(log *slog.Logger) *Legacy {
	t := &Legacy{log: log, set: setLegacy, asked: make(chan wish, 1)}
	t.notes.Store(&[]mesh.Condition{})
	return t
}

// String implements fmt.Stringer.
func (t *Legacy) String() string { return "iptables-legacy" }

// Set says which rules to keep; always looks also where they are wanted already. It belongs to one
// goroutine, and never waits. Tried is closed once the program was run; it is nil where the rules are
// wanted already, so that there is nothing to wait for.
func (t *Legacy) Set(a *filter.Accept, always bool) (tried <-chan struct{}) {
	same := t.known && reflect.DeepEqual(t.wanted, a)
	if same && !always {
		return nil
	}
	t.known, t.wanted = true, a
	select {
	case w := <-t.asked: // not wanted any more
		close(w.tried)
	default:
	}
	w := wish{a, make(chan struct{})}
	t.asked <- w
	if same {
		return nil
	}
	return w.tried
}

// Run works until ctx ends. A child process that hangs, for want of the lock say, does not keep the daemon
// from ending: it times out by itself.
func (t *Legacy) Run(ctx context.Context) error {
	var accept *filter.Accept
	var tried chan struct{} // nil: no caller waits
	var retry <-chan time.Time
	var pause backoff.Backoff
	done := make(chan error, 1)
	for {
		select {
		case <-ctx.Done():
			return nil
		case w := <-t.asked:
			accept, tried = w.accept, w.tried
		case <-retry:
		}
		go func() { done <- t.bring(accept) }()
		select {
		case <-ctx.Done():
			return nil
		case err := <-done:
			retry = nil
			if tried != nil {
				close(tried)
				tried = nil
			}
			if err == nil {
				pause.Reset()
				continue
			}
			retry = time.After(pause.Next())
		}
	}
}

// setLegacy has the program set rules, or remove them. The advice, if not empty, is for people.
func setLegacy(a *filter.Accept) (advice string, err error) {
	if a == nil {
		_, err = filter.CleanUpLegacy()
		return "", err
	}
	return filter.SetLegacy(*a)
}

// bring brings the tables to what is wanted, and publishes how that went.
func (t *Legacy) bring(a *filter.Accept) error {
	var notes []mesh.Condition
	advice, err := t.set(a)
	if advice != "" {
		notes = append(notes, mesh.Condition{
			Kind: mesh.LegacyRules, Severity: mesh.Degraded, Subject: "iptables-legacy", Cause: advice})
	}
	if err != nil {
		notes = append(notes, mesh.Condition{
			Kind: mesh.RulesFailed, Severity: mesh.Failed, Subject: "iptables-legacy", Cause: err.Error()})
		if len(*t.notes.Load()) == 0 {
			t.log.Error("rules of iptables-legacy are not in force: trying again",
				"error", err, "event", "rules_failed")
		}
	}
	t.notes.Store(&notes)
	return err
}

// Conditions tells what is wrong with the rules.
func (t *Legacy) Conditions() []mesh.Condition { return *t.notes.Load() }
