// Package backoff says how long to wait: before the next attempt at what this host refused, and before the
// next look at what costs time to read.
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

// A Rest bounds how often something is done again and again that may take long on a large host: for at most
// one Share of the time. A host that is merely busy stretches the same work to seconds, so that nothing waits
// longer than Most for it.
type Rest struct {
	Share int // of the time: 50 is one fiftieth
	Least time.Duration
	Most  time.Duration
}

// After returns how long to wait before the next time after one that took so long.
func (r Rest) After(took time.Duration) time.Duration {
	return min(max(time.Duration(r.Share)*took, r.Least), r.Most)
}
