package peers

import (
	"time"

	"example.org/meshd/internal/mesh"
)

// This file decides which of several peers carries a prefix that is behind all of them:
//
//	this node is one of them --------------------> this node
//	the carrier fails, or drains ----------------> the first of the others that is well
//	one before it has been well for returnAfter -> that one
//
// A peer of which nothing is known yet counts as well, so that a start moves nothing.

// A fitness is how much a peer is wanted as a carrier.
type fitness uint8

const (
	fails  fitness = iota
	drains         // it is up, and wants no new traffic
	well
)

// fitness tells how much the peer is wanted.
func (f Facts) fitness() fitness {
	switch {
	case f.Asked && (f.Silent || f.State != Up && f.State != Unknown && f.State != ""):
		return fails
	case f.Drain != nil:
		return drains
	}
	return well
}

// Share tells which prefixes are shared from now on, and which node this is. Prefixes that stay keep their
// carriers.
func (r *Registry) Share(shares []mesh.Share, self string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	carriers := map[mesh.Prefix]string{}
	r.shares, r.self = shares, self
	for _, s := range shares {
		switch before, known := r.carriers[s.Prefix]; {
		case s.Has(self):
			carriers[s.Prefix] = self
		case known && s.Has(before):
			carriers[s.Prefix] = before
		default:
			carriers[s.Prefix] = s.Carriers[0].Peer
		}
	}
	r.carriers = carriers
}

// A Move is a shared prefix that another peer carries now.
type Move struct {
	Prefix    mesh.Prefix
	From, To  string
	Announced bool // the one before is well, and in maintenance
}

// Carry decides again which peers carry the shared prefixes, and returns what has changed. It is to be
// called when something was learned of a carrier, and every second or so.
func (r *Registry) Carry(now time.Time) (moves []Move) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.shares {
		from := r.carriers[s.Prefix]
		if from == r.self {
			continue
		}
		if to := r.best(s, from, now); to != from {
			r.carriers[s.Prefix] = to
			moves = append(moves, Move{Prefix: s.Prefix, From: from, To: to,
				Announced: r.of(from).fitness() == drains})
		}
	}
	return moves
}

// best returns who is to carry a shared prefix. r.mu is held.
func (r *Registry) best(s mesh.Share, current string, now time.Time) string {
	best, fit := current, r.of(current).fitness()
	before := true // the carrier is preferred to the current one
	for _, c := range s.Carriers {
		f := r.of(c.Peer)
		switch {
		case c.Peer == current:
			before = false
		case f.fitness() > fit:
			best, fit = c.Peer, f.fitness()
		case before && best == current && f.fitness() == fit && fit != fails && !f.wellSince.IsZero() &&
			now.Sub(f.wellSince) >= returnAfter:
			return c.Peer
		}
	}
	return best
}

// Carriers returns which peer carries each shared prefix.
func (r *Registry) Carriers() map[mesh.Prefix]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make(map[mesh.Prefix]string, len(r.carriers))
	for prefix, peer := range r.carriers {
		all[prefix] = peer
	}
	return all
}

// carries tells whether a peer carries a shared prefix. r.mu is held.
func (r *Registry) carries(peer string) bool {
	for _, carrier := range r.carriers {
		if carrier == peer {
			return true
		}
	}
	return false
}

// Carries tells whether a shared prefix goes by a peer.
func (r *Registry) Carries(peer string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.carries(peer)
}
