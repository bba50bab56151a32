// Package ask carries probes inside the encrypted tunnel: UDP between the TUN's addresses of two nodes, bound
// to the encrypted interface, so that they take the way of pods' packets. WireGuard has authenticated where a
// datagram comes from.
//
//	question, answer   the payloads of package probe, which tell the two apart
//	refusal            an ICMP error "port unreachable" about a question, of the peer itself: its host lives,
//	                   and has no meshd. It counts as an echo reply of a bare kernel does. Linux sends one a
//	                   second (icmp_ratelimit), and of IPv6 only where it has a route to this node's TUN
//	                   address alone: it takes the address of a subnet for an anycast one
//
// UDP and not ICMP: the peer's kernel would answer an echo itself, without what meshd tells, and raw sockets
// need a capability that the service does not have.
package ask

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
)

// Port is the UDP port of all nodes.
const Port = 8286

// Options is what a Carrier needs of others.
type Options struct {
	Log       *slog.Logger
	Interface string                // the encrypted one
	Hear      dataplane.EchoHandler // hears questions, answers and refusals; it must not wait
	Heard     func(peer string) time.Time
}

// A Carrier sends and hears probes. It implements dataplane.Echoer. Run is for one goroutine; all other
// methods may be called from any, and never wait.
type Carrier struct {
	o     Options
	wake  int // an eventfd: Run has something to do; -1: there is none
	scene atomic.Pointer[scene]
	why   atomic.Pointer[mesh.Condition] // why there is no socket, though one is wanted

	sockets [2]atomic.Pointer[socket] // by family, IPv6 second; nil: none. Run alone changes them
}

// A scene is between which addresses probes travel. It is never changed.
type scene struct {
	own   [2]netip.Addr // by family; invalid: none
	to    map[string]target
	peers map[netip.Addr]*peer // by the addresses of their TUNs
}

// A peer is one other node.
type peer struct {
	name  string
	heard *atomic.Int64 // when a probe of it came last, in nanoseconds since 1970; 0: none did
}

// A target is where probes of one peer go.
type target struct {
	*peer
	plain, forwarded netip.Addr // of the first family that both nodes have
}

// New returns a Carrier without peers.
func New(o Options) *Carrier {
	c := &Carrier{o: o}
	var err error
	if c.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		c.wake = -1 // Run says so
	}
	c.scene.Store(&scene{})
	return c
}

// Set says between which nodes probes travel from now on; without peers there are no sockets.
func (c *Carrier) Set(m mesh.Mesh) {
	before, s := c.scene.Load(), &scene{to: map[string]target{}, peers: map[netip.Addr]*peer{}}
	if self, ok := m.Peer(m.Self); ok && len(m.Peers) > 1 {
		for i, v6 := range families {
			s.own[i] = self.TUNAddress(v6)
		}
	}
	for p := range m.Others() {
		one := before.to[p.Name].peer
		if one == nil {
			one = &peer{p.Name, &atomic.Int64{}}
		}
		for i := len(families) - 1; i >= 0; i-- {
			if at := p.TUNAddress(families[i]); at.IsValid() && s.own[i].IsValid() {
				s.peers[at] = one
				s.to[p.Name] = target{one, at, p.ForwardedProbe(families[i])}
			}
		}
	}
	c.scene.Store(s)
	c.Look()
}

// families are those of the sockets; true is IPv6.
var families = [2]bool{false, true}

