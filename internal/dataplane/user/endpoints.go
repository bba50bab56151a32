package user

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/tun"
	"example.org/meshd/internal/dataplane/udp"
)

// queues is what the user engine moves packets through: as many pairs of a TUN
// queue and a UDP socket as count.
type queues struct {
	device  string // the TUN
	bind    netip.AddrPort
	count   int
	offload bool
	spread  bool // each pair but the first sends from a port of its own
}

// endpoints are the open descriptors of all queues.
type endpoints struct {
	queues
	receive []*udp.Conn  // bound to the port of the mesh
	send    []*udp.Conn  // the same ones, unless spread
	tun     []*tun.Queue // attached to the device
	index   int          // of the device that they are attached to
}

// endpoint is one descriptor.
type endpoint interface {
	io.Closer
	dataplane.Descriptor
}

// all returns every descriptor, by a name: "udp-0", "tun-0".
func (e *endpoints) all() map[string]endpoint {
	named := map[string]endpoint{}
	if e == nil {
		return named
	}
	for i, c := range e.receive {
		named[fmt.Sprintf("udp-%d", i)] = c
	}
	for i, c := range e.send {
		if c != e.receive[i] {
			named[fmt.Sprintf("send-%d", i)] = c
		}
	}
	for i, q := range e.tun {
		named[fmt.Sprintf("tun-%d", i)] = q
	}
	return named
}

// lasting returns the descriptors in which packets wait while no meshd runs, by name.
func (e *endpoints) lasting() map[string]dataplane.Descriptor {
	named := map[string]dataplane.Descriptor{}
	for name, one := range e.all() {
		if !strings.HasPrefix(name, "send") {
			named[name] = one
		}
	}
	return named
}

// closeAllBut closes the descriptors that others do not have too.
func (e *endpoints) closeAllBut(others *endpoints) error {
	kept := map[endpoint]bool{}
	for _, other := range others.all() {
		kept[other] = true
	}
	var errs []error
	for _, own := range e.all() {
		if !kept[own] {
			errs = append(errs, own.Close())
		}
	}
	return errors.Join(errs...)
}

// bindPort has the port ready: it takes those sockets of have that fit, or opens a
// first one beside them. That finds out who else has the port.
func (e *endpoints) bindPort(have *endpoints) error {
	if err := reserve(3 * e.count); err != nil {
		return err
	}
	if e.fits(have) && len(have.receive) > 0 {
		e.receive = slices.Clone(have.receive[:min(len(have.receive), e.count)])
		return nil
	}
	return e.openSockets(have, 1)
}

// fits tells whether the sockets of have can stay.
func (e *endpoints) fits(have *endpoints) bool {
	return have != nil && have.bind == e.bind && have.offload == e.offload
}

// reserve returns an error if this process may not open n descriptors more. The
// kernel gives packets to a queue from the moment it is attached, and to a socket
// that is bound, so it is better to know before.
func reserve(n int) error {
	const spare = 8 // for talking to the kernel meanwhile
	for range n + spare {
		f, err := os.Open(os.DevNull)
		if err != nil {
			return fmt.Errorf("%d descriptors more are needed: %w: raise LimitNOFILE= of the service", n+spare, err)
		}
		defer f.Close()
	}
	return nil
}

func (e *endpoints) openSockets(have *endpoints, n int) error {
	beside := e.receive
	if have != nil {
		beside = slices.Concat(beside, have.receive)
	}
	fresh, err := udp.OpenGroup(e.bind, e.offload, n, beside)
	e.receive = append(e.receive, fresh...)
	return err
}

// attach opens what else is needed: queues of the TUN, as far as those of have do
// not fit, and sockets.
func (e *endpoints) attach(have *endpoints) error {
	if have != nil && have.device == e.device && have.offload == e.offload {
		e.tun = slices.Clone(have.tun[:min(len(have.tun), e.count)])
	}
	fresh, err := tun.OpenGroup(e.device, e.offload, e.count-len(e.tun))
	e.tun = append(e.tun, fresh...)
	if err != nil {
		return err
	}
	if device, err := net.InterfaceByName(e.device); err == nil { // else the loops will say so
		e.index = device.Index
	}
	if err := e.openSockets(have, e.count-len(e.receive)); err != nil {
		return err
	}
	for i, conn := range e.receive {
		switch {
		case !e.spread || i == 0:
		case e.fits(have) && have.spread && i < len(have.send):
			conn = have.send[i]
		default:
			if conn, err = udp.Open(netip.AddrPortFrom(e.bind.Addr(), 0), e.offload); err != nil {
				return err
			}
		}
		e.send = append(e.send, conn)
	}
	return nil
}

// adopt takes over descriptors that an earlier meshd left, by their names, and
// closes those that do not fit. What does not fit is told in words.
func (e *endpoints) adopt(files []*os.File) (unfit []error) {
	for _, f := range files {
		var err error
		switch kind, _, _ := strings.Cut(f.Name(), "-"); {
		case kind == "udp" && len(e.receive) < e.count:
			var c *udp.Conn
			if c, err = udp.Adopt(f, e.bind, e.offload); err == nil {
				e.receive = append(e.receive, c)
			}
		case kind == "tun" && len(e.tun) < e.count:
			var q *tun.Queue
			if q, err = tun.Adopt(f, e.device, e.offload); err == nil {
				e.tun = append(e.tun, q)
			}
		default:
			err = errors.Join(errors.New("there is no use for it"), f.Close())
		}
		if err != nil {
			unfit = append(unfit, fmt.Errorf("%s: %w", f.Name(), err))
		}
	}
	return unfit
}

// workers returns what the engine works with.
func (e *endpoints) workers() (ws []Worker) {
	for i, conn := range e.receive {
		ws = append(ws, Worker{
			Tun: e.tun[i], Wire: conn, Receiver: conn.NewReceiver(Datagrams), Sender: e.send[i].NewSender(Bursts),
			Replies: conn.NewSender(EchoBursts), Echoes: func() Sender { return conn.NewSender(EchoBursts) },
			SpreadEchoes: func() Sender { return e.send[i].NewSender(1) },
		})
	}
	return ws
}

// readErrors has the watcher hear of ICMP errors that no packet loop has noticed. An error means that
// the socket is closed.
func (e *endpoints) readErrors() {
	if e == nil {
		return
	}
	for _, conn := range slices.Concat(e.receive, e.send) {
		_ = conn.ReadErrors()
	}
}

// errNoSockets says that there are none yet, or none any more.
var errNoSockets = errors.New("no sockets are open")

// drops returns what the kernel dropped at the sockets.
func (e *endpoints) drops() (sum uint64, err error) {
	if e == nil {
		return 0, errNoSockets
	}
	for _, conn := range e.receive {
		n, err := conn.Drops()
		if err != nil {
			return 0, err
		}
		sum += uint64(n)
	}
	return sum, nil
}
