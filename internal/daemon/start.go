package daemon

import (
	"context"
	"errors"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"example.org/meshd/internal/begin"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/passing"
)

// startPatience is how long the first plan is tried again for a reason that passes.
const startPatience = 10 * time.Second

// applyGC is how much garbage may be there while a file is read and put in force, in percent of what is in
// use. Most of it comes at once, out of the file's text: with Go's usual 100, the start with a file of 10,000
// nodes has all that is in use searched 13 times, which takes an eighth of the start's CPU time.
const applyGC = 400

// restGC is how much may be there otherwise: half of Go's usual. What runs makes little garbage, and the
// memory of a small host is dearer than the CPU time of more collections.
const restGC = 50

// collectLater sets applyGC, and returns a function that sets restGC, or what the environment sets (GOGC).
func collectLater() (back func()) {
	rest := debug.SetGCPercent(applyGC)
	if os.Getenv("GOGC") == "" {
		rest = restGC
	}
	return sync.OnceFunc(func() { debug.SetGCPercent(rest) })
}

// useLastGood puts the last good file in the place of a bad one.
func (r *reconciler) useLastGood(f begin.File) {
	r.loaded, r.instead = f.Config, nil // once: it may be impossible on this host, too
	r.view.useLastGood(f.Bad, f.Since)
	r.log.Error("the file is bad: running the last good file", "since", f.Since, "error", f.Bad,
		"event", "last_good")
}

// start puts the first plan in force. A file that cannot be on this host is replaced by the last good
// one. What the host refuses for a passing reason, such as a port that an ending program still has,
// is tried again for a few seconds.
func (r *reconciler) start(ctx context.Context) error {
	defer r.started()
	for began := time.Now(); ; {
		err := r.begin(ctx)
		switch pause := r.backoff.Next(); {
		case err == nil:
			r.backoff.Reset()
			return nil
		case errors.Is(err, ErrConfig) && r.instead != nil:
			good, err := r.instead(ctx, r.latest, err)
			if err != nil {
				return err
			}
			r.useLastGood(good)
		case passing.Is(err) && time.Since(began)+pause <= startPatience:
			r.view.waiting(r.loaded, mesh.Condition{Kind: mesh.CannotApply, Severity: mesh.Failed, Cause: err.Error(),
				Again: pause})
			r.log.Warn("cannot begin: trying again", "in", pause, "error", err, "event", "repair_failed")
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(pause):
			}
		default:
			return err
		}
	}
}
