// Package health turns conditions into a verdict: ok, degraded or failed. It is pure; its clock is
// the caller's.
package health

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"example.org/meshd/internal/mesh"
)

// A Problem is a condition and how long it has lasted.
type Problem struct {
	mesh.Condition
	Since time.Time
}

// A Verdict is how well the node is. Its zero value is a node that is well.
type Verdict struct {
	Severity mesh.Severity // of the worst problem; Info: the node is well
	Problems []Problem     // the worst first, then as they were given
}

// Level returns the word of the API: "ok", "degraded", "failed".
func (v Verdict) Level() string {
	if v.Severity == mesh.Info {
		return "ok"
	}
	return v.Severity.String()
}

// Failure returns the first problem of this node itself that has failed: then it does not do what it
// is for, whatever its peers do.
func (v Verdict) Failure() (c mesh.Condition, failed bool) {
	for _, p := range v.Problems {
		if p.Severity == mesh.Failed && p.Peer == "" {
			return p.Condition, true
		}
	}
	return c, false
}

// identity tells one condition from others while its cause changes.
type identity struct {
	kind          mesh.Kind
	peer, subject string
}

// A Judge remembers since when conditions last. Its zero value is ready; it may be used by several
// goroutines at once.
type Judge struct {
	mu    sync.Mutex
	since map[identity]time.Time
}

// Verdict judges the conditions that there are at a time. A condition that was given by the call
// before goes on; one that was not begins now.
func (j *Judge) Verdict(conditions []mesh.Condition, now time.Time) Verdict {
	v := Verdict{Severity: mesh.Worst(conditions), Problems: make([]Problem, 0, len(conditions))}
	j.mu.Lock()
	defer j.mu.Unlock()
	last := make(map[identity]time.Time, len(conditions))
	for _, c := range conditions {
		id := identity{c.Kind, c.Peer, c.Subject}
		since, goesOn := j.since[id]
		if !goesOn {
			since = now
		}
		last[id] = since
		v.Problems = append(v.Problems, Problem{c, since})
	}
	j.since = last
	slices.SortStableFunc(v.Problems, func(a, b Problem) int { return cmp.Compare(b.Severity, a.Severity) })
	return v
}
