package rate

import (
	"fmt"
	"sync"
	"time"

	"example.org/meshd/internal/mesh"
)

// Repairs within repairsSpan that are one after the other; more of them have no end: another program
// wants something else than meshd, and both insist.
const (
	repairsSpan = time.Minute
	repairsMost = 10
)

// Repairs counts how often meshd restored one part of the host, such as its rules. It may be used by
// several goroutines at once.
type Repairs struct {
	part string // "rules"

	mu       sync.Mutex
	last     []time.Time // of the last repairs, at most repairsKept
	what, by string      // of the last one
	said     time.Time   // when the last line was due
	unsaid   int         // repairs since then
}

// repairsKept bounds what is remembered: a part is looked at once a second at most, more or less.
const repairsKept = 120

// NewRepairs returns Repairs of a part of the host, which the condition names.
func NewRepairs(part string) *Repairs { return &Repairs{part: part} }

// Add notes a repair: what was damaged, and by which program; both may be empty. It returns how many
// repairs a line of the log has to tell of, this one included; 0: none is due. Each of the first ten in
// a minute is worth a line, then one a minute is.
func (r *Repairs) Add(now time.Time, what, by string) (told int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = append(r.last, now)
	r.last = r.last[max(0, len(r.last)-repairsKept):]
	r.what, r.by = what, by
	r.unsaid++
	if r.lately(now) > repairsMost && now.Before(r.said.Add(repairsSpan)) {
		return 0
	}
	told, r.said, r.unsaid = r.unsaid, now, 0
	return told
}

// lately returns how many repairs there were in the last minute. The caller holds mu.
func (r *Repairs) lately(now time.Time) (n int) {
	for _, at := range r.last {
		if now.Sub(at) < repairsSpan {
			n++
		}
	}
	return n
}

// Conditions tells of repairs that have no end, as long as there were more than ten in the last minute.
func (r *Repairs) Conditions(now time.Time) []mesh.Condition {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.lately(now)
	if n <= repairsMost {
		return nil
	}
	c := mesh.Condition{Kind: mesh.RepairsEndless, Severity: mesh.Degraded, Subject: r.part,
		Cause:  fmt.Sprintf("%d times in the last minute", n),
		Remedy: "find the program that changes it, and configure that program to leave it alone"}
	if r.what != "" {
		c.Cause += ", last: " + r.what
	}
	if r.by != "" {
		c.Cause += ", by " + r.by
		c.Remedy = "configure " + r.by + " to leave it alone"
	}
	return []mesh.Condition{c}
}
