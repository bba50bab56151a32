package seal

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"example.org/meshd/internal/link"
	"example.org/meshd/internal/mesh"
)

// refused counts what the kernel's WireGuard drops of what peers send. The kernel counts from the making of
// the interface on, and this from the start of meshd, over all interfaces that were there since. note and
// lies are for one goroutine, add for any.
type refused struct {
	last               *link.Face // nil: none was seen
	foreign, malformed atomic.Uint64
	grew               []growth // of foreign, not longer ago than refusedFor, oldest first
}

// growth is how much a counter grew between two looks.
type growth struct {
	at time.Time
	by uint64
}

// Bounds of noise. A prefix that moves to another peer, as when a node changes its key or a carrier of a
// shared prefix fails, costs some packets at one moment; a peer that may not send goes on with it.
const (
	refusedFor   = 30 * time.Second // how long growth counts
	refusedLeast = 10               // packets
	refusedLooks = 3                // in which some were dropped
)

// note takes over what the kernel shows.
func (r *refused) note(is link.Face, now time.Time) {
	if was := r.last; was != nil {
		if was.Index != is.Index {
			was = &link.Face{}
		}
		if by := is.Foreign - was.Foreign; by > 0 {
			r.foreign.Add(by)
			r.grew = append(r.grew, growth{now, by})
		}
		r.malformed.Add(is.Malformed - was.Malformed)
	}
	r.grew = slices.DeleteFunc(r.grew, func(g growth) bool { return now.Sub(g.at) > refusedFor })
	r.last = &is
}

// lies returns how many packets had a foreign source in the time that counts; 0 if that may be noise.
func (r *refused) lies() (sum uint64) {
	for _, g := range r.grew {
		sum += g.by
	}
	if sum < refusedLeast || len(r.grew) < refusedLooks {
		return 0
	}
	return sum
}

// add adds it to what an engine has counted.
func (r *refused) add(to *mesh.Traffic) {
	to.Drops[mesh.SpoofedSource] += r.foreign.Load()
	to.Drops[mesh.Malformed] += r.malformed.Load()
}

// suspect tells who may have sent packets with a foreign source; nil: there were none. The kernel does not
// say which peer it was. Where a network is behind several nodes, and its hosts use another one of them than
// the one that carries the prefix, that is the likely reason.
func (w *Wanted) suspect(l learned, lies uint64) *mesh.Condition {
	if w == nil || lies == 0 {
		return nil
	}
	c := mesh.Condition{Kind: mesh.DropsGrowing, Severity: mesh.Degraded, Subject: mesh.SpoofedSource.String(),
		Cause:  fmt.Sprintf("%d packets in the last %v", lies, refusedFor),
		Remedy: "compare the files of all nodes: their subnets and routes have to be the same"}
	var prefixes, carriers, standbys []string
	for _, s := range w.Shares {
		carrier, before := l.carrier(s, w.Self.Name), len(standbys)
		for _, other := range s.Carriers {
			if other.Peer != carrier && other.Peer != w.Self.Name {
				standbys = append(standbys, other.Peer)
			}
		}
		if len(standbys) > before {
			prefixes, carriers = append(prefixes, s.Prefix.String()), append(carriers, carrier)
		}
	}
	if len(standbys) == 0 {
		return &c
	}
	c.Kind, c.Subject = mesh.StandbySends, some(prefixes)
	if standbys = distinct(standbys); len(standbys) == 1 {
		c.Peer = standbys[0]
	} else {
		c.Group = "one of the peers " + some(standbys)
	}
	c.Remedy = fmt.Sprintf("have the hosts there send by %s, or prefer the node that they use (metric); "+
		"if they send nothing to this node, %s", some(distinct(carriers)), c.Remedy)
	return &c
}

// distinct returns names in their order, each once.
func distinct(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}
