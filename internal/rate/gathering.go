// Package rate decides how often something is worth a line of the log. It is pure: whoever uses it tells
// the time and writes the line.
//
//	Gathering   10,000 peers go down      one line with a number, not 10,000
//	Lines       the same happens again    a line a minute with a sum
//	Repairs     another program insists   the same, and one condition
//	Minute      a counter grows           by how much in the last minute
package rate

import (
	"slices"
	"time"
)

// A Gathering puts together what happens at nearly the same time. The first news after a quiet window is
// due at once; what follows within the window is due together at its end. Set Window before the first
// Add. One goroutine may use it.
type Gathering[T any] struct {
	Window time.Duration

	held []Group[T]
	next time.Time // before which nothing is due
}

// A Group is news of one kind, in the order in which they were added.
type Group[T any] struct {
	Kind string
	News []T
}

// Add holds news until they are due.
func (g *Gathering[T]) Add(kind string, news T) {
	i := slices.IndexFunc(g.held, func(h Group[T]) bool { return h.Kind == kind })
	if i < 0 {
		i = len(g.held)
		g.held = append(g.held, Group[T]{Kind: kind})
	}
	g.held[i].News = append(g.held[i].News, news)
}

// Due returns the groups that are to be told now, in the order of their first news; the caller owns them.
func (g *Gathering[T]) Due(now time.Time) []Group[T] {
	if len(g.held) == 0 || now.Before(g.next) {
		return nil
	}
	due := g.held
	g.held, g.next = nil, now.Add(g.Window)
	return due
}

// Wait returns how long nothing is due; most if nothing is held.
func (g *Gathering[T]) Wait(now time.Time, most time.Duration) time.Duration {
	if len(g.held) == 0 {
		return most
	}
	return max(0, min(most, g.next.Sub(now)))
}
