// Package backoff says how long to wait before the next attempt at what this host refused.
package backoff

import "time"

// How long to wait: at first, and at most.
const (
	First = time.Second
	Last  = time.Minute
)

// A Backoff is how long to wait after failures in a row: twice as long each time. Its zero value is
// ready. It belongs to one goroutine.
type Backoff struct{ last time.Duration }

// Next returns how long to wait after one more failure.
func (b *Backoff) Next() time.Duration {
	b.last = min(max(2*b.last, First), Last)
	return b.last
}

// Reset forgets the failures.
func (b *Backoff) Reset() { b.last = 0 }
