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
func (w *worker) sendSpread(socket int, to netip.AddrPort, e packet.Echo) error {
	burst := packet.Burst{Addr: to}
	burst.Add(e.Append(nil))
	_, err := w.Sockets[socket].SpreadEchoes().Write([]packet.Burst{burst})
	return err
}

// bareSockets send echoes without a UDP checksum. They are opened when the first is sent, since few
// engines need them. Any goroutine may use them.
type bareSockets struct {
	mu    sync.Mutex
	own   []netip.AddrPort             // where this node listens
	apart bool                         // but the kernel has these ports
	open  map[netip.AddrPort]*udp.Bare // by the address and port that they send from
}

// errMoved is that of an echo that was sent while this node began to listen elsewhere.
var errMoved = errors.New("this node listens elsewhere by now")

// serves tells whether a socket sends from where this node listens, or from any port of such an address.
// b.mu is held.
func (b *bareSockets) serves(from netip.AddrPort) bool {
	return slices.ContainsFunc(b.own, func(own netip.AddrPort) bool {
		return from == own && !b.apart || from == netip.AddrPortFrom(own.Addr(), 0)
	})
}

// follow notes where this node listens, and closes the sockets that send from elsewhere: other programs
// may have that port now, or the kernel is to have it.
func (b *bareSockets) follow(own []netip.AddrPort, apart bool) {
	b.mu.Lock()
	b.own, b.apart = own, apart
	var stale []*udp.Bare
	for from, socket := range b.open {
		if !b.serves(from) {
			stale = append(stale, socket)
			delete(b.open, from)
		}
	}
	b.mu.Unlock()
	for _, socket := range stale {
		_ = socket.Close() // it was used for sending only, so nothing is lost
	}
}

// send sends a packet from one of our addresses, or from any port of it.
func (b *bareSockets) send(from netip.AddrPort, spread bool, to netip.AddrPort, inner []byte) error {
	if spread {
		from = netip.AddrPortFrom(from.Addr(), 0)
	}
	socket, err := b.from(from)
	if err != nil {
		return err
	}
	return socket.Send(inner, to)
}

// from returns the socket that sends from an address and port.
func (b *bareSockets) from(from netip.AddrPort) (*udp.Bare, error) {
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
	needless := socket
	b.mu.Lock()
	switch other := b.open[from]; {
	case !b.serves(from):
		socket, err = nil, errMoved
	case other != nil: // somebody was faster
		socket = other
	default:
		if b.open == nil {
			b.open = map[netip.AddrPort]*udp.Bare{}
		}
		b.open[from], needless = socket, nil
	}
	b.mu.Unlock()
	if needless != nil {
		_ = needless.Close()
	}
	return socket, err
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
