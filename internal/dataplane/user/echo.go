package user

import (
	"errors"
	"net/netip"
	"sync"
	"time"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/peers"
)

// ErrNoAddress is that of an Echo to a peer whose TUN has no address of a family of
// ours.
var ErrNoAddress = errors.New("its subnets and ours have no family in common")

// ErrUnreachable is that of an Echo to a peer, or to an address, that this host cannot send to: the peer has
// no address or not that one, or none of ours is of its family.
var ErrUnreachable = errors.New("no socket sends to the peer's address")

// errUnknown is that of an Echo to a name that the mesh does not have.
var errUnknown = errors.New("no peer has the name")

// tunAddresses are those of a node; invalid without that family.
type tunAddresses struct{ v4, v6 netip.Addr }

func (t tunAddresses) of(family netip.Addr) netip.Addr {
	if family.Is6() {
		return t.v6
	}
	return t.v4
}

// SendEcho implements dataplane.Echoer.
func (u *Engine) SendEcho(es ...dataplane.Echo) error {
	workers, f := *u.workers.Load(), u.mesh.Load()
	switch {
	case f.sealed:
		return dataplane.ErrSealed
	case len(workers) == 0:
		return errors.New("send echo: no packet loop runs")
	}
	w := workers[0]
	out := newEchoes(w, w.echoes)
	defer out.giveBack()
	var errs []error
	for i, e := range es {
		peer, inner, err := f.echo(e)
		if err != nil {
			errs = append(errs, &dataplane.EchoError{Peer: e.Peer, Index: i, Err: err})
			continue
		}
		to, socket := w.way(f, peer, e.Via)
		switch {
		case socket == nowhere:
			err = ErrUnreachable
		case e.NoChecksum:
			err = u.bare.send(f.sendsFrom(f.source[to.from]), e.Spread, to.addr, inner.Append(nil))
		case e.Spread && len(workers) > 1:
			err = workers[1].sendSpread(socket, to.addr, inner)
		default:
			out.add(socket, echoOf{e.Peer, i}, to.addr, e.DSCP<<2, inner)
		}
		if err != nil {
			errs = append(errs, &dataplane.EchoError{Peer: e.Peer, Index: i, Err: err})
		}
	}
	return errors.Join(append(errs, out.flush())...)
}

// way returns where an Echo to a peer goes, and by which socket: to via, or where packets go.
func (w *worker) way(f *forwarding, p *peer, via netip.AddrPort) (to *target, socket int) {
	if via.IsValid() {
		if to = p.target(via); to == nil {
			return nil, nowhere
		}
		return to, w.socket(f, to)
	}
	to = p.active.Load()
	socket = w.socket(f, to)
	for i := 0; socket == nowhere && i < len(p.targets); i++ { // as outbound.another does
		to = &p.targets[i]
		socket = w.socket(f, to)
	}
	return to, socket
}

// echo returns what to send for an Echo, and to whom.
func (f *forwarding) echo(e dataplane.Echo) (to *peer, inner packet.Echo, err error) {
	i, known := f.names[e.Peer]
	if !known || i == f.self {
		return nil, inner, errUnknown
	}
	theirs := f.tun[i]
	if e.Forwarded {
		theirs = f.probes[i]
	}
	src, dst := f.own.v4, theirs.v4
	if !src.IsValid() || !dst.IsValid() {
		src, dst = f.own.v6, theirs.v6
	}
	if !src.IsValid() || !dst.IsValid() {
		return nil, inner, ErrNoAddress
	}
	return &f.peers[i], packet.Echo{
		Src: src, Dst: dst, Reply: e.Reply, ID: e.ID, Seq: e.Seq, Payload: e.Payload}, nil
}

// Heard implements dataplane.Echoer.
func (u *Engine) Heard(peer string) time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	if known := u.known[peer]; known != nil {
		return known.seen()
	}
	return time.Time{}
}

// HeardBy implements dataplane.Echoer: all that this engine hears comes by the socket.
func (u *Engine) HeardBy(names ...string) []peers.Heard {
	all := make([]peers.Heard, len(names))
	u.mu.Lock()
	defer u.mu.Unlock()
	for i, name := range names {
		if known := u.known[name]; known != nil {
			all[i].Socket = known.seen()
		}
	}
	return all
}

