// Package peers holds what is known of each peer and the one Directive that follows from it. It is
// pure: it does no I/O and reads no clock; whoever learns something reports it with its time.
//
//	probe, engine --> Registry.Report --> Facts --> Directive --> Engine.Learn
//	engine        --> Facts.Hear      --> Facts: do the host's own rules let the peer in? See handover
//
// A new fact about one peer, such as the MTU of its path or the address at which it answers, is a
// field of Facts; what engines have to do about it is a field of Directive and one case of follow.
package peers

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"example.org/meshd/internal/mesh"
)

// A State is how a peer is. Its words are part of the API.
type State string

// The states.
const (
	Unknown State = "unknown" // nothing was heard lately, and the peer is not asked
	Up      State = "up"
	Stale   State = "stale"   // it has not answered for some probes
	Silent  State = "silent"  // its packets arrive, but its meshd does not answer
	OneWay  State = "one-way" // its meshd is heard, but this node does not reach it
	Down    State = "down"
)

// Facts is what is known of one peer.
type Facts struct {
	State State     // as probes tell it; Unknown if the peer is not asked
	Asked bool      // probes ask it
	Heard time.Time // when the last acceptable packet came; zero if none did
	Meshd bool      // it answers as meshd does, not as flannel or a bare kernel
	Met   bool      // it was up since this meshd started

	Version string // of its meshd, as it says; empty: not known
	File    string // names the meaning of its file, the first digits of a hash; empty: not known

	FileSince time.Time // when it told of File first

	Recent   Loss  // of plain probes
	Loses    Loses // what of pods' packets it does not get
	Path     PathMTU
	NotHeard bool // it tells that it does not hear this node

	// Forbidden tells that this host refused to send the last probe to it (EPERM): a rule in OUTPUT,
	// which programs would bypass, is about the peer.
	Forbidden bool

	// Addresses are those of a peer that has several, in order of preference.
	Addresses []Address
	via       netip.AddrPort // the one that packets go to
	// Silent tells that the peer was found silent within seconds, and has not answered since.
	Silent bool
	// Lagging tells that this node encrypts since a moment ago, and the peer has not said that it does.
	Lagging bool
	// Drain is what the peer tells of its maintenance; nil: it is in none. It is never changed.
	Drain     *mesh.Drain
	wellSince time.Time // zero: it is not up, or in maintenance

	handover
}

// heardLately is how long after its last packet a peer counts as up, where it is not asked.
const heardLately = 10 * time.Second

// StateAt returns how the peer is at a time: as probes tell it, or else by what was heard.
func (f Facts) StateAt(now time.Time) State { return f.stateAt(now) }

// stateAt is StateAt without a copy, for all of thousands of peers.
func (f *Facts) stateAt(now time.Time) State {
	switch {
	case f.Asked && f.State != "":
		return f.State
	case !f.Asked && !f.Heard.IsZero() && now.Sub(f.Heard) < heardLately:
		return Up
	}
	return Unknown
}

// Conclude decides again what follows from facts that have changed: to which address packets go, and since
// when the peer is well. It is for an update of a Report.
func (f *Facts) Conclude(now time.Time) {
	f.choose(now)
	switch {
	case f.State != Up || f.fitness() != well:
		f.wellSince = time.Time{}
	case f.wellSince.IsZero():
		f.wellSince = now
	}
}

// Names notes by which name a peer told of its file at a time. It is for an update of a Report.
func (f *Facts) Names(file string, now time.Time) {
	if f.File != file {
		f.File, f.FileSince = file, now
	}
}

// Fails tells whether probes ask the peer and do not reach it. A peer that has not had the time to answer
// does not fail yet.
func (f Facts) Fails() bool {
	return f.Asked && f.State != "" && f.State != Unknown && f.State != Up
}

// Maintained tells whether the peer has announced a maintenance that is not over.
func (f Facts) Maintained(now time.Time) bool { return f.Drain != nil && !f.Drain.Ended(now) }

// Registry knows the facts of all peers. Its methods may be called by several goroutines at once.
type Registry struct {
	mu    sync.Mutex
	own   OwnFile
	facts map[string]*Facts    // of the peers that something was reported of
	told  map[string]Directive // what engines were told last

	self     string // this node
	shares   []mesh.Share
	carriers map[mesh.Prefix]string // of the shared prefixes
	// narrow is what Narrow returns: of thousands of peers few are in it.
	narrow map[string]int
}

// New returns a Registry that knows nothing.
func New() *Registry {
	return &Registry{facts: map[string]*Facts{}, told: map[string]Directive{}, narrow: map[string]int{}}
}

// Report changes the facts of one peer by an update, which must not call the Registry. It returns
// the directive that follows, and whether engines have to learn it: after the first report always,
// since tables that an earlier meshd left may say something else.
func (r *Registry) Report(peer string, update func(*Facts)) (d Directive, news bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.facts[peer]
	if f == nil {
		f = &Facts{}
		r.facts[peer] = f
	}
	addresses := f.Addresses
	update(f)
	f.meet(addresses)
	f.Met = f.Met || f.State == Up
	if limit := f.Path.limit(); limit > 0 {
		r.narrow[peer] = limit
	} else {
		delete(r.narrow, peer)
	}
	d = follow(*f)
	was, known := r.told[peer]
	r.told[peer] = d
	return d, !known || was != d
}

// follow says what engines have to do about facts.
func follow(f Facts) Directive {
	return Directive{
		Finishes: f.Meshd, OutByUser: f.Loses.NoChecksum || f.Forbidden,
		InBySocket: f.handed && f.unanswered(), MTU: f.Path.limit(), Via: f.directed(),
		Lagging: f.Lagging}
}

// Use tells which file is in force on this node from now on. A file of the same names changes nothing.
func (r *Registry) Use(names []string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.own.Names, names) {
		r.own = OwnFile{Names: names, Since: now}
	}
}

// Own returns which file is in force on this node.
func (r *Registry) Own() OwnFile {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.own
}

// Of returns the facts of one peer.
func (r *Registry) Of(peer string) Facts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return *r.of(peer)
}

// of returns the facts of one peer, which are not to be changed. r.mu is held.
func (r *Registry) of(peer string) *Facts {
	if f := r.facts[peer]; f != nil {
		return f
	}
	return &Facts{}
}

// Fails tells whether probes ask a peer and do not reach it.
func (r *Registry) Fails(peer string) bool { return r.Of(peer).Fails() }

// Narrow returns what the path to peers carries, in bytes, where it is less than the interface does.
func (r *Registry) Narrow() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.narrow)
}

// Keep forgets peers that are not among names: one that comes back is a new one.
func (r *Registry) Keep(names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	stay := 0
	for _, name := range names {
		if _, known := r.facts[name]; known {
			stay++
		}
	}
	if stay == len(r.facts) { // as after most edits: names are different ones
		return
	}
	kept := make(map[string]bool, len(names))
	for _, name := range names {
		kept[name] = true
	}
	for name := range r.facts {
		if !kept[name] {
			delete(r.facts, name)
			delete(r.told, name)
			delete(r.narrow, name)
		}
	}
}

// Count returns how many of the peers are in a state at a time.
func (r *Registry) Count(state State, now time.Time) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.facts {
		if f.stateAt(now) == state {
			n++
		}
	}
	return n
}
