// Package known gathers what is known of peers: it asks them how they are, reports the answers to the
// registry, and has the engine learn what follows from them.
package known

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/forms"
	"example.org/meshd/internal/health"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/news"
	"example.org/meshd/internal/peers"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/probe"
	"example.org/meshd/internal/steer"
	"example.org/meshd/internal/words"
)

// An Engine carries probes, and learns what they find.
type Engine interface {
	dataplane.Echoer
	Learn(peer string, d peers.Directive) error
	Carry(prefix mesh.Prefix, peer string) error
}

// Probes asks all peers how they are, reports what has changed to the registry, and has the engine
// learn what follows from it. Its methods may be called from any goroutine, but for Apply, Follow and Run,
// which have one caller each. Engine and Narrow are set before the first plan.
type Probes struct {
	*probe.Prober
	Engine Engine
	Narrow func(paths map[int][]netip.Prefix) // takes what paths carry

	log      *slog.Logger
	version  string
	registry *peers.Registry
	steer    *steer.Steerer
	set      chan struct{} // settings have changed
	forms    forms.Sender
	news     *news.Peers
	plan     atomic.Pointer[plan.Plan] // in force; nil: there is none yet
}

// New returns probes that report to a registry, without an engine yet. Hear takes the echoes of the engine.
func New(log *slog.Logger, version string, registry *peers.Registry) *Probes {
	p := &Probes{log: log, version: version, registry: registry, set: make(chan struct{}, 1),
		Narrow: func(map[int][]netip.Prefix) {}}
	p.Prober = probe.New(func(names []string) []time.Time {
		times := make([]time.Time, len(names))
		for i, h := range p.Engine.HeardBy(names...) {
			times[i] = h.Latest()
		}
		return times
	})
	p.news = news.NewPeers(log, func(peer string) (probe.Self, bool) {
		r, ok := p.Report(peer)
		return r.Told, ok
	})
	p.steer = steer.New(log, registry, p.Prober, func() steer.Engine { return p.Engine })
	return p
}

// Hear answers echoes of peers. It never waits.
func (p *Probes) Hear(e dataplane.Echo, at time.Time) (reply []byte, mine bool) {
	return p.Answer(e.Peer, e.Via, e.Reply, e.Payload, at)
}

// AnswerForwarded answers a probe of a peer that this host has forwarded. It never waits.
func (p *Probes) AnswerForwarded(peer string, e packet.Echo) {
	if reply, mine := p.Answer(peer, netip.AddrPort{}, false, slices.Clone(e.Payload), time.Now()); mine &&
		reply != nil {
		// The peer counts an answer that cannot be sent.
		_ = p.Engine.SendEcho(dataplane.Echo{Peer: peer, Reply: true, ID: e.ID, Seq: e.Seq, Payload: reply})
	}
}

// Apply is the part of a plan: peers hear of its file, and are asked, once all parts are in force. The
// first file is named at once: packet loops may have questions to answer before the plan is in force
// whole, and a meshd that names no file would count as another program. undo goes back to what peers heard
// before; commit comes when all parts are in force.
func (p *Probes) Apply(next *plan.Plan) (undo func() error, commit func()) {
	before, self := p.Self(), selfOf(next, p.version)
	if before.Hash == ([32]byte{}) {
		p.Introduce(self)
	}
	return func() error { p.Introduce(before); return nil }, func() {
		p.Introduce(self)
		p.Follow(next)
	}
}

// selfOf is what peers are told of this node while a file is in force.
func selfOf(in *plan.Plan, version string) probe.Self {
	return probe.Self{Hash: in.Config.Sum, Meaning: probe.Meaning(in.Config.Meaning[:]), Version: version}
}

// Follow asks the peers of a plan from now on.
func (p *Probes) Follow(next *plan.Plan) {
	now, s := time.Now(), probe.Settings{Interval: next.Config.Probe.Interval,
		Via: map[string][]netip.AddrPort{}, Quick: next.Engine.Mesh.Carriers()}
	var all, lower []string // lower: to which this host sends less than the interface carries
	for peer := range next.Engine.Mesh.Others() {
		all = append(all, peer.Name)
		if next.MTUTo(peer) < next.Link.MTU {
			lower = append(lower, peer.Name)
		}
		if next.Peer.CanSpeakTo(peer) {
			s.Peers = append(s.Peers, peer.Name)
			s.Bounds = append(s.Bounds, forms.Bounds(next.Peer, peer, next.MTUTo(peer), next.Engine.Sealed))
			if via := next.Engine.Reachable(peer); len(via) > 1 {
				if s.Via[peer.Name] = via; next.Engine.Sealed { // WireGuard has one address of a peer at a time
					delete(s.Via, peer.Name)
					s.Quick[peer.Name] = true
				}
			}
		}
	}
	p.Seals(next.Engine.Sealed)
	p.forms.Configure(next.Config.Dataplane.Spread && !next.Engine.Sealed, next.Link.MTU)
	p.steer.Follow(next.Engine.Mesh, now)
	p.registry.Use(selfOf(next, p.version).Files(), now)
	if s.Interval == 0 {
		for _, name := range all {
			p.Learn(name, func(f *peers.Facts) {
				f.Asked, f.Loses, f.Addresses, f.Silent = false, peers.Loses{}, nil, false
			})
		}
	}
	// Of most peers a start has nothing to learn: the interface limits packets to them.
	for _, name := range append(p.Set(s), lower...) {
		r, _ := p.Report(name)
		p.Learn(name, func(f *peers.Facts) { p.forms.Update(f, r) })
	}
	p.plan.Store(next)
	p.tellPaths()
	select {
	case p.set <- struct{}{}:
	default: // Run has not heard of the settings before
	}
}

