package probe

import (
	"slices"
	"time"
)

// The rings, by how often their paths are asked.
const (
	usualRing = iota // at the interval
	quickRing        // at the interval, but within seconds: something else could carry packets
	rareRing         // rarely: the path carries nothing
	numRings
)

// A ring asks paths in turn, each once in a period.
type ring struct {
	period time.Duration
	order  []*path
	next   int     // index in order
	credit float64 // the number of questions that may be asked now
}

// rate returns the number of questions per second.
func (r *ring) rate() float64 {
	if r.period == 0 {
		return 0
	}
	return float64(len(r.order)) / r.period.Seconds()
}

// turn returns the path that is to be asked next.
func (r *ring) turn() *path {
	one := r.order[r.next]
	r.next = (r.next + 1) % len(r.order)
	return one
}

// remove takes a path out.
func (r *ring) remove(one *path) {
	i := slices.Index(r.order, one)
	if i < 0 {
		return
	}
	r.order = slices.Delete(r.order, i, i+1)
	if i < r.next {
		r.next--
	}
	if r.next >= len(r.order) {
		r.next = 0
	}
}

// turned returns the paths in the order in which they are to be asked.
func (r *ring) turned() []*path { return slices.Concat(r.order[r.next:], r.order[:r.next]) }