// Look has sockets opened where there are none, or where the interface was made anew since.
func (c *Carrier) Look() {
	if c.wake >= 0 {
		_, _ = unix.Write(c.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // it fails if Run has much to do already
	}
}

// Conditions returns what is not as it should be.
func (c *Carrier) Conditions() []mesh.Condition {
	if why := c.why.Load(); why != nil {
		return []mesh.Condition{*why}
	}
	return nil
}

// ErrNoSocket is that of an Echo while the interface is missing.
var ErrNoSocket = errors.New("no probe can be sent inside the tunnel")

// SendEcho implements dataplane.Echoer. The fields that say how an Echo looks outside are ignored, Forwarded
// aside: WireGuard decides about that.
func (c *Carrier) SendEcho(es ...dataplane.Echo) error {
	s := c.scene.Load()
	var errs []error
	for i, e := range es {
		if err := c.send(s, e); err != nil {
			errs = append(errs, &dataplane.EchoError{Peer: e.Peer, Index: i, Err: err})
		}
	}
	return errors.Join(errs...)
}

// send sends one Echo.
func (c *Carrier) send(s *scene, e dataplane.Echo) error {
	to, known := s.to[e.Peer]
	address := to.plain
	if e.Forwarded {
		address = to.forwarded
	}
	if !known || !address.IsValid() {
		return fmt.Errorf("%w: the peer has no address for it", ErrNoSocket)
	}
	by := c.sockets[index(address)].Load()
	if by == nil {
		return ErrNoSocket
	}
	return by.write(e.Payload, netip.AddrPortFrom(address, Port))
}

// index returns the place of an address's family.
func index(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// Heard implements dataplane.Echoer. Of a peer behind another one WireGuard cannot tell.
func (c *Carrier) Heard(name string) time.Time {
	last := c.o.Heard(name)
	if p := c.scene.Load().to[name].peer; p != nil {
		if at := p.heard.Load(); at != 0 && (last.IsZero() || at > last.UnixNano()) {
			last = time.Unix(0, at)
		}
	}
	return last
}

// HeardBy implements dataplane.Echoer. Everything passes the host's own rules, as with a socket.
func (c *Carrier) HeardBy(names ...string) []peers.Heard {
	all := make([]peers.Heard, len(names))
	for i, name := range names {
		all[i].Socket = c.Heard(name)
	}
	return all
}

// Leaving implements dataplane.Echoer: probes leave as pods' packets do.
func (c *Carrier) Leaving() dataplane.Leaving { return dataplane.Leaving{} }

// Run hears probes until ctx ends.
func (c *Carrier) Run(ctx context.Context) error {
	if c.wake < 0 {
		return errors.New("hear probes inside the tunnel: no file descriptor is left")
	}
	defer context.AfterFunc(ctx, c.Look)()
	defer c.close()
	b := make([]byte, 1<<16)
	device := 0 // index of the interface that the sockets are bound to
	var looked time.Time
	for ctx.Err() == nil {
		if now := time.Now(); now.Sub(looked) >= lookEvery {
			device, looked = c.open(device), now
		}
		fds := []unix.PollFd{{Fd: int32(c.wake), Events: unix.POLLIN}}
		for i := range c.sockets {
			fds = append(fds, unix.PollFd{Fd: c.sockets[i].Load().number(), Events: unix.POLLIN})
		}
		wait := int(lookEvery.Milliseconds())
		if s := c.scene.Load(); !s.own[0].IsValid() && !s.own[1].IsValid() {
			wait = -1
		}
		if _, err := unix.Poll(fds, wait); err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
		if fds[0].Revents != 0 {
			_, _ = unix.Read(c.wake, b)
			looked = time.Time{}
		}
		for i := range c.sockets {
			by := c.sockets[i].Load()
			if fds[i+1].Revents&unix.POLLERR != 0 {
				c.hearRefusals(by, b)
			}
			if fds[i+1].Revents&unix.POLLIN != 0 {
				c.hear(by, b)
			}
		}
	}
	return nil
}

// lookEvery is the time between two looks at the interface: another program may have made it anew, or have
// given the port up, and neither is told.
const lookEvery = time.Second

// open brings the sockets to what is wanted, and returns the index of the interface. A socket is bound to one
// interface, and not to its name: one that was made anew needs others.
func (c *Carrier) open(before int) int {
	s := c.scene.Load()
	device, failed := indexOf(c.o.Interface)
	for i, own := range s.own {
		had := c.sockets[i].Load()
		if had != nil && had.own == own && device == before {
			continue
		}
		if had != nil {
			c.sockets[i].Store(nil)
			had.file.Close()
		}
		if !own.IsValid() || device == 0 {
			continue
		}
		one, err := listen(own, c.o.Interface)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		c.sockets[i].Store(one)
	}
	c.tell(failed)
	return device
}

// tell publishes why there is no socket. While the interface or its address is missing, whoever brings it
// says so.
func (c *Carrier) tell(err error) {
	if err == nil || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) {
		c.why.Store(nil)
		return
	}
	why := &mesh.Condition{Kind: mesh.ProbePortTaken, Severity: mesh.Degraded, Cause: err.Error(),
		Subject: fmt.Sprintf("UDP port %d", Port),
		Remedy:  fmt.Sprintf("`ss -lunp 'sport = :%d'` shows who has the port", Port)}
	if had := c.why.Swap(why); had == nil || *had != *why {
		c.o.Log.Warn("cannot probe peers inside the tunnel", "error", err, "event", "probes_failed")
	}
}

// close closes all sockets.
func (c *Carrier) close() {
	for i := range c.sockets {
		if one := c.sockets[i].Swap(nil); one != nil {
			one.file.Close()
		}
	}
}

// hear takes what waits in a socket.
func (c *Carrier) hear(by *socket, b []byte) {
	s := c.scene.Load()
	for range mostAtOnce {
		n, from, err := by.read(b)
		if err != nil {
			return
		}
		p, known := s.peers[from.Addr()]
		kind := kindOf(b[:n])
		if !known || from.Port() != Port || kind == other {
			continue
		}
		now := time.Now()
		p.heard.Store(now.UnixNano())
		reply, mine := c.o.Hear(dataplane.Echo{Peer: p.name, Reply: kind == answer, Payload: b[:n]}, now)
		if mine && reply != nil {
			_ = by.write(reply, from) // the peer counts an answer that is missing
		}
	}
}

// hearRefusals takes the ICMP errors that wait in a socket.
func (c *Carrier) hearRefusals(by *socket, b []byte) {
	s := c.scene.Load()
	for range mostAtOnce {
		n, to, refused, err := by.readError(b)
		if err != nil {
			return
		}
		if to.Port() != Port {
			continue
		}
		if p, known := s.peers[to.Addr()]; known && refused && kindOf(b[:n]) == question {
			now := time.Now()
			p.heard.Store(now.UnixNano())
			c.o.Hear(dataplane.Echo{Peer: p.name, Reply: true, Payload: b[:n]}, now)
		}
	}
}

// mostAtOnce bounds what one look at a socket takes: the other socket and Look get their turn.
const mostAtOnce = 256
