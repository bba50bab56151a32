package config

import (
	"context"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
)

// A file that cannot be watched is a condition until it can, and is looked at meanwhile.
func TestWatcherConditions(t *testing.T) {
	log := &nstest.Events{}
	w := NewWatcher(slog.New(log), filepath.Join(t.TempDir(), "mesh.toml"), nil)
	if got := w.Conditions(); got != nil {
		t.Errorf("%+v", got)
	}
	for _, err := range []error{unix.EMFILE, unix.EMFILE, unix.ENOSPC} {
		w.note(err)
		got := w.Conditions()
		if len(got) != 1 || got[0].Kind != mesh.FileUnwatched || got[0].Cause != err.Error() ||
			got[0].Remedy == "" {
			t.Errorf("%+v", got)
		}
	}
	if got := log.Take(); !slices.Equal(got, []string{"watch_failed", "watch_failed"}) {
		t.Errorf("logged %q: each cause is said once", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w.changed = cancel
	if err := w.Run(ctx); err != nil { // it is told once at the start, which is the end here
		t.Error(err)
	}
	if got := w.Conditions(); got != nil {
		t.Errorf("it is watched, but %+v", got)
	}
}
