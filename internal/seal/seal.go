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
//	switchover  who encrypts, while a mesh of bare packets goes over to it. Pure
//
// A plan may also ask to be ready for that (Wanted.Prepared): the interface is there and takes packets, and
// this host's own take the way of the engine.
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
	"example.org/meshd/internal/link"
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
	// Prepared: packets are taken encrypted, and leave bare. Network is what they are for then.
	Prepared bool
	Network  []netip.Prefix
}

// isPrepared tells whether packets leave bare.
func (w *Wanted) isPrepared() bool { return w != nil && w.Prepared }

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
	dataplane.Drainer
	dataplane.Keeper
	dataplane.Loader
	dataplane.FlowCounter
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

	switching bool // the next Prepare ends the time of being prepared. Of the owner alone
}

// Around returns an Engine around another one. hear is asked about probes that come in by the tunnel.
func Around(inner Inner, o Options, hear dataplane.EchoHandler) *Engine {
	e := &Engine{Inner: inner, Keeper: newKeeper(o)}
	e.Keeper.brought = func() { e.ask.Look() }
	e.ask = ask.New(ask.Options{Log: o.Log, Interface: wireguard.Interface, Hear: e.hearing(hear),
		Heard: e.Keeper.heard})
	return e
}

// Prepare implements dataplane.Engine. Where this node was prepared, bare packets of peers that have not
// followed yet are taken for a while.
func (e *Engine) Prepare(ctx context.Context, w dataplane.Wanted) (undo func() error, err error) {
	begins := w.Sealed && e.switching && !e.sealed.Load()
	var lag []string
	if begins { // before the engine is sealed, so that it drops none of them
		var others []string
		for p := range w.Mesh.Others() {
			others = append(others, p.Name)
		}
		lag = e.shift.begin(others, e.Inner.Heard, time.Now())
		e.tellLags(lag, true)
	}
	back, err := e.Inner.Prepare(ctx, w)
	if err != nil {
		if begins {
			e.tellLags(e.shift.cancel(), false)
		}
		return nil, err
	}
	before := e.sealed.Swap(w.Sealed)
	if begins {
		e.o.Log.Info("packets leave encrypted from now on, and bare ones of peers that have not followed are taken",
			"lagging", len(lag), "for", lagMost, "event", "switched")
	}
	if begins || !w.Sealed {
		e.switching = false
	}
	if !w.Sealed {
		e.tellLags(e.shift.cancel(), false)
	}
	return func() error {
		e.sealed.Store(before)
		err := back()
		if begins {
			e.tellLags(e.shift.cancel(), false)
		}
		return err
	}, nil
}

// Encrypt has the interface brought to what is wanted; nil: there is to be none. It returns once that is
// done, or has failed: what failed is a Condition, and is tried again, while nothing leaves bare. Undo goes
// back to what was wanted before. While the daemon is ending nothing is done, which is no error.
func (e *Engine) Encrypt(ctx context.Context, w *Wanted) (undo func()) {
	before, ok := e.Keeper.want(ctx, w)
	if !ok {
		return func() {}
	}
	e.follow(w)
	if e.switching = Switches(before, w); e.switching {
		e.drain(ctx)
	}
	return func() {
		e.switching = false
		e.Keeper.want(context.WithoutCancel(ctx), before)
		e.follow(before)
	}
}

// Switches tells whether a node that was prepared encrypts next. Then its packets have to take the way of the
// interface before the engine is sealed, and none is lost; in all other cases the engine is sealed first.
func Switches(before, next *Wanted) bool {
	return before != nil && before.Prepared && next != nil && !next.Prepared
}

// drainMost bounds how long packets are waited for that were routed to the TUN.
const drainMost = 2 * time.Second

// drain waits until the engine has forwarded what was routed to the TUN before the interface had its routes.
func (e *Engine) drain(ctx context.Context) {
	link.Settled()
	ctx, cancel := context.WithTimeout(ctx, drainMost)
	defer cancel()
	if err := e.Inner.Drained(ctx); err != nil {
		e.o.Log.Warn("packets that wait in the TUN are dropped: they would leave bare", "error", err,
			"event", "warning")
	}
}

// follow has probes travel between the addresses of the TUNs.
func (e *Engine) follow(w *Wanted) {
	if w == nil {
		e.ask.Set(mesh.Mesh{})
		e.shift.keep(nil)
		return
	}
	m, names := mesh.Mesh{Self: w.Self.Name, Peers: []mesh.Peer{w.Self}}, map[string]bool{}
	for _, p := range w.Peers {
		m.Peers, names[p.Name] = append(m.Peers, p.Peer), true
	}
	e.shift.keep(names)
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

// Ask is a task: it hears probes inside the tunnel.
func (e *Engine) Ask(ctx context.Context) error { return e.ask.Run(ctx) }

// Sealed tells whether packets travel encrypted, or not at all.
func (e *Engine) Sealed() bool { return e.sealed.Load() }
