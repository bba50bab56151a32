package nstest

import (
	"flag"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"
)

// A Demand is what a test asks of the machine while it runs.
type Demand int

const (
	// Waiting is a test that mostly waits: for probes, timers, programs. It uses a fifth of a CPU, and
	// while it begins and ends a whole one: with more than two for each CPU, daemons wait for a second
	// now and then, which tests of reachability notice.
	Waiting Demand = iota
	// Resting is a test that waits for a minute or so, and does next to nothing meanwhile. It takes no
	// room, so it begins at once: begun last, it would keep all Loaded tests waiting, with CPUs idle.
	Resting
	// Busy is a test that works on one CPU for seconds, and still proves nothing about speed.
	Busy
	// Loaded is a test that fills queues or measures: other work would make it lose packets
	// or time that it does not allow for. It runs alone, after all others.
	Loaded
)

// Share makes a test run beside others, as far as what they ask of the machine goes together.
// It is the first line of a test, or of a subtest whose parent has no share and calls
// t.Parallel; it returns when the test's turn has come, and its turn ends with the test, after
// its other cleanups. A test without it runs before all that have it, alone.
func Share(t *testing.T, d Demand) {
	t.Helper()
	t.Parallel()
	turns.enter(d)
	began := time.Now()
	t.Cleanup(func() {
		// What the testing package measures has the time before the gate in it.
		t.Attr(TurnAttr, strconv.FormatFloat(time.Since(began).Seconds(), 'f', 2, 64))
		turns.leave(d)
	})
}

// TurnAttr is the attribute (testing.T.Attr) by which a test tells how many seconds its turn
// took; tools/testlog reads it.
const TurnAttr = "turn"

// SideBySide lets as many tests as there are come to the gate, which then decides; call it in
// TestMain. A -parallel on the command line stays.
func SideBySide() {
	const all = 1000
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", strconv.Itoa(all)) // it is a flag of every test binary
	}
}

// turns is the gate of this process. Labs share the machine's neighbour table of 1,024 entries,
// each with some 60 of them, so its room ends at 8 however many CPUs there are.
var turns = newGate(max(2, min(2*runtime.NumCPU(), 8)))

// A gate lets tests pass while there is room. Loaded ones come last, one by one: if they came
// in between, each would first wait until all others had ended, with CPUs idle.
type gate struct {
	mu      sync.Mutex
	changed *sync.Cond
	room    int // in Waiting tests, at least as many as a Busy one takes
	taken   int
	running int // tests that have passed, of any demand
	waiting int // tests other than Loaded that stand before the gate
}

// newGate returns a gate with room for so many Waiting tests.
func newGate(room int) *gate {
	g := &gate{room: room}
	g.changed = sync.NewCond(&g.mu)
	return g
}

// takes tells how much room a test takes.
func (g *gate) takes(d Demand) int {
	switch d {
	case Resting:
		return 0
	case Busy:
		return 2
	case Loaded:
		return g.room
	default:
		return 1
	}
}

// enter waits until a test may run.
func (g *gate) enter(d Demand) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if d == Loaded {
		for g.waiting > 0 || g.running > 0 {
			g.changed.Wait()
		}
	} else {
		g.waiting++
		for g.taken+g.takes(d) > g.room {
			g.changed.Wait()
		}
		g.waiting--
	}
	g.taken += g.takes(d)
	g.running++
}

// leave ends a test's turn.
func (g *gate) leave(d Demand) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.taken -= g.takes(d)
	g.running--
	g.changed.Broadcast()
}
