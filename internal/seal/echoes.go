package seal

import (
	"errors"
	"time"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
	"example.org/meshd/internal/probe"
)

// This file has probes take the way of pods' packets: inside the tunnel if this node is sealed, and else the
// way by which the peer sends its own. A peer that is sealed drops bare ones.

// inside tells whether probes of a peer go inside the tunnel.
func (e *Engine) inside(peer string) bool {
	return e.sealed.Load() || e.shift.inside(peer, e.Inner.Heard)
}

// hearing returns what hears probes inside the tunnel: what a peer says there of itself is true.
func (e *Engine) hearing(hear dataplane.EchoHandler) dataplane.EchoHandler {
	return func(one dataplane.Echo, at time.Time) (reply []byte, mine bool) {
		if flags, ok := probe.FlagsOf(one.Payload, one.Reply); ok { // before hear makes the answer of it
			e.shift.says(one.Peer, flags.Has(probe.Sealed), at)
		}
		return hear(one, at)
	}
}

// SendEcho implements dataplane.Echoer.
func (e *Engine) SendEcho(es ...dataplane.Echo) error {
	inside, some := make([]bool, len(es)), 0
	for i := range es {
		if inside[i] = e.inside(es[i].Peer); inside[i] {
			some++
		}
	}
	switch some {
	case 0:
		return e.Inner.SendEcho(es...)
	case len(es):
		return e.ask.SendEcho(es...)
	}
	var ways [2][]dataplane.Echo // bare, inside
	var places [2][]int          // of each, among es
	for i, one := range es {
		way := 0
		if inside[i] {
			way = 1
		}
		ways[way], places[way] = append(ways[way], one), append(places[way], i)
	}
	var errs []error
	for way, by := range [2]dataplane.Echoer{e.Inner, e.ask} {
		if len(ways[way]) > 0 {
			errs = append(errs, placed(by.SendEcho(ways[way]...), ways[way], places[way]))
		}
	}
	return errors.Join(errs...)
}

// placed returns an error about some Echoes as one about those of a larger call, with their places there.
func placed(err error, some []dataplane.Echo, places []int) error {
	if err == nil {
		return nil
	}
	var errs []error
	for _, one := range dataplane.EchoErrors(err, some) {
		errs = append(errs, &dataplane.EchoError{Peer: one.Peer, Index: places[one.Index], Err: one.Err})
	}
	return errors.Join(errs...)
}

// Heard implements dataplane.Echoer.
func (e *Engine) Heard(peer string) time.Time {
	last := e.Inner.Heard(peer)
	if e.inside(peer) {
		if at := e.ask.Heard(peer); at.After(last) {
			return at
		}
	}
	return last
}

// HeardBy implements dataplane.Echoer.
func (e *Engine) HeardBy(names ...string) []peers.Heard {
	all := e.Inner.HeardBy(names...)
	for i, name := range names {
		if e.inside(name) {
			all[i] = peers.Heard{Socket: e.Heard(name)}
		}
	}
	return all
}

// Leaving implements dataplane.Echoer.
func (e *Engine) Leaving() dataplane.Leaving {
	if e.sealed.Load() {
		return e.ask.Leaving()
	}
	return e.Inner.Leaving()
}

// Read implements dataplane.Engine. WireGuard counts messages and not packets: their bytes, when a peer was
// heard, and what the kernel dropped, is all that it adds to what the engine has counted.
func (e *Engine) Read() dataplane.Reading {
	r := e.Inner.Read()
	e.Keeper.refused.add(&r.Totals)
	told, sealed := e.Keeper.told.Load(), r.Sealed()
	for name, traffic := range r.Peers {
		inside := e.inside(name)
		if !sealed && !inside {
			continue
		}
		if inside {
			traffic.LastSeen = e.Heard(name)
		}
		// Of a peer behind another one WireGuard has no counters: they are with those of the relay.
		if is, known := told.Peers[name]; sealed && known && is.Relay == "" {
			traffic.Messages = mesh.Messages{Rx: is.Received, Tx: is.Sent, Known: true}
			r.Totals.Add(mesh.Traffic{Messages: traffic.Messages})
		}
		r.Peers[name] = traffic
	}
	return r
}
