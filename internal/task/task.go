// Package task runs the long-lived pieces of a program side by side: all of them, until they are to end or
// one of them fails.
package task

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"
)

// A Task is one long-lived piece of a program. Its name is for errors and the log.
type Task interface {
	// Run blocks until ctx ends, and then returns nil. An earlier end with nil ends nothing else; one with
	// an error ends all.
	Run(ctx context.Context) error
	fmt.Stringer
}

// New returns a task of one function.
func New(name string, run func(ctx context.Context) error) Task { return one{name, run} }

type one struct {
	name string
	run  func(ctx context.Context) error
}

func (o one) String() string                { return o.name }
func (o one) Run(ctx context.Context) error { return o.run(ctx) }

// RunAll runs tasks, each in a goroutine, until ctx ends or one of them fails, which ends all. It returns
// once all have ended, with the first error.
func RunAll(ctx context.Context, log *slog.Logger, tasks ...Task) error {
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

// EverySecond is a task that calls f at once and then every second. A call that takes longer delays the
// next one.
func EverySecond(name string, f func(now time.Time)) Task {
	return New(name, func(ctx context.Context) error {
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
	})
}
