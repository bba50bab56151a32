package control

import (
	"bytes"
	"errors"
	"log/slog"
	"maps"
	"strings"
	"testing"
)

// A line of the log is an event with the same content, whatever the log's own level is.
func TestEventLog(t *testing.T) {
	for name, test := range map[string]struct {
		say    func(*slog.Logger)
		want   Event
		logged bool
	}{
		"a warning": {
			func(l *slog.Logger) { l.Warn("m", "event", "http", "error", errors.New("x")) },
			Event{Level: "warn", Kind: "http", Message: "m", Fields: map[string]string{"error": "x"}}, true,
		},
		"of a peer": {
			func(l *slog.Logger) { l.Error("m", "peer", "a", "event", "peer_down") },
			Event{Level: "error", Kind: "peer_down", Peer: "a", Message: "m"}, true,
		},
		"without a kind": {
			func(l *slog.Logger) { l.Warn("m") },
			Event{Level: "warn", Kind: "log", Message: "m"}, true,
		},
		"below the log's level": {
			func(l *slog.Logger) { l.Info("m", "event", "reloaded", "generation", 2) },
			Event{Level: "info", Kind: "reloaded", Message: "m", Fields: map[string]string{"generation": "2"}}, false,
		},
		"attributes of the logger": {
			func(l *slog.Logger) { l.With("server", "s", "peer", "a").WithGroup("g").Warn("m", "peer", "b") },
			Event{Level: "warn", Kind: "log", Peer: "b", Message: "m", Fields: map[string]string{"server": "s"}}, true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			events := NewEvents()
			var log bytes.Buffer
			handler := slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn})
			test.say(slog.New(NewEventLog(handler, events)))
			all, _ := events.Since(0)
			if len(all) != 1 {
				t.Fatalf("%d events", len(all))
			}
			e := all[0]
			if e.Level != test.want.Level || e.Kind != test.want.Kind || e.Peer != test.want.Peer ||
				e.Message != "m" ||
				!maps.Equal(e.Fields, test.want.Fields) || e.At.IsZero() || e.Seq != 1 {
				t.Errorf("%+v, want %+v", e, test.want)
			}
			if lines := strings.Count(log.String(), "\n"); lines != map[bool]int{true: 1}[test.logged] {
				t.Errorf("%d lines in the log", lines)
			}
		})
	}
	events := NewEvents()
	slog.New(NewEventLog(slog.DiscardHandler, events)).Debug("noise")
	if events.Last() != 0 {
		t.Error("a debug line became an event")
	}
}
