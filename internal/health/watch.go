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

// Take judges a reading; it is to be called every second. standing tells what is known of a peer besides.
// Take returns whether a reading of the neighbour tables is due as well, which costs more.
func (w *Watch) Take(c Counted, standing func(peer string) Standing, at time.Time) (tablesToo bool) {
	due := w.growth.Take(c, at)
	all := slices.Concat(OfTroubles(c.Mesh, c.Troubles, standing, at), OfStrangers(c.Strangers, at),
		w.growth.Conditions(c, at), w.neighbours.Conditions(at))
	for i := range all { // what cannot be sent to a peer in maintenance is lost, as was announced
		if one := &all[i]; one.Kind == mesh.DropsGrowing && one.Subject == mesh.SendError.String() &&
			standing(one.Peer).Maintained {
			one.Severity = mesh.Info
		}
	}
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
