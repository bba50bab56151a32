package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/mesh"
)

// fileWatch tells when the file may have changed.
type fileWatch struct {
	log     *slog.Logger
	path    string
	changed func()
	failure atomic.Pointer[mesh.Condition] // why the file cannot be watched; nil if it is
}

// watchAgain is how long to wait after the kernel refused to watch the file, which is read instead.
const watchAgain = 2 * time.Second

func (w *fileWatch) String() string { return "file watch" }

// Run implements task. Where inotify has no room for us, the file is looked at every watchAgain.
func (w *fileWatch) Run(ctx context.Context) error {
	for {
		err := config.Watch(ctx, w.path, func() {
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

func (w *fileWatch) note(err error) {
	c := &mesh.Condition{Kind: mesh.FileUnwatched, Severity: mesh.Degraded, Cause: fmt.Sprint(err),
		Remedy: "`sysctl fs.inotify.max_user_instances=1024` may help"}
	if before := w.failure.Swap(c); before == nil || *before != *c {
		w.log.Warn("the file cannot be watched: reading it from time to time",
			"every", watchAgain, "error", err, "event", "watch_failed")
	}
}

// conditions tells why the file is not watched.
func (w *fileWatch) conditions() []mesh.Condition {
	if c := w.failure.Load(); c != nil {
		return []mesh.Condition{*c}
	}
	return nil
}

// hostWatches tell when this host may have changed.
func hostWatches(e engine, changed func()) []task {
	return []task{
		taskFunc{"kernel watch", func(ctx context.Context) error {
			return link.Watch(ctx, func() bool {
				e.Look() // most captures make the interface promiscuous, which is news
				changed()
				return true
			})
		}},
		taskFunc{"rules watch", func(ctx context.Context) error { return link.WatchRules(ctx, changed) }},
		taskFunc{"IPsec watch", func(ctx context.Context) error { return link.WatchPolicies(ctx, changed) }},
		taskFunc{"forwarding watch", func(ctx context.Context) error { return link.WatchForwarding(ctx, changed) }},
		taskFunc{"queues watch", func(ctx context.Context) error { return link.WatchQueues(ctx, e.Look) }},
		taskFunc{"TUN's neighbours", func(ctx context.Context) error {
			return everySecond(ctx, func(time.Time) { e.Look() })
		}},
	}
}

// everySecond calls f until ctx ends.
func everySecond(ctx context.Context, f func(now time.Time)) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		f(time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
