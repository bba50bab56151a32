package nstest

import (
	"context"
	"log/slog"
	"sync"
)

// Events is a log (slog.Handler) that remembers the attribute "event" of each line, for tests of
// rooms that log in this process. Any number of goroutines may log at the same time.
type Events struct {
	mu   sync.Mutex
	seen []string
}

// Enabled is true for all levels: a test decides by kinds which lines matter.
func (e *Events) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs forgets the attributes: an event's kind is said by the line itself.
func (e *Events) WithAttrs([]slog.Attr) slog.Handler { return e }

// WithGroup forgets the group, for the same reason.
func (e *Events) WithGroup(string) slog.Handler { return e }

// Handle remembers the kind of a line. Warnings and errors without a kind are remembered by their
// level, so that a test of all that was logged does not pass beside one.
func (e *Events) Handle(_ context.Context, r slog.Record) error {
	kind := ""
	if r.Level >= slog.LevelWarn {
		kind = r.Level.String()
	}
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "event" {
			kind = a.Value.String()
		}
		return true
	})
	if kind != "" {
		e.Add(kind)
	}
	return nil
}

// Add puts a kind behind those that were logged, for fakes that tell what was asked of them.
func (e *Events) Add(kind string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen = append(e.seen, kind)
}

// Take returns the kinds since the last call, the oldest first.
func (e *Events) Take() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	seen := e.seen
	e.seen = nil
	return seen
}
