// Package budget bounds what one input of a fuzz target may cost. Without it the fuzzer finds inputs that
// crash a parser, and none that keep it busy: a loop without end lasts until the fuzzer's own time is over,
// and looks like a pass. Only tests import it.
package budget

import (
	"fmt"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

// What one input may cost. Most parsers take milliseconds and some hundred kilobytes; the rest is for files
// of megabytes, a busy machine, and the race detector.
const (
	Time   = 30 * time.Second
	Memory = 256 << 20 // bytes that are allocated by all of the target's calls, freed ones included
)

// Of begins the budget of one input, and returns the function that ends it. An input that takes longer than
// Time ends the process with all stacks, by which the fuzzer keeps the input; more than Memory fails the
// test. What other goroutines of the process allocate meanwhile counts, too, so the test must not run beside
// others.
func Of(t testing.TB) (done func()) { return begin(t, Time, Memory, outOfTime) }

// begin is Of with limits; late is called when the time is over.
func begin(t testing.TB, patience time.Duration, most uint64, late func(name string)) (done func()) {
	before, timer := allocated(), time.AfterFunc(patience, func() { late(t.Name()) })
	return func() {
		timer.Stop()
		if used := allocated() - before; used > most {
			t.Errorf("%d bytes were allocated, at most %d may be", used, most)
		}
	}
}

// outOfTime ends the process: nothing else ends a loop in another goroutine.
func outOfTime(name string) {
	debug.SetTraceback("all")
	panic(fmt.Sprintf("%s takes longer than %v", name, Time))
}

// allocated returns how many bytes this process has allocated on the heap so far.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
