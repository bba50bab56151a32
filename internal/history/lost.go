package history

import (
	"math"
	"time"

	"example.org/meshd/internal/control"
)

// What the node lost, by reason. Which of them it was is the first question about a chart of drops, and who
// asks it nearly always comes after the fact.

// reasonsKept bounds how many reasons are remembered, and with them the memory: one takes 5.5 kB. There are
// fewer reasons than that.
const reasonsKept = 40

// lost is what is remembered of all reasons.
type lost struct {
	begun   bool
	reasons map[string]*reason
	next    [len(spans)]int // place of the next step in the rings of all reasons
}

// reason is what is remembered of one reason.
type reason struct {
	count uint64    // at the last reading
	last  time.Time // when it grew last; zero: not since the first reading
	rings [len(spans)]ring
}

// ring has a value for each step: packets in one of its seconds or minutes. Before the first loss all of them
// are zero, which is true.
type ring struct {
	at     uint64 // count at the end of the last step
	points []float32
}

// take adds a reading of the counters, and ends those steps that are over in each span.
func (l *lost) take(now time.Time, counts map[string]uint64, steps [len(spans)]int) {
	for name, n := range counts {
		if l.reasons[name] == nil && n > 0 && len(l.reasons) < reasonsKept {
			l.admit(name, n)
		}
	}
	l.begun = true
	for name, r := range l.reasons {
		n, counted := counts[name]
		if !counted {
			n = r.count
		}
		if n > r.count {
			r.last = now
		}
		r.count = n
		for i := range r.rings {
			r.rings[i].end(l.next[i], steps[i], n)
		}
	}
	for i, s := range spans {
		l.next[i] = (l.next[i] + steps[i]) % s.points
	}
}

// admit begins to remember a reason. What was counted before the first reading belongs to no step.
func (l *lost) admit(name string, n uint64) {
	r := &reason{}
	if !l.begun {
		r.count = n
	}
	for i, s := range spans {
		r.rings[i] = ring{r.count, make([]float32, s.points)}
	}
	if l.reasons == nil {
		l.reasons = map[string]*reason{}
	}
	l.reasons[name] = r
}

// end ends n steps, the first of which is at a place. A counter that fell is a gap.
func (r *ring) end(place, n int, count uint64) {
	if n == 0 {
		return
	}
	each := float32(math.NaN())
	if count >= r.at {
		each = float32(float64(count-r.at) / float64(n))
	}
	for k := range min(n, len(r.points)) {
		r.points[(place+n-1-k)%len(r.points)] = each
	}
	r.at = count
}

// answer returns what is remembered of reasons that lost packets since the first reading. known is how many
// of the steps of a span are over.
func (l *lost) answer(i, known int) map[string]control.DropHistory {
	all := map[string]control.DropHistory{}
	for name, r := range l.reasons {
		if r.last.IsZero() {
			continue
		}
		points := r.rings[i].points
		one := control.DropHistory{Last: r.last.UTC(), Drops: make([]*float64, len(points)-known, len(points))}
		for k := len(points) - known; k < len(points); k++ {
			one.Drops = append(one.Drops, number(points[(l.next[i]+k)%len(points)]))
		}
		all[name] = one
	}
	return all
}

// number returns a value as the API has it: null where it is not known.
func number(of float32) *float64 {
	value := float64(of)
	if math.IsNaN(value) {
		return nil
	}
	return &value
}
