package rate

import (
	"fmt"
	"sync"
	"time"

	"example.org/meshd/internal/mesh"
)

// Repairs counts how often meshd restored one part of the host, such as its rules. It may be used by
// several goroutines at once.
type Repairs struct {
	part string // "rules"

	mu       sync.Mutex
	lines    Lines
	what, by string // of the last one
}

// NewRepairs returns Repairs of a part of the host, which the condition names.
func NewRepairs(part string) *Repairs { return &Repairs{part: part} }

// Add notes a repair: what was damaged, and by which program; both may be empty. It returns how many
// repairs a line of the log has to tell of, see Lines.
func (r *Repairs) Add(now time.Time, what, by string) (told int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.what, r.by = what, by
	return r.lines.Add(now)
}

// Conditions tells of repairs that have no end, as long as there were more than ten in the last minute:
// another program wants something else than meshd, and both insist.
func (r *Repairs) Conditions(now time.Time) []mesh.Condition {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.lines.lately(now)
	if n <= most {
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
