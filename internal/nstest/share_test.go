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
	var taken, running, ran atomic.Int64
	var all sync.WaitGroup
	r := rand.New(rand.NewPCG(1, 1))
	for range 500 {
		d := []Demand{Waiting, Resting, Busy, Loaded}[r.IntN(4)]
		all.Go(func() {
			g.enter(d)
			others := running.Add(1) - 1
			if now := taken.Add(int64(g.takes(d))); now > room || d == Loaded && others > 0 {
				t.Errorf("%d of %d taken, beside %d others", now, room, others)
			}
			ran.Add(1)
			taken.Add(-int64(g.takes(d)))
			running.Add(-1)
			g.leave(d)
		})
	}
	all.Wait()
	if ran.Load() != 500 || g.taken != 0 || g.waiting != 0 || g.running != 0 {
		t.Errorf("%d of 500 ran, %d taken, %d waiting, %d running", ran.Load(), g.taken, g.waiting, g.running)
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

// A resting test passes a full gate, and a loaded one waits for its end.
func TestGateRestingTakesNoRoom(t *testing.T) {
	g := newGate(1)
	g.enter(Waiting)
	g.enter(Resting)
	g.leave(Waiting)
	beside := make(chan int)
	go func() {
		g.enter(Loaded)
		g.mu.Lock()
		running := g.running
		g.mu.Unlock()
		beside <- running - 1
		g.leave(Loaded)
	}()
	select {
	case n := <-beside:
		t.Errorf("a loaded test began beside %d others", n)
		return
	default:
	}
	g.leave(Resting)
	if n := <-beside; n != 0 {
		t.Errorf("a loaded test began beside %d others", n)
	}
}
