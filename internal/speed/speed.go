// Package speed measures what pods' packets get between this node and another one: throughput by the kernel's
// own TCP, and loss by UDP at a rate that the path carries. Nothing is sent unless somebody asks for it.
//
//	asker      the node where `meshd speed NODE` runs; it connects from its TUN address to the other's
//	answerer   NODE: its file has `[probe] speed = true`, or nothing listens there
//	way        one direction. First the asker sends, then the answerer does
//
// TCP and not a flood of datagrams: nearly all that pods send is TCP, it finds the speed of a path without
// being told, shares a link with the pods' own traffic, and takes the same way through offloads and merging.
// What TCP loses is how it finds its speed, so loss is measured by datagrams at half of it.
//
// Who may ask: the sockets are bound to the TUN's address and to the interface by which packets of nodes come
// in, where the engine, or WireGuard, has checked that a source address is behind its sender. TCP's handshake
// proves that the asker is where it says: a host that forges an address gets nothing sent to it but one SYN,
// ACK for a SYN. Datagrams begin with a token that the asker got over the connection, and go to its address
// alone. One measurement at a time takes part of a host, and each ends with the connection.
package speed

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/task"
)

// Port is the TCP port of all nodes.
const Port = 8287

// Bounds of a measurement.
const (
	MinTime = time.Second
	MaxTime = 30 * time.Second // both directions together
	DefTime = 10 * time.Second

	MinRate uint64 = 100_000 // bit/s
	MaxRate uint64 = 100_000_000_000
	DefRate uint64 = 1_000_000_000

	// answerTime is how long the other side has for each step that takes it no time.
	answerTime = 5 * time.Second
	// lookEvery is the time between two looks at the plan and the interface, neither of which tells news.
	lookEvery = time.Second
)

// Options is what a Keeper needs of others.
type Options struct {
	Log *slog.Logger
	// Plan returns the plan in force; nil: there is none.
	Plan func() *plan.Plan
	// Measured is told of a peer until when the link to it is full, so that probes that wait behind the load
	// are not taken for lost.
	Measured func(peer string, until time.Time)
}

// A Keeper measures, and answers. Its methods may be called from any goroutine.
type Keeper struct {
	o     Options
	slot  sync.Mutex // held while a measurement runs
	work  chan visit // has room for that of the slot
	scene atomic.Pointer[scene]
}

// A visit is an asker that waits for its answers. The slot is taken for it.
type visit struct {
	conn   *net.TCPConn
	peer   string
	device string
	size   int
}

// A pair is the TUN addresses of two nodes, of one family.
type pair struct{ own, peer netip.Addr }

// A scene is what follows from a plan. It is never changed.
type scene struct {
	plan   *plan.Plan
	opened bool // this node answers
	device string
	size   int                          // of datagrams' payload, bytes
	own    [2]netip.Addr                // IPv6 second; invalid: none
	peers  func() map[netip.Addr]string // by the TUN's addresses; made when the first one asks
}

// New returns a Keeper that does nothing until its tasks run, or it is asked.
func New(o Options) *Keeper { return &Keeper{o: o, work: make(chan visit, 1)} }

// Tasks returns what has to run for this node to answer: a listener for each family, and the answers.
func (k *Keeper) Tasks() []task.Task {
	return []task.Task{
		task.New("speed, IPv4", func(ctx context.Context) error { return k.listen(ctx, 0) }),
		task.New("speed, IPv6", func(ctx context.Context) error { return k.listen(ctx, 1) }),
		task.New("speed, answers", k.serve),
	}
}

// now returns the scene of the plan in force; nil without one.
func (k *Keeper) now() *scene {
	p, s := k.o.Plan(), k.scene.Load()
	if p == nil || s != nil && s.plan == p {
		return s
	}
	const headers = 40 + 8 // IPv6 and UDP
	s = &scene{plan: p, opened: p.Config.Probe.Speed, device: p.Device(),
		peers: sync.OnceValue(p.Engine.Mesh.ByTUN),
		own:   [2]netip.Addr{p.Peer.TUNAddress(false), p.Peer.TUNAddress(true)},
		size:  max(datagramHead, min(datagramSize, p.Link.MTU-headers))}
	k.scene.Store(s)
	return s
}

// to returns the addresses between which a peer is measured, of the first family that both nodes have; ok is
// false if there is no such peer.
func (s *scene) to(name string) (between pair, ok bool) {
	peer, ok := s.plan.Engine.Mesh.Peer(name)
	if !ok || name == s.plan.Self.Name {
		return between, false
	}
	return addressesOf(s.own, peer), true
}

// addressesOf returns the zero value if two nodes have no family in common.
func addressesOf(own [2]netip.Addr, peer mesh.Peer) pair {
	for i, at := range own {
		if other := peer.TUNAddress(i == 1); at.IsValid() && other.IsValid() {
			return pair{at, other}
		}
	}
	return pair{}
}

// Why nothing is measured; test with errors.Is. Their texts are for the user of the command line.
var (
	errBusyHere  = errors.New("this node takes part in a measurement already: try again in half a minute")
	errBusyThere = errors.New("the other node takes part in a measurement already: try again in half a minute")
	errRefused   = errors.New("the other node does not let itself be measured: " +
		"that needs `[probe] speed = true` in its file, and a meshd that has `meshd speed`")
	errNoAnswer = errors.New("no answer: `meshd ping` tells whether the node is there; " +
		"if it answers, a firewall of it may drop TCP port 8287 on the mesh's interface")
	errNoFamily = errors.New("the two nodes have subnets of no family in common")
)

// refusal turns an error into what the API says.
func refusal(err error) *control.Refusal {
	code := "failed"
	switch {
	case errors.Is(err, errBusyHere), errors.Is(err, errBusyThere):
		code = "busy"
	case errors.Is(err, unix.ECONNREFUSED):
		code, err = "refused", errRefused
	case errors.Is(err, unix.ETIMEDOUT), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, unix.EHOSTUNREACH), isTimeout(err):
		code, err = "no_answer", errors.Join(errNoAnswer)
	}
	return &control.Refusal{Code: code, Message: err.Error()}
}

// isTimeout tells whether an error of package net is that of a deadline.
func isTimeout(err error) bool {
	n, ok := errors.AsType[net.Error](err)
	return ok && n.Timeout()
}
