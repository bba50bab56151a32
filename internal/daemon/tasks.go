package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"golang.org/x/sync/errgroup"

	"example.org/meshd/internal/dataplane"
)

// A task is one long-lived piece of the daemon.
type task interface {
	// Run blocks; it returns nil when ctx ends.
	Run(ctx context.Context) error
	fmt.Stringer
}

// taskFunc is a task of one function.
type taskFunc struct {
	name string
	run  func(ctx context.Context) error
}

func (t taskFunc) String() string                { return t.name }
func (t taskFunc) Run(ctx context.Context) error { return t.run(ctx) }

// runAll runs the tasks until ctx ends or one of them fails, which ends all.
func runAll(ctx context.Context, log *slog.Logger, tasks ...task) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, t := range tasks {
		group.Go(func() error {
			if err := t.Run(ctx); err != nil {
				return fmt.Errorf("%s: %w", t, err)
			}
			log.Debug("task ended", "task", t.String())
			return nil
		})
	}
	return group.Wait()
}

// loops runs the packet loops of an engine, which come and go with reloads. A loop ends by itself
// when its queue closes; why it failed is the engine's to know.
type loops struct {
	ctx   context.Context
	group sync.WaitGroup
}

func (l *loops) start(one dataplane.Loop) {
	l.group.Go(func() { _ = one.Run(l.ctx) }) // the engine has heard of an error
}
