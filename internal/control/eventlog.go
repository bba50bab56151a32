package control

import (
	"context"
	"log/slog"
	"slices"
	"strings"
)

// EventLog is a log handler whose lines are events, too, so that log and events cannot disagree. Two
// attributes have a meaning of their own: "event" is the event's kind, "peer" the peer that it is
// about. It may be used by many goroutines at once, if the log may.
type EventLog struct {
	slog.Handler
	events *Events
	attrs  []slog.Attr
}

// NewEventLog returns a handler that passes records on to log and adds them to events.
func NewEventLog(log slog.Handler, events *Events) *EventLog {
	return &EventLog{Handler: log, events: events}
}

// Handle implements slog.Handler. The event comes first: a log that is stuck withholds none.
func (l *EventLog) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelInfo {
		l.events.Add(l.event(r))
	}
	if !l.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return l.Handler.Handle(ctx, r)
}

// Enabled implements slog.Handler. Events do not depend on --log-level, which is for the log.
func (l *EventLog) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo || l.Handler.Enabled(ctx, level)
}

// WithAttrs implements slog.Handler.
func (l *EventLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &EventLog{l.Handler.WithAttrs(attrs), l.events, slices.Concat(l.attrs, attrs)}
}

// WithGroup implements slog.Handler. Events have no groups: their fields are flat.
func (l *EventLog) WithGroup(name string) slog.Handler {
	return &EventLog{l.Handler.WithGroup(name), l.events, l.attrs}
}

// event makes an event of a record. The record's own attributes win over those of the logger.
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
