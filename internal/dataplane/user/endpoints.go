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

// queues is what the user engine moves packets through: as many queues of the TUN as count, and for
// each of them a UDP socket for each of this node's own addresses.
type queues struct {
	device  string           // the TUN
	binds   []netip.AddrPort // our own addresses
	count   int
	offload bool
	spread  bool // each socket but the first of an address sends from a port of its own

	apart     bool   // the kernel has the port of binds; see apart.go
	apartPort uint16 // that has to be ours, if it is not already; 0: any
}

func (q *queues) same(as *queues) bool {
	return q.device == as.device && slices.Equal(q.binds, as.binds) && q.count == as.count &&
		q.offload == as.offload && q.spread == as.spread && q.apart == as.apart
}

// endpoints are the open descriptors of all queues.
type endpoints struct {
	queues
	groups []group      // one for each of binds
	tun    []*tun.Queue // attached to the device
	index  int          // of the device that they are attached to
	past   uint64       // what sockets before these, and none of these, have dropped
}

// group are the sockets of one of our own addresses, one for each queue.
type group struct {
	receive []*udp.Conn // bound to the address
	send    []*udp.Conn // the same ones, unless spread
}

// endpoint is one descriptor.
type endpoint interface {
	io.Closer
	dataplane.Descriptor
}

