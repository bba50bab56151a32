package health

import (
	"slices"
	"sync/atomic"
	"time"

	"example.org/meshd/internal/mesh"
)

// Counted is one reading of all that was counted and said. Whoever gives it must not change its maps any
// more.
type Counted struct {
	Mesh      mesh.Mesh
	Totals    mesh.Traffic
	Peers     map[string]mesh.Traffic // by name
	Lost      map[string]uint64       // drops that belong to no peer, by the reason's name: "socket_overflow"
	Troubles  map[string]mesh.Trouble // by peer; only those that have some
	Strangers []mesh.Stranger
}

// A Watch turns readings into conditions, so that whoever asks for these asks nothing of the kernel. Its
// zero value is ready; its methods may be called at any time from any goroutine.
type Watch struct {
	growth     Growth
	neighbours Neighbours
	now        atomic.Pointer[[]mesh.Condition]
}

// Take judges a reading; it is to be called every second. fails tells whether probes ask a peer and do not
// reach it. Take returns whether a reading of the neighbour tables is due as well, which costs more.
func (w *Watch) Take(c Counted, fails func(peer string) bool, at time.Time) (tablesToo bool) {
	due := w.growth.Take(c, at)
	all := slices.Concat(OfTroubles(c.Mesh, c.Troubles, fails, at), OfStrangers(c.Strangers, at),
		w.growth.Conditions(c, at), w.neighbours.Conditions(at))
	w.now.Store(&all)
	return due
}

// TakeTable takes a reading of a neighbour table. The next Take judges it.
func (w *Watch) TakeTable(t NeighbourTable, at time.Time) { w.neighbours.Take(t, at) }

// Conditions returns what followed from the last reading.
func (w *Watch) Conditions() []mesh.Condition {
	if now := w.now.Load(); now != nil {
		return *now
	}
	return nil
}
