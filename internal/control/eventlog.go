package control

import (
	"context"
	"log/slog"
	"slices"
	"strings"
)

// EventLog is a log handler whose lines are events, too, so that nothing is told to one and
// not to the other. Two attributes have a meaning of their own: "event" is what kind
// of event it is, "peer" whom it is about.
type EventLog struct {
	slog.Handler
	events *Events
	attrs  []slog.Attr
}

// NewEventLog returns a handler that passes records on to log, and makes events of them.
func NewEventLog(log slog.Handler, events *Events) *EventLog {
	return &EventLog{Handler: log, events: events}
}

// Handle implements slog.Handler.
func (l *EventLog) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelInfo {
		l.events.Add(l.event(r))
	}
	if !l.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return l.Handler.Handle(ctx, r)
}

// Enabled implements slog.Handler: an event is one whatever the log is for.
func (l *EventLog) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo || l.Handler.Enabled(ctx, level)
}

// WithAttrs implements slog.Handler.
func (l *EventLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &EventLog{l.Handler.WithAttrs(attrs), l.events, slices.Concat(l.attrs, attrs)}
}

// WithGroup implements slog.Handler; events have no groups.
func (l *EventLog) WithGroup(name string) slog.Handler {
	return &EventLog{l.Handler.WithGroup(name), l.events, l.attrs}
}

func (l *EventLog) event(r slog.Record) Event {
	e := Event{At: r.Time.UTC(), Level: strings.ToLower(r.Level.String()), Kind: "log", Message: r.Message}
	add := func(a slog.Attr) bool {
		value := a.Value.Resolve().String()
		switch a.Key {
		case "event":
			e.Kind = value
		case "peer":
			e.Peer = value
		default:
			if e.Fields == nil {
				e.Fields = map[string]string{}
			}
			e.Fields[a.Key] = value
		}
		return true
	}
	for _, a := range l.attrs {
		add(a)
	}
	r.Attrs(add)
	return e
}
