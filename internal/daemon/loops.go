package daemon

import (
	"context"
	"sync"

	"example.org/meshd/internal/dataplane"
)

// loops runs the packet loops of an engine, which come and go with reloads. A loop ends by itself
// when its queue closes; why it failed is the engine's to know.
type loops struct {
	ctx   context.Context
	group sync.WaitGroup
}

func (l *loops) start(one dataplane.Loop) {
	l.group.Go(func() { _ = one.Run(l.ctx) }) // the engine has heard of an error
}
