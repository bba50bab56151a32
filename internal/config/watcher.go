package config

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"example.org/meshd/internal/mesh"
)

// A Watcher tells when the file may have changed, also where the kernel refuses to watch it.
type Watcher struct {
	log     *slog.Logger
	path    string
	changed func()
	failure atomic.Pointer[mesh.Condition] // why the file cannot be watched; nil if it is
}

// NewWatcher returns a Watcher of the file at a path, which does nothing before Run.
func NewWatcher(log *slog.Logger, path string, changed func()) *Watcher {
	return &Watcher{log: log, path: path, changed: changed}
}

// watchAgain is how long to wait after the kernel refused to watch the file, which is read instead.
const watchAgain = 2 * time.Second

// String implements fmt.Stringer.
func (w *Watcher) String() string { return "file watch" }

// Run calls changed as Watch does, until ctx ends. Where inotify has no room for us, it calls changed every
// watchAgain.
func (w *Watcher) Run(ctx context.Context) error {
	for {
		err := Watch(ctx, w.path, func() {
			w.failure.Store(nil)
			w.changed()
		})
		if ctx.Err() != nil {
			return nil
		}
		w.note(err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchAgain):
			w.changed()
		}
	}
}

func (w *Watcher) note(err error) {
	c := &mesh.Condition{Kind: mesh.FileUnwatched, Severity: mesh.Degraded, Cause: fmt.Sprint(err),
		Remedy: "`sysctl fs.inotify.max_user_instances=1024` may help"}
	if before := w.failure.Swap(c); before == nil || *before != *c {
		w.log.Warn("the file cannot be watched: reading it from time to time",
			"every", watchAgain, "error", err, "event", "watch_failed")
	}
}

// Conditions tells why the file is not watched. It may be called from any goroutine.
func (w *Watcher) Conditions() []mesh.Condition {
	if c := w.failure.Load(); c != nil {
		return []mesh.Condition{*c}
	}
	return nil
}
