package daemon

import (
	"context"
	"fmt"
	"sync"

	"example.org/meshd/internal/dataplane/user"
)

// loopGroup runs packet loops, which come and go with reloads.
type loopGroup struct {
	ctx   context.Context
	group sync.WaitGroup
}

// start runs a loop until it ends by itself, which it does when its queue closes. Into broken
// it says why it failed. That is a channel of its set of loops: what one of the set before has
// to say is no news.
func (g *loopGroup) start(loop user.Loop, broken chan<- error) {
	g.group.Go(func() {
		err := loop.Run(g.ctx)
		if err == nil {
			return
		}
		select {
		case broken <- fmt.Errorf("%s: %w", loop, err):
		default: // one is enough: all are made anew
		}
	})
}

// wait returns when all loops have ended.
func (g *loopGroup) wait() error {
	g.group.Wait()
	return nil
}
