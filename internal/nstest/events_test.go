package nstest

import (
	"log/slog"
	"slices"
	"testing"
)

func TestEvents(t *testing.T) {
	var e Events
	log := slog.New(&e).With("event", "of all lines").WithGroup("g")
	log.Info("an event", "peer", "a", "event", "peer_up")
	log.Info("no event")
	log.Warn("a warning that is no event")
	e.Add("added")
	if got, want := e.Take(), []string{"peer_up", "WARN", "added"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := e.Take(); len(got) != 0 {
		t.Errorf("taken twice: %q", got)
	}
}
