// Package steer has the engine and the probes follow what is decided about peers: by which engine a
// peer's packets move, to which of its addresses they go, and which peer carries a shared prefix.
//
//	what was learned --> peers.Registry --> Directive, Move --> Engine.Learn, Engine.Carry, Prober.Prefer
package steer

import (
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/news"
	"example.org/meshd/internal/peers"
	"example.org/meshd/internal/probe"
)

// An Engine is what of a dataplane.Engine is steered.
type Engine interface {
	Learn(peer string, d peers.Directive) error
	Carry(prefix mesh.Prefix, peer string) error
	HeardBy(names ...string) []peers.Heard
}

// A Steerer follows the decisions of a registry. Its methods may be called from any goroutine.
type Steerer struct {
	registry *peers.Registry
	prober   *probe.Prober
	engine   func() Engine
	news     *news.Ways

	mu   sync.Mutex                // held while the engine is told, so that it hears things in their order
	via  map[string]netip.AddrPort // to which address packets go, of peers where that was another one
	self string                    // this node

	forbidden map[string]bool // the peers that this host did not send to last
}

// New returns a Steerer that logs what it does. engine is asked for when there is something to tell.
func New(log *slog.Logger, r *peers.Registry, p *probe.Prober, engine func() Engine) *Steerer {
	return &Steerer{registry: r, prober: p, engine: engine, news: news.NewWays(log),
		via: map[string]netip.AddrPort{}, forbidden: map[string]bool{}}
}

// Learn reports a fact about a peer, and has the engine and the probes follow.
func (s *Steerer) Learn(peer string, now time.Time, update func(*peers.Facts)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, changed := s.registry.Report(peer, func(f *peers.Facts) {
		update(f)
		f.Conclude(now)
	})
	if changed {
		_ = s.engine().Learn(peer, d) // the engine has said so, and user space serves the peer
	}
	if before := s.via[peer]; before != d.Via {
		s.via[peer] = d.Via
		s.prober.Prefer(peer, d.Via)
		s.news.Left(peer, before, d.Via, now)
	}
	s.carry(now)
}

// carry has the engine follow which peers carry shared prefixes. s.mu is held.
func (s *Steerer) carry(now time.Time) {
	moves := s.registry.Carry(now)
	for _, m := range moves {
		_ = s.engine().Carry(m.Prefix, m.To) // as of Learn
		s.news.Moved(m, now)
	}
	if len(moves) > 0 {
		s.tell()
	}
}

// tell has other nodes know whether they carry a shared prefix for this one. s.mu is held.
func (s *Steerer) tell() {
	carriers := map[string]bool{}
	for _, peer := range s.registry.Carriers() {
		if peer != s.self {
			carriers[peer] = true
		}
	}
	s.prober.Send(carriers)
}

// Follow takes over the mesh of a plan: which nodes there are, and which prefixes are shared.
func (s *Steerer) Follow(m mesh.Mesh, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	stay := map[string]bool{}
	for p := range m.Others() {
		names, stay[p.Name] = append(names, p.Name), true
	}
	s.registry.Keep(names)
	maps.DeleteFunc(s.via, func(peer string, _ netip.AddrPort) bool { return !stay[peer] })
	maps.DeleteFunc(s.forbidden, func(peer string, _ bool) bool { return !stay[peer] })
	s.self = m.Self
	s.registry.Share(m.Shares, m.Self)
	for prefix, peer := range s.registry.Carriers() {
		_ = s.engine().Carry(prefix, peer)
	}
	s.tell()
	s.carry(now)
}

// Waiting returns the nodes that may still send packets for shared prefixes to this one, which is in
// maintenance: those that are up, and have not said that they know of it and send none.
func (s *Steerer) Waiting(m mesh.Mesh) (names []string) {
	shares := func(one mesh.Share) bool { return one.Has(m.Self) }
	if !slices.ContainsFunc(m.Shares, shares) {
		return nil
	}
	for peer := range m.Others() {
		r, ok := s.prober.Report(peer.Name)
		if ok && r.State == probe.Up && r.Told.Hash != ([32]byte{}) && (!r.Aware || r.Sends) {
			names = append(names, peer.Name)
		}
	}
	return names
}

// Heed decides again what time alone decides: whether the host's own rules let peers in, and whether
// packets go back to an address or a carrier that is preferred. It is to be called every second.
func (s *Steerer) Heed(now time.Time) {
	unheard := s.registry.Unheard()
	heard := s.engine().HeardBy(unheard...)
	for _, i := range s.registry.Heed(now, unheard, heard) {
		s.Learn(unheard[i], now, func(f *peers.Facts) { f.Hear(now, heard[i]) })
	}
	for _, name := range s.registry.Unsettled() {
		s.Learn(name, now, func(*peers.Facts) {})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.carry(now)
	s.news.Tell(now)
}

// Glance looks at a peer, and learns what no probe.Change tells of. heard is when the last packet of the peer
// came, which decides where probes know nothing; update takes a report over. To learn something of each of
// thousands of peers every second would cost more than their probes do.
func (s *Steerer) Glance(
	peer string, heard, now time.Time, update func(*peers.Facts, probe.Report),
) probe.Glance {
	g, asked := s.prober.Glance(peer)
	if asked && !g.News && (g.State != probe.Unknown || heard.IsZero()) {
		return g
	}
	r, _ := s.prober.Report(peer)
	s.Learn(peer, now, func(f *peers.Facts) {
		if f.Heard = heard; asked {
			update(f, r)
		}
	})
	return g
}

// Forbidden reports which of some questions this host did not let out. Other peers are left alone: until
// something is known of a peer, tables of an earlier meshd stay as they are.
func (s *Steerer) Forbidden(questions []probe.Question, err error, at time.Time) {
	refused := dataplane.Refused(err)
	for _, q := range questions {
		if now := slices.Contains(refused, q.Peer); s.forbids(q.Peer, now) {
			s.Learn(q.Peer, at, func(f *peers.Facts) { f.Forbidden = now })
		}
	}
}

// forbids notes whether this host refuses to send to a peer, and tells whether that is news.
func (s *Steerer) forbids(peer string, now bool) (news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.forbidden[peer] == now {
		return false
	}
	if delete(s.forbidden, peer); now {
		s.forbidden[peer] = true
	}
	return true
}
