package probe

import (
	"sync/atomic"
	"time"
)

// answersPerSecond is how many questions of a peer are answered each second. A peer with all forms of probes,
// ways and addresses asks some tens, `meshd ping` a hundred more; without a limit one that asks as fast as it
// can would have this node answer instead of forwarding.
const answersPerSecond = 1000

// An allowance bounds answers to one peer. The zero value is full. It may be used by any goroutine.
type allowance struct {
	used atomic.Uint64 // the second, in the upper half, and the answers in it
}

// take reports whether one more answer may be given at a time.
func (a *allowance) take(at time.Time) bool {
	second := uint64(uint32(at.Unix())) << 32
	for {
		before := a.used.Load()
		now := before + 1
		if before>>32 != second>>32 {
			now = second + 1
		}
		if now-second > answersPerSecond {
			return false
		}
		if a.used.CompareAndSwap(before, now) {
			return true
		}
	}
}
