package user

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/peers"
)

// ErrNoAddress is that of an Echo to a peer whose TUN has no address of a family of
// ours.
var ErrNoAddress = errors.New("its subnets and ours have no family in common")

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
	workers := *u.workers.Load()
	if len(workers) == 0 {
		return errors.New("send echo: no packet loop runs")
	}
	w := workers[0]
	sender := w.echoes()
	defer w.senders.Put(sender)
	f := u.mesh.Load()
	var errs []error
	out, names := echoSender{sender: sender}, make([]string, 0, len(es))
	for _, e := range es {
		to, inner, err := f.echo(e)
		switch {
		case err != nil:
			errs = append(errs, err)
		case e.NoChecksum:
			errs = append(errs, u.bare.send(f.from, e.Spread, to, inner.Append(nil)))
		case e.Spread && len(workers) > 1:
			errs = append(errs, workers[1].sendSpread(to, inner))
		default:
			out.add(to, e.DSCP<<2, inner)
			names = append(names, e.Peer)
		}
	}
	return errors.Join(append(errs, out.flush(names))...)
}

// echo returns what to send for an Echo, and to whom.
func (f *forwarding) echo(e dataplane.Echo) (to netip.AddrPort, inner packet.Echo, err error) {
	i, known := f.names[e.Peer]
	if !known || i == f.self {
		return to, inner, fmt.Errorf("send echo: no peer is named %q", e.Peer)
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
		return to, inner, fmt.Errorf("send echo to %q: %w", e.Peer, ErrNoAddress)
	}
	return f.peers[i].underlay, packet.Echo{
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
func (u *Engine) HeardBy(peer string) peers.Heard { return peers.Heard{Socket: u.Heard(peer)} }

// echoSender collects echoes and sends them with one call. It belongs to one
// goroutine.
type echoSender struct {
	sender Sender
	bursts []packet.Burst
	memory [][]byte // of packets, kept from batch to batch
}

// add adds an echo; tos is that of the outer header.
func (s *echoSender) add(to netip.AddrPort, tos uint8, e packet.Echo) {
	n := len(s.bursts)
	if n == len(s.memory) {
		s.memory = append(s.memory, nil)
	}
	s.memory[n] = e.Append(s.memory[n][:0])
	s.bursts = append(s.bursts, packet.Burst{Addr: to, TOS: tos})
	s.bursts[n].Add(s.memory[n])
}

// flush sends all; the errors are about those that the socket refused. names are the peers to which
// they go, in order; without names the errors have addresses.
func (s *echoSender) flush(names []string) error {
	var errs []error
	for done := 0; done < len(s.bursts); {
		n, err := s.sender.Write(s.bursts[done:])
		if done += n; done < len(s.bursts) {
			to := s.bursts[done].Addr.String()
			if names != nil {
				to = names[done]
			}
			errs = append(errs, &dataplane.EchoError{Peer: to, Err: err})
			done++
		}
	}
	s.bursts = s.bursts[:0]
	return errors.Join(errs...)
}

// echo takes a packet to this node's TUN address out of the way if it is an echo for
// meshd itself.
func (in *inbound) echo(f *forwarding, sender int32, h packet.Header, b []byte) bool {
	hear := in.user.options.Hear
	if hear == nil || h.Dst != f.own.of(h.Dst) || h.Src != f.tun[sender].of(h.Src) {
		return false
	}
	e, ok := packet.ParseEcho(b)
	if !ok {
		return false
	}
	now := time.Now()
	reply, mine := hear(dataplane.Echo{
		Peer: f.table.Name(sender), Reply: e.Reply, ID: e.ID, Seq: e.Seq, Payload: e.Payload}, now)
	if !mine {
		return false
	}
	f.peers[sender].heard(now)
	if reply != nil {
		in.replies.add(f.peers[sender].underlay, 0, packet.Echo{
			Src: h.Dst, Dst: h.Src, Reply: true, ID: e.ID, Seq: e.Seq, Payload: reply})
	}
	return true
}
