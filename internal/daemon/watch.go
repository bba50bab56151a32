package daemon

import (
	"context"
	"time"

	"example.org/meshd/internal/link"
)

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
