package daemon

import (
	"context"
	"fmt"
	"sync"

	"example.org/meshd/internal/dataplane"
)

// loopGroup runs packet loops, which come and go with reloads.
type loopGroup struct {
	ctx    context.Context
	group  sync.WaitGroup
	broken chan<- error
}

// newLoopGroup returns a group whose loops report into broken when they fail, and
// its context, which is that of the loops.
func newLoopGroup(ctx context.Context, broken chan<- error) (*loopGroup, context.Context) {
	return &loopGroup{ctx: ctx, broken: broken}, ctx
}

// start runs a loop until it ends by itself, which it does when its queue closes.
func (g *loopGroup) start(loop dataplane.Loop) {
	g.group.Go(func() {
		err := loop.Run(g.ctx)
		if err == nil {
			return
		}
		select {
		case g.broken <- fmt.Errorf("%s: %w", loop, err):
		default: // one is enough: all are made anew
		}
	})
}

// wait returns when all loops have ended.
func (g *loopGroup) wait() error {
	g.group.Wait()
	return nil
}
