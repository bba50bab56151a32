package kernel

import (
	"maps"
	"slices"

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
	senders   edits[meshSender, uint32]
	prefixes4 edits[meshPrefix4, uint32]
	prefixes6 edits[meshPrefix6, uint32]
}

// edits are writes into one map.
type edits[K, V comparable] struct {
	put  map[K]V
	drop map[K]bool
}

// changeTo returns the way from t, which holds what was before, to a mesh, whose nodes have numbers
// that t gave them, with what is known of its peers. Without anything before, t is what an earlier
// meshd left, or empty.
func (t tables) changeTo(
	next contents, numbers map[string]uint32, before *contents, known map[string]peers.Directive,
) change {
	m := next.mesh
	gone, come := newTables(), newTables()
	come.numbers = numbers
	joined := m.Peers
	if before != nil && before.mesh.Self == m.Self {
		var left []mesh.Peer
		left, joined = differing(*before, next)
		for _, peer := range left {
			gone.add(peer, t.numbers[peer.Name], peers.Directive{})
		}
		come.keepHome(t) // for as long as this node is the same
	} else { // another node is this one now: numbers, and all that leads to them, may have moved
		gone = t
	}
	for _, peer := range joined {
		come.add(peer, numbers[peer.Name], respecting(known[peer.Name], next.policed[peer.Name]))
	}
	c := change{
		after:     come.outline(),
		nodes:     between(gone.nodes, come.nodes, t.nodes),
		senders:   between(gone.senders, come.senders, t.senders),
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

// differing returns which peers of two contents the other one has not, or not as they are.
func differing(old, next contents) (left, joined []mesh.Peer) {
	before, after := old.mesh.Peers, next.mesh.Peers
	stays := func(i, j int) bool {
		name := after[j].Name
		return same(before[i], after[j]) && old.policed[name] == next.policed[name]
	}
	// Most stay in their places: only the others are looked up by name.
	inPlace := func(i int) bool { return i < len(before) && i < len(after) && stays(i, i) }
	moved := map[string]int{}
	for i, peer := range before {
		if !inPlace(i) {
			moved[peer.Name] = i
		}
	}
	for i, peer := range after {
		if inPlace(i) {
			continue
		}
		if was, there := moved[peer.Name]; there && stays(was, i) {
			delete(moved, peer.Name)
		} else {
			joined = append(joined, peer)
		}
	}
	for _, i := range moved {
		left = append(left, before[i])
	}
	return left, joined
}

// same tells whether a peer is the same for the maps.
func same(a, b mesh.Peer) bool {
	return a.Name == b.Name && slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.Subnets, b.Subnets) &&
		slices.Equal(a.Routes, b.Routes)
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
	t.prefixes4, t.prefixes6 = c.prefixes4.do(t.prefixes4), c.prefixes6.do(t.prefixes6)
	t.numbers = c.after.numbers
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
