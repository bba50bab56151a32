package daemon

import (
	"context"
	"time"

	"example.org/meshd/internal/link"
	"example.org/meshd/internal/task"
)

// hostWatches tell when this host may have changed.
func hostWatches(e engine, changed func()) []task.Task {
	return []task.Task{
		task.New("kernel watch", func(ctx context.Context) error {
			return link.Watch(ctx, func() bool {
				e.Look() // most captures make the interface promiscuous, which is news
				changed()
				return true
			})
		}),
		task.New("rules watch", func(ctx context.Context) error { return link.WatchRules(ctx, changed) }),
		task.New("IPsec watch", func(ctx context.Context) error { return link.WatchPolicies(ctx, changed) }),
		task.New("forwarding watch", func(ctx context.Context) error { return link.WatchForwarding(ctx, changed) }),
		task.New("queues watch", func(ctx context.Context) error { return link.WatchQueues(ctx, e.Look) }),
		task.EverySecond("TUN's neighbours", func(time.Time) { e.Look() }),
	}
}
