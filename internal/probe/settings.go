package probe

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// This file says which peers are followed, at which addresses, and how often each is asked.

// Settings is which peers are asked, and how often.
type Settings struct {
	Peers    []string
	Interval time.Duration // between two questions to a peer; 0: no probes
	Bounds   []Bounds      // of Peers, in their order; none: neither large nor forwarded probes
	// Via are the addresses of peers that have several, in order of preference. Each is asked; the first
	// is the one in use until Prefer says something else.
	Via map[string][]netip.AddrPort
	// Quick are peers of one address whose silence has to be noticed within seconds, too, since other peers
	// can take their place.
	Quick map[string]bool
}

// sameButBounds tells whether peers and their addresses are asked as with other settings.
func (s Settings) sameButBounds(o Settings) bool {
	return s.Interval == o.Interval && slices.Equal(s.Peers, o.Peers) &&
		maps.EqualFunc(s.Via, o.Via, slices.Equal) && maps.Equal(s.Quick, o.Quick)
}

// bounds returns those of a peer, by its index.
func (s Settings) bounds(i int) (b Bounds) {
	if i < len(s.Bounds) {
		b = s.Bounds[i]
	}
	return b
}

// Set replaces the settings. Peers and addresses that stay keep their state, unless probing is turned on
// or off. New peers are asked first. It returns the peers that stay and to which packets have another
// size from now on.
func (p *Prober) Set(s Settings) (resized []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := *p.peers.Load()
	before := p.settings
	if p.settings = s; s.Interval > 0 && s.sameButBounds(before) { // as after most edits of a file
		for i, name := range s.Peers {
			if old[name].set(s.Interval, s.bounds(i)) {
				resized = append(resized, name)
			}
		}
		return resized
	}
	if s.Interval == 0 || p.interval == 0 {
		old = nil
	}
	peers, fresh, stays := make(map[string]*peer, len(s.Peers)), []*path{}, map[*path]bool{}
	for i, name := range s.Peers {
		before := old[name]
		one := newPeer(name, s.Via[name], s.Quick[name], before)
		for _, to := range one.paths {
			if before.has(to) {
				stays[to] = true
			} else {
				fresh = append(fresh, to)
			}
		}
		if one.set(s.Interval, s.bounds(i)) && before != nil {
			resized = append(resized, name)
		}
		peers[name] = one
	}
	all := fresh
	for i := range p.rings {
		for _, to := range p.rings[i].turned() {
			if stays[to] {
				all = append(all, to)
			}
		}
	}
	p.peers.Store(&peers)
	p.interval = s.Interval
	p.arrange(all)
	return resized
}

// arrange puts paths into the rings.
func (p *Prober) arrange(all []*path) {
	credit := [numRings]float64{}
	for i := range p.rings {
		credit[i] = p.rings[i].credit
	}
	p.rings = [numRings]ring{
		usualRing: {period: p.interval, credit: credit[usualRing]},
		quickRing: {period: min(p.interval, quickPeriod), credit: credit[quickRing]},
	}
	if p.interval > 0 {
		p.rings[rareRing] = ring{period: max(p.interval, rarePeriod), credit: credit[rareRing]}
	}
	peers := *p.peers.Load()
	for _, to := range all {
		to.ring = peers[to.name].ringOf(to)
		r := &p.rings[to.ring]
		r.order = append(r.order, to)
	}
}

// place puts a path into another ring if it is to be asked more or less often.
func (p *Prober) place(of *peer, to *path) {
	if want := of.ringOf(to); want != to.ring {
		p.rings[to.ring].remove(to)
		to.ring = want
		p.rings[want].order = append(p.rings[want].order, to)
	}
}

// Prefer tells which address of a peer packets go to. The zero value is the first.
func (p *Prober) Prefer(name string, via netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := (*p.peers.Load())[name]
	if one == nil {
		return
	}
	before, next := one.inUse(), one.paths[0]
	if via.IsValid() {
		next = one.at(via)
	}
	if next == before {
		return
	}
	next.use(before)
	one.active.Store(int32(slices.Index(one.paths, next)))
	for _, to := range one.paths {
		p.place(one, to)
	}
	p.tell(next)
}
