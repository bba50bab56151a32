package kernel

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/peers"
)

// crossroads are this node, whose programs send, and the peer b, which has a socket at each of its
// addresses: what comes there are datagrams as they were on the wire.
type crossroads struct {
	t       *testing.T
	engine  *Engine
	wanted  dataplane.Wanted
	host    *nstest.Host
	pod     *net.UDPConn // sends from this node's own TUN address
	arrived chan arrival
	learned peers.Directive // of b, but for Via
}

// An arrival is a datagram that came to b.
type arrival struct {
	from, to netip.AddrPort
	payload  []byte
}

// newCrossroads has programs send between nodes that have several addresses.
func newCrossroads(t *testing.T) *crossroads {
	nstest.Require(t)
	l, m := nstest.LabForTest(t), meshOverBoth()
	c := &crossroads{t: t, arrived: make(chan arrival, 1024), learned: directive(true)}
	var err error
	if c.host, err = l.Host("host", "172.18.0.2/16", "172.18.9.2/16", "fd10::2/64"); err != nil {
		t.Fatal(err)
	}
	b, err := l.Host("b", "172.18.0.3/16", "172.18.9.3/16", "fd10::3/64")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.host.IP("tuntap add tun0 mode tun", "link set tun0 up", "addr add 10.244.0.0/32 dev tun0",
		"route add 10.244.0.0/16 dev tun0"); err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	t.Cleanup(readers.Wait) // after their sockets are closed: what is said last is done first
	for _, at := range m.Peers[1].Addresses {
		if err := b.Do(func() error { return c.listen(at.AddrPort, &readers) }); err != nil {
			t.Fatal(err)
		}
	}
	c.engine = programsOf(t, m)
	c.wanted = wantedOver(m, "tun0", dataplane.TCX)
	c.apply()
	if err := c.host.Do(func() (err error) {
		c.pod, err = net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 244, 0, 0)},
			&net.UDPAddr{IP: net.IPv4(10, 244, 1, 1), Port: 7})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.pod.Close() })
	return c
}

// listen passes on what comes to an address of b.
func (c *crossroads) listen(at netip.AddrPort, readers *sync.WaitGroup) error {
	s, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return err
	}
	c.t.Cleanup(func() { s.Close() })
	raw, err := s.SyscallConn()
	if err == nil && at.Addr().Is6() { // as meshd's sockets take it
		err = raw.Control(func(fd uintptr) { // UDP_NO_CHECK6_RX of linux/udp.h
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, 102, 1)
		})
	}
	readers.Go(func() {
		for b := make([]byte, 2000); ; {
			n, from, err := s.ReadFromUDPAddrPort(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// There is room for all that are on their way, so that no reader waits when a test has failed.
			c.arrived <- arrival{netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), at, slices.Clone(b[:n])}
		}
	})
	return err
}

// apply has the programs do what is wanted.
func (c *crossroads) apply() {
	c.t.Helper()
	err := c.engine.setMesh(c.wanted)
	if err == nil {
		err = c.host.Do(func() error { _, err := c.engine.attach(c.wanted, indexOf("tun0")); return err })
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// learn has packets to b go via an address.
func (c *crossroads) learn(via netip.AddrPort) error {
	d := c.learned
	d.Via = via
	return c.engine.Learn("b", d)
}

// send sends a packet with a number from this node to a pod of b.
func (c *crossroads) send(number uint64) {
	c.t.Helper()
	if _, err := c.pod.Write(binary.BigEndian.AppendUint64(nil, number)); err != nil {
		c.t.Fatal(err)
	}
}

// next returns the next datagram that comes to b, and the number in it. A packet that is not whole is an
// error.
func (c *crossroads) next() (a arrival, number uint64) {
	c.t.Helper()
	select {
	case a = <-c.arrived:
	case <-time.After(10 * time.Second):
		handed, _ := c.engine.handle().handed()
		c.t.Fatalf("a packet is lost; handed over: %v", handed)
	}
	p := a.payload
	if len(p) != 36 || p[0] != 0x45 || int(binary.BigEndian.Uint16(p[2:])) != len(p) || p[8] != 63 ||
		[4]byte(p[12:16]) != [4]byte{10, 244, 0, 0} || [4]byte(p[16:20]) != [4]byte{10, 244, 1, 1} {
		c.t.Fatalf("from %s to %s: % x", a.from, a.to, p)
	}
	return a, binary.BigEndian.Uint64(p[28:])
}