// echoes collects echoes and sends them with one call for each socket that has some. It belongs to one
// goroutine.
type echoes struct {
	sender func(socket int) *echoSender // asked once for each socket that is used
	by     []*echoSender                // by the socket; nil: none was used
	giveTo []sync.Pool                  // where senders came from
}

// newEchoes returns an empty collection for the sockets of a worker.
func newEchoes(w *worker, sender func(socket int) *echoSender) echoes {
	return echoes{sender: sender, by: make([]*echoSender, len(w.Sockets)), giveTo: w.senders}
}

// add adds an echo to a peer; tos is that of the outer header.
func (s *echoes) add(socket int, of echoOf, to netip.AddrPort, tos uint8, e packet.Echo) {
	if s.by[socket] == nil {
		s.by[socket] = s.sender(socket)
	}
	s.by[socket].add(of, to, tos, e)
}

// flush sends all; the errors are about those that a socket refused.
func (s *echoes) flush() error {
	var errs []error
	for _, one := range s.by {
		if one != nil && len(one.bursts) > 0 {
			errs = append(errs, one.flush())
		}
	}
	return errors.Join(errs...)
}

// giveBack lets others use the senders.
func (s *echoes) giveBack() {
	for i, one := range s.by {
		if one != nil {
			s.giveTo[i].Put(one)
		}
	}
}

// echoSender is what echoes has for one socket.
type echoSender struct {
	sender Sender
	bursts []packet.Burst
	of     []echoOf // of each burst
	memory [][]byte // of packets; it is used again, as that of the others
}

// echoOf is what an error about an echo says: its peer, and its index among those of a call.
type echoOf struct {
	peer  string
	index int
}

func (s *echoSender) add(of echoOf, to netip.AddrPort, tos uint8, e packet.Echo) {
	n := len(s.bursts)
	if n == len(s.memory) {
		s.memory = append(s.memory, nil)
	}
	s.memory[n] = e.Append(s.memory[n][:0])
	s.bursts, s.of = append(s.bursts, packet.Burst{Addr: to, TOS: tos}), append(s.of, of)
	s.bursts[n].Add(s.memory[n])
}

func (s *echoSender) flush() error {
	var errs []error
	for done := 0; done < len(s.bursts); {
		n, err := s.sender.Write(s.bursts[done:])
		if done += n; done < len(s.bursts) {
			errs = append(errs, &dataplane.EchoError{Peer: s.of[done].peer, Index: s.of[done].index, Err: err})
			done++
		}
	}
	s.bursts, s.of = s.bursts[:0], s.of[:0]
	return errors.Join(errs...)
}

// echo takes a packet to this node's TUN address out of the way if it is an echo for
// meshd itself. outer is the address that it came from. The reply goes back there, not to where packets
// go, so that a pair of echoes is about one address of the peer.
func (in *inbound) echo(f *forwarding, sender int32, h packet.Header, b []byte, outer netip.AddrPort) bool {
	hear := in.user.options.Hear
	if hear == nil || h.Dst != f.own.of(h.Dst) || h.Src != f.tun[sender].of(h.Src) {
		return false
	}
	e, ok := packet.ParseEcho(b)
	if !ok {
		return false
	}
	from, via := &f.peers[sender], f.peers[sender].source(outer)
	now := time.Now()
	reply, mine := hear(dataplane.Echo{Via: via.addr,
		Peer: f.table.Name(sender), Reply: e.Reply, ID: e.ID, Seq: e.Seq, Payload: e.Payload}, now)
	if !mine {
		return false
	}
	from.heard(now)
	if f.sealed { // nothing leaves bare; the peer is asked inside the tunnel, and goes there as well
		return true
	}
	if socket := in.worker.socket(f, via); reply != nil && socket != nowhere {
		in.replies.add(socket, echoOf{peer: f.table.Name(sender)}, via.addr, 0, packet.Echo{
			Src: h.Dst, Dst: h.Src, Reply: true, ID: e.ID, Seq: e.Seq, Payload: reply})
	}
	return true
}
