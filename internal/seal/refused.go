package seal

import (
	"sync/atomic"

	"example.org/meshd/internal/link"
	"example.org/meshd/internal/mesh"
)

// refused counts what the kernel's WireGuard drops of what peers send. The kernel counts from the making of
// the interface on, and this from the start of meshd, over all interfaces that were there since. note is for
// one goroutine, add for any.
type refused struct {
	last               *link.Face // nil: none was seen
	foreign, malformed atomic.Uint64
}

// note takes over what the kernel shows.
func (r *refused) note(is link.Face) {
	if was := r.last; was != nil {
		if was.Index != is.Index {
			was = &link.Face{}
		}
		r.foreign.Add(is.Foreign - was.Foreign)
		r.malformed.Add(is.Malformed - was.Malformed)
	}
	r.last = &is
}

// add adds it to what an engine has counted.
func (r *refused) add(to *mesh.Traffic) {
	to.Drops[mesh.SpoofedSource] += r.foreign.Load()
	to.Drops[mesh.Malformed] += r.malformed.Load()
}