// all returns every descriptor, by a name: "udp-0" is the first socket of the first of our addresses,
// "udp-0-1" the first of the second one, "tun-0" the first queue. Names of the first address are older
// than the others: an earlier or a later meshd finds them in the service manager's store.
func (e *endpoints) all() map[string]endpoint {
	named := map[string]endpoint{}
	if e == nil {
		return named
	}
	for j, g := range e.groups {
		suffix := ""
		if j > 0 {
			suffix = fmt.Sprintf("-%d", j)
		}
		for i, c := range g.receive {
			named[fmt.Sprintf("udp-%d%s", i, suffix)] = c
		}
		for i, c := range g.send {
			if c != g.receive[i] {
				named[fmt.Sprintf("send-%d%s", i, suffix)] = c
			}
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
		if !strings.HasPrefix(name, "send") && !(e.apart && isFurther(name)) {
			named[name] = one
		}
	}
	return named
}

// receivers returns the sockets that are bound to our own addresses.
func (e *endpoints) receivers() (all []*udp.Conn) {
	if e != nil {
		for _, g := range e.groups {
			all = append(all, g.receive...)
		}
	}
	return all
}

// sockets returns all sockets, each of them once or twice.
func (e *endpoints) sockets() []*udp.Conn {
	all := e.receivers()
	if e != nil {
		for _, g := range e.groups {
			all = append(all, g.send...)
		}
	}
	return all
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

// bindPorts has the port of each of our addresses ready: it takes those sockets of usable that fit, or
// opens a first one. That finds out who else has the port. beside are sockets of this process that may
// share a port with it.
func (e *endpoints) bindPorts(usable, beside *endpoints) error {
	if err := reserve(e.count * (1 + 2*len(e.binds))); err != nil {
		return err
	}
	e.groups = make([]group, len(e.binds))
	if e.apart {
		return e.bindApart(usable)
	}
	for j, bind := range e.binds {
		if fit := e.fit(usable, bind); fit != nil && len(fit.receive) > 0 {
			e.groups[j].receive = slices.Clone(fit.receive[:min(len(fit.receive), e.count)])
		} else if err := e.openSockets(j, beside, 1); err != nil {
			return err
		}
	}
	return nil
}

// fit returns the sockets of have for one of our addresses if they can stay; nil if they cannot.
func (e *endpoints) fit(have *endpoints, bind netip.AddrPort) *group {
	if have == nil || have.offload != e.offload || have.apart != e.apart {
		return nil
	}
	if j := slices.Index(have.binds, bind); j >= 0 {
		return &have.groups[j]
	}
	return nil
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

// openSockets opens n sockets more of the address at an index, beside those of others.
func (e *endpoints) openSockets(j int, others *endpoints, n int) error {
	if e.apart {
		return e.openFurther(j, n)
	}
	beside := slices.Concat(e.receivers(), others.receivers())
	fresh, err := udp.OpenGroup(e.binds[j], e.offload, n, beside)
	e.groups[j].receive = append(e.groups[j].receive, fresh...)
	return err
}

// attach opens what else is needed: queues of the TUN, as far as those of usable do
// not fit, and sockets.
func (e *endpoints) attach(usable, beside *endpoints) error {
	if usable != nil && usable.device == e.device && usable.offload == e.offload {
		e.tun = slices.Clone(usable.tun[:min(len(usable.tun), e.count)])
	}
	fresh, err := tun.OpenGroup(e.device, e.offload, e.count-len(e.tun))
	e.tun = append(e.tun, fresh...)
	if err != nil {
		return err
	}
	if device, err := net.InterfaceByName(e.device); err == nil { // else the loops will say so
		e.index = device.Index
	}
	for j := range e.groups {
		if err := e.openSockets(j, beside, e.count-len(e.groups[j].receive)); err != nil {
			return err
		}
		if err := e.openSenders(j, usable); err != nil {
			return err
		}
	}
	return nil
}

// openSenders decides from which sockets of one of our addresses packets leave.
func (e *endpoints) openSenders(j int, usable *endpoints) (err error) {
	g, fit := &e.groups[j], e.fit(usable, e.binds[j])
	for i, conn := range g.receive {
		switch {
		case !e.spread || i == 0:
		case fit != nil && usable.spread && i < len(fit.send):
			conn = fit.send[i]
		default:
			if conn, err = udp.Open(netip.AddrPortFrom(e.binds[j].Addr(), 0), e.offload); err != nil {
				return err
			}
		}
		g.send = append(g.send, conn)
	}
	return nil
}

// adopt takes over descriptors that an earlier meshd left, and closes those that do not fit: queues by
// their names, sockets by the address that they are bound to, since an address may have had another place
// among ours. What does not fit is told in words.
func (e *endpoints) adopt(files []*os.File) (unfit []error) {
	e.groups = make([]group, len(e.binds))
	for _, f := range files {
		var err error
		switch kind, _, _ := strings.Cut(f.Name(), "-"); {
		case kind == "udp":
			err = e.adoptSocket(f)
		case kind == "tun" && len(e.tun) < e.count:
			var q *tun.Queue
			if q, err = tun.Adopt(f, e.device, e.offload); err == nil {
				e.tun = append(e.tun, q)
			}
		default:
			err = errors.Join(errNoUse, f.Close())
		}
		if err != nil {
			unfit = append(unfit, fmt.Errorf("%s: %w", f.Name(), err))
		}
	}
	return unfit
}

// errNoUse is that of a descriptor which is one too many.
var errNoUse = errors.New("the file asks for fewer of them")

// adoptSocket takes over a socket, or closes it.
func (e *endpoints) adoptSocket(f *os.File) error {
	c, err := udp.Adopt(f, e.binds, e.offload, e.apart)
	if err != nil {
		return err
	}
	own := func(b netip.AddrPort) bool { return b == c.Local() || e.apart && b.Addr() == c.Local().Addr() }
	g := &e.groups[slices.IndexFunc(e.binds, own)]
	if len(g.receive) == e.count {
		return errors.Join(errNoUse, c.Close())
	}
	g.receive = append(g.receive, c)
	return nil
}

// workers returns what the engine works with.
func (e *endpoints) workers() (ws []Worker) {
	for i, queue := range e.tun {
		w := Worker{Tun: queue}
		for j, g := range e.groups {
			conn, send := g.receive[i], g.send[i]
			w.Sockets = append(w.Sockets, Socket{
				Bind: e.binds[j], Wire: conn, Receiver: conn.NewReceiver(Datagrams), Sender: send.NewSender(Bursts),
				Echoes:       func() Sender { return conn.NewSender(EchoBursts) },
				SpreadEchoes: func() Sender { return send.NewSender(1) },
			})
		}
		ws = append(ws, w)
	}
	return ws
}

// readErrors has the watcher hear of ICMP errors that no packet loop has noticed. An error means that
// the socket is closed.
func (e *endpoints) readErrors() {
	for _, conn := range e.sockets() {
		_ = conn.ReadErrors()
	}
}

// errNoSockets says that there are none yet, or none any more.
var errNoSockets = errors.New("no sockets are open")

// drops returns what the kernel dropped at the sockets, and at those before them.
func (e *endpoints) drops() (sum uint64, err error) {
	if e == nil {
		return 0, errNoSockets
	}
	sum = e.past
	for _, conn := range e.receivers() {
		n, err := conn.Drops()
		if err != nil {
			return 0, err
		}
		sum += uint64(n)
	}
	return sum, nil
}

// dropsWithout returns what the kernel dropped at sockets that next does not have, and at those before
// them: what next begins with.
func (e *endpoints) dropsWithout(next *endpoints) (sum uint64) {
	if e == nil {
		return 0
	}
	stay := next.receivers()
	sum = e.past
	for _, conn := range e.receivers() {
		if n, err := conn.Drops(); err == nil && !slices.Contains(stay, conn) {
			sum += uint64(n)
		}
	}
	return sum
}
