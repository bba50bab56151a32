package task_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"example.org/meshd/internal/task"
)

// One task that fails ends all, with its name.
func TestRunAll(t *testing.T) {
	refused := errors.New("refused")
	waits := task.New("waits", func(ctx context.Context) error { <-ctx.Done(); return nil })
	fails := task.New("fails", func(context.Context) error { return refused })
	log := slog.New(slog.DiscardHandler)
	if err := task.RunAll(t.Context(), log, waits, fails, waits); !errors.Is(err, refused) ||
		err.Error() != "fails: refused" {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := task.RunAll(ctx, log, waits, waits); err != nil {
		t.Error(err)
	}
}

func TestEverySecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3500*time.Millisecond)
		defer cancel()
		began, calls := time.Now(), []time.Duration{}
		err := task.EverySecond("calls", func(now time.Time) { calls = append(calls, now.Sub(began)) }).Run(ctx)
		if want := []time.Duration{0, time.Second, 2 * time.Second, 3 * time.Second}; err != nil ||
			!slices.Equal(calls, want) {
			t.Errorf("%v, %v", calls, err)
		}
	})
}
