package probe

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"example.org/meshd/internal/mesh"
)

// peer is one node with the paths to it, one for each of its addresses.
type peer struct {
	name   string
	quick  bool                       // its silence has to be noticed within seconds
	paths  []*path                    // in order of preference; at least one. Never changed
	via    []netip.AddrPort           // the address of each; the zero value: the only one
	active atomic.Int32               // the index of the path that packets take
	drain  atomic.Pointer[mesh.Drain] // what the peer says of its maintenance; nil: it is in none
	vague  atomic.Bool                // an answer tells of a maintenance, and no question has yet
	given  *allowance                 // of answers; shared with the peer before
}

// onlyAddress is that of a peer with one address. It is never changed: all of them share it.
var onlyAddress = []netip.AddrPort{{}}

// newPeer returns a peer with paths to some addresses; without any, to the only one. It takes over the
// paths of the peer before, which may be nil, to the same addresses.
func newPeer(name string, via []netip.AddrPort, quick bool, before *peer) *peer {
	p := &peer{name: name, quick: quick || len(via) > 1, via: via, given: &allowance{}}
	if before != nil {
		p.given = before.given
	}
	if len(via) == 0 {
		p.via = onlyAddress
	}
	stays := false // the path in use
	for i, to := range p.via {
		one := before.to(to)
		switch {
		case one != nil && !slices.Contains(p.paths, one):
		case i == 0 && before != nil && (len(p.via) == 1 || len(before.paths) == 1):
			one = before.inUse() // the only address has another value, or is one of several now
		default:
			one = &path{name: name}
		}
		if before != nil && one == before.inUse() {
			stays = true
			p.active.Store(int32(i))
		}
		p.paths = append(p.paths, one)
	}
	if before != nil {
		p.drain.Store(before.drain.Load())
	}
	if before != nil && !stays {
		p.paths[0].use(before.inUse())
	}
	return p
}

// set gives the paths other settings, and tells whether packets to the peer have another size from now on.
func (p *peer) set(interval time.Duration, b Bounds) (resized bool) {
	for i, one := range p.paths {
		active := i == int(p.active.Load())
		if one.set(p.via[i], interval, b, p.quick, active) && active {
			resized = true
		}
	}
	return resized
}

// has tells whether a path is one to the peer, which may be nil.
func (p *peer) has(one *path) bool { return p != nil && slices.Contains(p.paths, one) }

// to returns the path to an address; nil without one.
func (p *peer) to(via netip.AddrPort) *path {
	if p == nil {
		return nil
	}
	if i := slices.Index(p.via, via); i >= 0 {
		return p.paths[i]
	}
	return nil
}

// inUse returns the path that packets take.
func (p *peer) inUse() *path { return p.paths[p.active.Load()] }

// at returns the path to an address; the one in use if there is no such.
func (p *peer) at(via netip.AddrPort) *path {
	if one := p.to(via); one != nil {
		return one
	}
	return p.inUse()
}

// tells returns the flags that are for this peer alone.
func (p *peer) tells() (f Flags) {
	if p.drain.Load() != nil {
		f |= Aware
	}
	for _, one := range p.paths {
		if one.hears() {
			return f
		}
	}
	return f | Unheard
}

// answered notes an answer, see path.answered. The nonce tells which path was asked.
func (p *peer) answered(said payload, at time.Time) (one *path, look bool) {
	for _, one := range p.paths {
		if one.knows(said.nonce) {
			return one, one.answered(said, at)
		}
	}
	for _, one := range p.paths {
		one.stray(said.nonce, at)
	}
	return nil, false
}

// ringOf returns in which ring a path is asked.
func (p *peer) ringOf(one *path) uint8 {
	active := int(p.active.Load())
	at := slices.Index(p.paths, one)
	switch {
	case at != active && one.rests(at < active) && !p.inUse().isSilent():
		return rareRing
	case p.quick:
		return quickRing
	}
	return usualRing
}

// reports returns what is known of each path of a peer that has several.
func (p *peer) reports() (all []PathReport) {
	if len(p.paths) < 2 {
		return nil
	}
	for _, one := range p.paths {
		all = append(all, one.pathReport())
	}
	return all
}

// A PathReport is what is known of one address of a peer that has several.
type PathReport struct {
	Via      netip.AddrPort
	State    State
	Silent   bool      // while packets went there, it was found silent, and has not answered since
	Good     time.Time // since when it answers all questions; zero: it does not
	Answered time.Time // of the last answer; zero if none came
	Figures  Figures
	Active   bool // packets go there
}
