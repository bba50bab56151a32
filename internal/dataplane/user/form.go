package user

import (
	"errors"
	"net/netip"
	"slices"
	"sync"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/udp"
)

// mark notes the DSCP value of a packet that leaves. Nearly every value was seen before, and then
// nothing is written: loops on other CPUs read the same word.
func (u *Engine) mark(tos uint8) {
	if bit := uint64(1) << (tos >> 2); u.marks.Load()&bit == 0 {
		u.marks.Or(bit)
	}
}

// Leaving implements dataplane.Echoer.
func (u *Engine) Leaving() dataplane.Leaving { return dataplane.Leaving{DSCP: u.marks.Swap(0)} }

// sendSpread sends an echo to a peer from the port of a queue that is not the first.
func (w *worker) sendSpread(socket int, peer string, to netip.AddrPort, e packet.Echo) error {
	out := echoSender{sender: w.Sockets[socket].SpreadEchoes()}
	out.add(peer, to, 0, e)
	return out.flush()
}

// bareSockets send echoes without a UDP checksum. They are opened when the first is sent, since few
// engines need them. Any goroutine may use them.
type bareSockets struct {
	mu   sync.Mutex
	open map[netip.AddrPort]*udp.Bare // by the address and port that they send from
}

// send sends a packet from the one of our addresses at an index, or from any port of it.
func (b *bareSockets) send(own []netip.AddrPort, i int, spread bool, to netip.AddrPort, inner []byte) error {
	from := own[i]
	if spread {
		from = netip.AddrPortFrom(from.Addr(), 0)
	}
	socket, err := b.from(from, own)
	if err != nil {
		return err
	}
	return socket.Send(inner, to)
}

// from returns the socket that sends from an address and port. Where it opens one, it closes those of
// addresses that are not our own any more.
func (b *bareSockets) from(from netip.AddrPort, own []netip.AddrPort) (*udp.Bare, error) {
	b.mu.Lock()
	socket := b.open[from]
	b.mu.Unlock()
	if socket != nil {
		return socket, nil
	}
	socket, err := udp.OpenBare(from) // not under the lock: it is several system calls
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	var stale []*udp.Bare
	kept := map[netip.AddrPort]*udp.Bare{from: socket}
	for at, one := range b.open {
		isOurs := func(a netip.AddrPort) bool { return at == a || at == netip.AddrPortFrom(a.Addr(), 0) }
		if at != from && slices.ContainsFunc(own, isOurs) {
			kept[at] = one
		} else {
			stale = append(stale, one)
		}
	}
	b.open = kept
	b.mu.Unlock()
	for _, one := range stale {
		_ = one.Close() // it was used for sending only, so nothing is lost
	}
	return socket, nil
}

// close closes all sockets.
func (b *bareSockets) close() error {
	b.mu.Lock()
	open := b.open
	b.open = nil
	b.mu.Unlock()
	var errs []error
	for _, one := range open {
		errs = append(errs, one.Close())
	}
	return errors.Join(errs...)
}
