package kernel

import (
	"maps"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
)

// A change is what has to be written to bring the maps from one mesh to another. It is found peer by
// peer, so that one node of ten thousand costs its own few writes, and a mesh that stays the same
// none.
type change struct {
	after     tables // only numbers, and what is about this node
	joined    []uint32
	nodes     edits[uint32, meshNode]
	senders   edits[meshEndpoint, meshSender]
	owns      edits[meshEndpoint, uint16]
	carriers  edits[meshCarrier, uint32]
	prefixes4 edits[meshPrefix4, uint32]
	prefixes6 edits[meshPrefix6, uint32]
}

// edits are writes into one map.
type edits[K, V comparable] struct {
	put  map[K]V
	drop map[K]bool
}

// learned is what the engine was told meanwhile, of peers and prefixes of any mesh.
type learned struct {
	known   map[string]peers.Directive // of peers, by name
	carried map[mesh.Prefix]string     // which peers carry shared prefixes
}

// changeTo returns the way from t, which holds what was before, to contents, whose nodes have numbers
// that t gave them, with what was learned. Without anything before, t is what an earlier meshd left, or
// empty.
func (t tables) changeTo(next *contents, numbers map[string]uint32, before *contents, l learned) change {
	gone, come := newTables(), newTables()
	gone.numbers, come.numbers = t.numbers, numbers
	joined, joinedShares := next.Mesh.Peers, next.Mesh.Shares
	if before != nil && before.Mesh.Self == next.Mesh.Self {
		var left []mesh.Peer
		left, joined = differing(before, next)
		for _, peer := range left {
			gone.add(before, peer, peers.Directive{})
		}
		var leftShares []mesh.Share
		leftShares, joinedShares = differingShares(before, next)
		for _, share := range leftShares {
			gone.addShare(share, self) // the keys are what matters
		}
		gone.owns = t.owns // a few, which are compared as a whole
		come.keepHome(t)   // for as long as this node is the same
	} else { // another node is this one now: numbers, and all that leads to them, may have moved
		gone = t
	}
	come.setOwn(next.Binds)
	for _, peer := range joined {
		come.add(next, peer, respecting(l.known[peer.Name], next.policed(peer.Name)))
	}
	for _, share := range joinedShares {
		if number, ok := next.carrier(share, numbers, l.carried); ok {
			come.addShare(share, number)
		}
	}
	c := change{
		after:     come.outline(),
		nodes:     between(gone.nodes, come.nodes, t.nodes),
		senders:   between(gone.senders, come.senders, t.senders),
		owns:      between(gone.owns, come.owns, t.owns),
		carriers:  between(gone.carriers, come.carriers, t.carriers),
		prefixes4: between(gone.prefixes4, come.prefixes4, t.prefixes4),
		prefixes6: between(gone.prefixes6, come.prefixes6, t.prefixes6),
	}
	for number := range c.nodes.put {
		if _, there := t.nodes[number]; !there {
			c.joined = append(c.joined, number)
		}
	}
	return c
}

// between returns the edits of a map that holds, of all, what was gone, and has to hold what comes.
func between[K, V comparable](gone, come, all map[K]V) edits[K, V] {
	if len(all) == 0 {
		return edits[K, V]{put: come}
	}
	e := edits[K, V]{put: map[K]V{}, drop: map[K]bool{}}
	for key, value := range come {
		if held, there := all[key]; !there || held != value {
			e.put[key] = value
		}
	}
	for key := range gone {
		if _, stays := come[key]; !stays {
			e.drop[key] = true
		}
	}
	return e
}

// back returns the way back, for the tables before the change. It writes each key of the change,
// whether that was written or not.
func (c change) back(t tables) change {
	return change{after: t.outline(),
		nodes: c.nodes.back(t.nodes), senders: c.senders.back(t.senders),
		owns: c.owns.back(t.owns), carriers: c.carriers.back(t.carriers),
		prefixes4: c.prefixes4.back(t.prefixes4), prefixes6: c.prefixes6.back(t.prefixes6)}
}

func (e edits[K, V]) back(held map[K]V) edits[K, V] {
	b := edits[K, V]{put: map[K]V{}, drop: map[K]bool{}}
	for key := range e.put {
		if value, was := held[key]; was {
			b.put[key] = value
		} else {
			b.drop[key] = true
		}
	}
	for key := range e.drop {
		if value, was := held[key]; was {
			b.put[key] = value
		}
	}
	return b
}

// do brings tables to what a change leads to. Their maps are changed in place, but for numbers, which
// readers have.
func (c change) do(t *tables) {
	t.nodes, t.senders = c.nodes.do(t.nodes), c.senders.do(t.senders)
	t.owns, t.carriers = c.owns.do(t.owns), c.carriers.do(t.carriers)
	t.prefixes4, t.prefixes6 = c.prefixes4.do(t.prefixes4), c.prefixes6.do(t.prefixes6)
	t.numbers, t.own, t.more = c.after.numbers, c.after.own, c.after.more
	t.keepHome(c.after)
}

func (e edits[K, V]) do(held map[K]V) map[K]V {
	if len(held) == 0 {
		return e.put
	}
	maps.Copy(held, e.put)
	for key := range e.drop {
		delete(held, key)
	}
	return held
}