// tellPaths has the rules know what paths carry.
func (p *Probes) tellPaths() {
	if now := p.plan.Load(); now != nil {
		p.Narrow(now.Engine.Mesh.Behind(p.registry.Narrow()))
	}
}

// Learn reports a fact, and has all that follows from it done.
func (p *Probes) Learn(peer string, update func(*peers.Facts)) {
	p.steer.Learn(peer, time.Now(), update)
}

func (p *Probes) String() string { return "probes" }

// Heed decides again what time alone decides; see steer.Steerer. It is to be called every second.
func (p *Probes) Heed(at time.Time) { p.steer.Heed(at) }

// Waiting returns the nodes that may still send packets for shared prefixes to this one, which is in
// maintenance.
func (p *Probes) Waiting(m mesh.Mesh) (names []string) { return p.steer.Waiting(m) }

// Glance returns what probing knows of a peer, and learns what no probe.Change tells of. heard is when
// the last packet of the peer came.
func (p *Probes) Glance(peer string, heard, at time.Time) probe.Glance {
	return p.steer.Glance(peer, heard, at, p.forms.Update)
}

// Run implements task.Task.
func (p *Probes) Run(ctx context.Context) error {
	for {
		questions, changes := p.Work(time.Now())
		p.ask(questions)
		p.tell(changes)
		if len(questions) >= probe.Batch {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(p.news.Wait(time.Now(), p.Wait())):
		case <-p.Woken():
		case <-p.set:
		}
	}
}

// ask sends questions, in the forms that pods' packets have.
func (p *Probes) ask(questions []probe.Question) {
	if trait, news := p.forms.Trait(p.Engine, time.Now()); news {
		p.Differ(trait)
	}
	unsent, err := p.forms.Send(p.Engine, questions)
	for _, q := range unsent {
		p.Unsent(q)
	}
	if err != nil {
		p.log.Debug("not all probes could be sent", "error", err)
	}
	p.steer.Forbidden(questions, err, time.Now())
}

// tell reports and logs what has changed.
func (p *Probes) tell(changes []probe.Change) {
	now := time.Now()
	for _, c := range changes {
		r, _ := p.Report(c.Peer)
		p.Learn(c.Peer, func(f *peers.Facts) {
			f.Asked, f.State = true, peers.State(r.State.String())
			p.forms.Update(f, r)
			if c.Told != nil || c.New == probe.Up {
				f.Meshd, f.Version = r.Told.Hash != ([32]byte{}), r.Told.Version
				f.Names(r.Told.File(), now)
			}
		})
	}
	if slices.ContainsFunc(changes, func(c probe.Change) bool { return c.Forms }) {
		p.tellPaths()
	}
	p.news.Tell(changes, p.Self(), now)
}

// Fill adds what probing knows of a peer to its status, and returns it. in is the plan in force.
func (p *Probes) Fill(status *control.Peer, in *plan.Plan) probe.Report {
	r, ok := p.Report(status.Name)
	if ok {
		words.Probed(status, r, selfOf(in, p.version), in.Config.Probe.Interval > 0)
	}
	return r
}

// Causes adds what is wrong with the peers of a plan to what was found, and puts causes before effects.
func (p *Probes) Causes(in *plan.Plan, all []mesh.Condition) []mesh.Condition {
	at, ours := time.Now(), p.registry.Own()
	for i := range in.Engine.Mesh.Peers {
		if name := in.Engine.Mesh.Peers[i].Name; name != in.Self.Name {
			all = append(all, p.registry.Of(name).Conditions(name, ours, at)...)
		}
	}
	if !slices.ContainsFunc(all, func(c mesh.Condition) bool { return c.Peer != "" }) {
		return all
	}
	others := make([]health.Peer, 0, len(in.Engine.Mesh.Peers))
	for i := range in.Engine.Mesh.Peers {
		peer := &in.Engine.Mesh.Peers[i]
		if peer.Name == in.Engine.Mesh.Self {
			continue
		}
		f := p.registry.Of(peer.Name)
		others = append(others, health.Peer{Name: peer.Name, Underlay: peer.Underlay().AddrPort,
			Version: f.Version, File: f.File, Met: f.Met, Maintained: f.Maintained(at)})
	}
	return health.Causes(all, others)
}
