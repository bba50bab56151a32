// Package seal has packets travel encrypted. It stands around an engine: while a plan asks for encryption,
// probes travel inside the tunnel, and what is learned of peers is done to the interface of WireGuard, too.
// Nobody above can tell.
//
//	Wanted    what a plan asks for
//	Keeper    brings the interface to it, and keeps it so: keys, port, peers, addresses, routes
//	desired   from Wanted and what was learned to what each peer may send, and which routes lead there. Pure
//	refused   what the kernel dropped of what peers send
//	caller    at which of its addresses a peer is called. Pure
//	rotate    which of its two keys a peer uses, while it changes them
//	Engine    an engine whose echoes and directives follow
//
// Encryption fails closed. The engine is the floor below the interface: the TUN has a route for the whole
// network, and the engine drops what falls into it.
package seal

import (
	"context"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"example.org/meshd/internal/ask"
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
	"example.org/meshd/internal/wireguard"
)

// Wanted is what a plan asks for. It is a value that is never changed.
type Wanted struct {
	Self      mesh.Peer
	TUN       string // the floor
	Port      uint16 // UDP
	KeyFile   string // path of the private key
	MTU       int    // of the interface, bytes
	Keepalive time.Duration
	Peers     []Peer
	Shares    []mesh.Share
	Backstops []netip.Prefix // all that must never leave bare
}

// A Peer is one other node.
type Peer struct {
	mesh.Peer
	// Endpoints are where it is called, in order of preference; none: it calls in, and is answered where its
	// packets come from.
	Endpoints []netip.AddrPort
	// Relay is the peer by which packets to it go, and from it come; empty: none is between.
	Relay string
}

// An Inner is the engine that an Engine stands around.
type Inner interface {
	dataplane.Engine
	dataplane.Echoer
	dataplane.Deliverer
	dataplane.Keeper
	dataplane.Loader
	Look()
	Close() error
}

// An Engine is an engine whose packets may travel encrypted. Its methods are those of dataplane, with the
// same rules.
type Engine struct {
	Inner
	*Keeper
	ask    *ask.Carrier
	sealed atomic.Bool
}

// Around returns an Engine around another one. hear is asked about probes that come in by the tunnel.
func Around(inner Inner, o Options, hear dataplane.EchoHandler) *Engine {
	e := &Engine{Inner: inner, Keeper: newKeeper(o)}
	e.Keeper.brought = func() { e.ask.Look() }
	e.ask = ask.New(ask.Options{Log: o.Log, Interface: wireguard.Interface, Hear: hear, Heard: e.Keeper.heard})
	return e
}

// Prepare implements dataplane.Engine.
func (e *Engine) Prepare(ctx context.Context, w dataplane.Wanted) (undo func() error, err error) {
	back, err := e.Inner.Prepare(ctx, w)
	if err != nil {
		return nil, err
	}
	before := e.sealed.Swap(w.Sealed)
	return func() error {
		e.sealed.Store(before)
		return back()
	}, nil
}

// Encrypt has the interface brought to what is wanted; nil: there is to be none. It returns once that is
// done, or has failed: what failed is a Condition, and is tried again, while nothing leaves bare. Undo goes
// back to what was wanted before.
func (e *Engine) Encrypt(ctx context.Context, w *Wanted) (undo func() error, err error) {
	before, err := e.Keeper.want(ctx, w)
	if err != nil {
		return nil, err
	}
	e.follow(w)
	return func() error {
		_, err := e.Keeper.want(context.WithoutCancel(ctx), before)
		e.follow(before)
		return err
	}, nil
}

// follow has probes travel between the addresses of the TUNs.
func (e *Engine) follow(w *Wanted) {
	if w == nil {
		e.ask.Set(mesh.Mesh{})
		return
	}
	m := mesh.Mesh{Self: w.Self.Name, Peers: []mesh.Peer{w.Self}}
	for _, p := range w.Peers {
		m.Peers = append(m.Peers, p.Peer)
	}
	e.ask.Set(m)
}

// Learn implements dataplane.Engine.
func (e *Engine) Learn(peer string, d peers.Directive) error {
	e.Keeper.learn(peer, d)
	return e.Inner.Learn(peer, d)
}

// Carry implements dataplane.Engine.
func (e *Engine) Carry(prefix mesh.Prefix, peer string) error {
	e.Keeper.carry(prefix, peer)
	return e.Inner.Carry(prefix, peer)
}

// Conditions implements dataplane.Engine.
func (e *Engine) Conditions() []mesh.Condition {
	return slices.Concat(e.Inner.Conditions(), e.Keeper.conditions(), e.ask.Conditions())
}

// echoer returns the way of probes: that of pods' packets.
func (e *Engine) echoer() dataplane.Echoer {
	if e.sealed.Load() {
		return e.ask
	}
	return e.Inner
}

// SendEcho implements dataplane.Echoer.
func (e *Engine) SendEcho(es ...dataplane.Echo) error { return e.echoer().SendEcho(es...) }

// Heard implements dataplane.Echoer.
func (e *Engine) Heard(peer string) time.Time { return e.echoer().Heard(peer) }

// HeardBy implements dataplane.Echoer.
func (e *Engine) HeardBy(peer string) peers.Heard { return e.echoer().HeardBy(peer) }

// Leaving implements dataplane.Echoer.
func (e *Engine) Leaving() dataplane.Leaving { return e.echoer().Leaving() }

// Read implements dataplane.Engine. WireGuard counts messages and not packets: when a peer was heard, and
// what the kernel dropped, is all that it adds to what the engine has counted.
func (e *Engine) Read() dataplane.Reading {
	r := e.Inner.Read()
	e.Keeper.refused.add(&r.Totals)
	if e.sealed.Load() {
		for name, traffic := range r.Peers {
			traffic.LastSeen = e.ask.Heard(name)
			r.Peers[name] = traffic
		}
	}
	return r
}

// Ask is a task: it hears probes inside the tunnel.
func (e *Engine) Ask(ctx context.Context) error { return e.ask.Run(ctx) }

// Sealed tells whether packets travel encrypted, or not at all.
func (e *Engine) Sealed() bool { return e.sealed.Load() }
