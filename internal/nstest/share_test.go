package nstest

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// However many tests come, in whatever order: never more run than there is room for, a loaded
// one is always alone, and all have their turn.
func TestGate(t *testing.T) {
	const room = 4
	g := newGate(room)
	var taken, ran atomic.Int64
	var all sync.WaitGroup
	r := rand.New(rand.NewPCG(1, 1))
	for range 500 {
		d := []Demand{Waiting, Busy, Loaded}[r.IntN(3)]
		weight := int64(d)
		if d == Loaded {
			weight = room
		}
		all.Go(func() {
			g.enter(d)
			if now := taken.Add(weight); now > room {
				t.Errorf("%d of %d taken", now, room)
			}
			ran.Add(1)
			taken.Add(-weight)
			g.leave(d)
		})
	}
	all.Wait()
	if ran.Load() != 500 || g.taken != 0 || g.waiting != 0 {
		t.Errorf("%d of 500 ran, %d taken, %d waiting", ran.Load(), g.taken, g.waiting)
	}
}

// A loaded test waits for those that stand before the gate, too.
func TestGateLoadedComesLast(t *testing.T) {
	g := newGate(2)
	g.enter(Waiting)
	g.enter(Waiting)
	order := make(chan Demand, 2)
	for _, d := range []Demand{Waiting, Loaded} {
		go func() {
			g.enter(d)
			order <- d
			g.leave(d)
		}()
		if d == Waiting {
			for standing := false; !standing; { // before the loaded one comes
				g.mu.Lock()
				standing = g.waiting == 1
				g.mu.Unlock()
			}
		}
	}
	g.leave(Waiting)
	g.leave(Waiting)
	if first, second := <-order, <-order; first != Waiting || second != Loaded {
		t.Errorf("first %d, then %d", first, second)
	}
}
