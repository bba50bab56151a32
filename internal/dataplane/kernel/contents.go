package kernel

import (
	"maps"
	"slices"
	"unsafe"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
)

// contents is what the maps were filled from: of what is wanted the mesh, the own addresses with what
// leaves from which, and the policed peers. It is never changed once it is made.
type contents struct {
	dataplane.Wanted
	at     map[string]int      // places in the list of peers, by name
	shares map[mesh.Prefix]int // places in the list of shares
}

// contentsOf returns the contents for what is wanted, with as much of the ones before as stays; nil: none.
func contentsOf(w dataplane.Wanted, before *contents) *contents {
	c := &contents{Wanted: w, shares: map[mesh.Prefix]int{}}
	for i, s := range w.Mesh.Shares {
		c.shares[s.Prefix] = i
	}
	named := func(a, b mesh.Peer) bool { return a.Name == b.Name }
	if before != nil && slices.EqualFunc(before.Mesh.Peers, w.Mesh.Peers, named) {
		c.at = before.at
		return c
	}
	c.at = make(map[string]int, len(w.Mesh.Peers))
	for i, p := range w.Mesh.Peers {
		c.at[p.Name] = i
	}
	return c
}

// isFor tells whether c was made for what is wanted: for these very lists, and not for equal ones, since a
// mesh is never changed once it is made.
func (c *contents) isFor(w dataplane.Wanted) bool {
	return c.Mesh.Self == w.Mesh.Self && identical(c.Mesh.Peers, w.Mesh.Peers) &&
		identical(c.Mesh.Shares, w.Mesh.Shares) && slices.Equal(c.Binds, w.Binds) &&
		maps.Equal(c.Sources, w.Sources) && maps.Equal(c.Kernel.Policed, w.Kernel.Policed)
}

// identical tells whether two lists are one in memory.
func identical[T any](a, b []T) bool {
	return len(a) == len(b) && unsafe.SliceData(a) == unsafe.SliceData(b)
}

// peer returns the peer of a name, without a search.
func (c *contents) peer(name string) (p mesh.Peer, ok bool) {
	i, ok := c.at[name]
	if !ok {
		return p, false
	}
	return c.Mesh.Peers[i], true
}

// policed tells which datagrams of a peer rules for sockets are about.
func (c *contents) policed(peer string) dataplane.Policed { return c.Kernel.Policed[peer] }

// leavesRoomFor tells whether maps with c have room for what comes with next, before anything goes.
func (c *contents) leavesRoomFor(next *contents) bool {
	_, joined := differing(c, next)
	return room(c.Mesh.Peers, joined) == nil
}

// staying returns c without what is not in next, or not as it is. The node itself stays.
func (c *contents) staying(next *contents) *contents {
	left, _ := differing(c, next)
	gone := map[string]bool{}
	for _, peer := range left {
		gone[peer.Name] = peer.Name != c.Mesh.Self
	}
	w := c.Wanted
	w.Mesh.Peers = slices.DeleteFunc(slices.Clone(c.Mesh.Peers), func(p mesh.Peer) bool { return gone[p.Name] })
	// A share stays shared if one carrier is left: its key in the maps is the same for all of them.
	w.Mesh.Shares = slices.Clone(c.Mesh.Shares)
	for i, s := range w.Mesh.Shares {
		w.Mesh.Shares[i].Carriers = slices.DeleteFunc(slices.Clone(s.Carriers),
			func(one mesh.Carrier) bool { return gone[one.Peer] })
	}
	w.Mesh.Shares = slices.DeleteFunc(w.Mesh.Shares, func(s mesh.Share) bool { return len(s.Carriers) == 0 })
	return contentsOf(w, nil)
}

// differing returns which peers of two contents the other one has not, or not as they are in the maps.
func differing(old, next *contents) (left, joined []mesh.Peer) {
	before, after := old.Mesh.Peers, next.Mesh.Peers
	alike := slices.Equal(old.Binds, next.Binds) && maps.Equal(old.Sources, next.Sources)
	turned := turned(old, next)
	stays := func(i, j int) bool {
		p := after[j]
		return same(before[i], p) && old.policed(p.Name) == next.policed(p.Name) &&
			(alike || old.goesAlike(next, p)) && !hasAny(p, turned)
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
