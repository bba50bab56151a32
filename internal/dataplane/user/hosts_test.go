package user

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/tun"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
)

// These tests run the engine with its sockets and its TUN on a host with two uplinks of two families. The
// other host, b, has two bare sockets in the place of a meshd.

// Addresses on the uplinks, and of a pod on each host.
const (
	a4, a6     = "192.0.2.1:8285", "[2001:db8::1]:8285"
	peer4      = "192.0.2.2:8285"
	peer6      = "[2001:db8::2]:8285"
	podA, podB = "10.244.0.2:7000", "10.244.1.2:7000"
)

// window is how many packets of a stream are on their way at most: no buffer overflows.
const window = 64

// wait is how long a test waits for a packet before it calls it lost.
const wait = 20 * time.Second

// twoHosts are host a, on which engines run, and host b.
type twoHosts struct {
	t    *testing.T
	a, b *nstest.Namespace
	pod  *net.UDPConn            // of a
	wire map[string]*net.UDPConn // of b, by the address
	got  map[string]*arrivals    // by the address, and "pod"

	broken chan struct{} // nil: no loop of an engine breaks
}

// arrivals are the numbers of the packets that came somewhere, in order.
type arrivals struct {
	mu      sync.Mutex
	numbers []uint32
	tokens  chan struct{} // one for each packet
}

func (a *arrivals) take(number uint32) {
	a.mu.Lock()
	a.numbers = append(a.numbers, number)
	a.mu.Unlock()
	a.tokens <- struct{}{}
}

func (a *arrivals) all() []uint32 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.numbers)
}

func newTwoHosts(t *testing.T) *twoHosts {
	h := &twoHosts{t: t, a: nstest.ForTest(t), b: nstest.ForTest(t),
		wire: map[string]*net.UDPConn{}, got: map[string]*arrivals{}}
	h.do(h.a.IP("link add u4 type veth peer name u4 netns "+h.b.Name,
		"link add u6 type veth peer name u6 netns "+h.b.Name,
		"addr add 192.0.2.1/24 dev u4", "addr add 2001:db8::1/64 dev u6 nodad", "addr add 10.244.0.2/32 dev lo",
		"link set u4 up", "link set u6 up"))
	h.do(h.b.IP("addr add 192.0.2.2/24 dev u4", "addr add 2001:db8::2/64 dev u6 nodad",
		"link set u4 up", "link set u6 up"))
	h.transmits(h.a, "u4", "u6")
	h.transmits(h.b, "u4", "u6")
	h.createTUN()
	h.pod = h.listen(h.a, podA)
	out := make(chan struct{}, 2*window)
	for _, address := range []string{peer4, peer6} {
		h.wire[address] = h.listen(h.b, address)
		h.collect(address, h.wire[address], out)
	}
	h.collect("pod", h.pod, make(chan struct{}, 2*window))
	return h
}

// createTUN makes the TUN of a, and has packets for b's pods go there.
func (h *twoHosts) createTUN() {
	h.t.Helper()
	h.do(h.a.Do(func() error { return tun.Create("mesh0") }))
	h.do(h.a.IP("link set mesh0 up mtu 1400", "route add 10.244.1.0/24 dev mesh0 src 10.244.0.2"))
}

// transmits waits until interfaces send: until its work queue comes to them, the kernel drops what is sent
// by an interface that has just got its carrier (linkwatch_do_dev in net/core/link_watch.c).
func (h *twoHosts) transmits(n *nstest.Namespace, names ...string) {
	h.t.Helper()
	for _, name := range names {
		for end := time.Now().Add(wait); ; time.Sleep(time.Millisecond) {
			out, err := n.Run("ip", "link", "show", "dev", name)
			h.do(err)
			if !strings.Contains(out, "qdisc noop ") && strings.Contains(out, "state UP") {
				break
			}
			if time.Now().After(end) {
				h.t.Fatalf("%s does not send: %s", name, out)
			}
		}
	}
}

func (h *twoHosts) do(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *twoHosts) listen(n *nstest.Namespace, address string) (c *net.UDPConn) {
	h.t.Helper()
	h.do(n.Do(func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
		return err
	}))
	h.t.Cleanup(func() { c.Close() })
	return c
}

// collect takes the numbers at the end of what a socket gets, until it is closed.
func (h *twoHosts) collect(name string, c *net.UDPConn, tokens chan struct{}) {
	a := &arrivals{tokens: tokens}
	h.got[name] = a
	go func() {
		for b := make([]byte, 2000); ; {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			if n >= 4 {
				a.take(binary.BigEndian.Uint32(b[n-4:]))
			}
		}
	}()
}

// wanted is what the engine is to do with some addresses of a.
func (h *twoHosts) wanted(binds ...string) dataplane.Wanted {
	w := dataplane.Wanted{Interface: "mesh0", Queues: 1, Offload: true}
	w.Mesh = mesh.Mesh{Self: "a", Peers: []mesh.Peer{
		{Name: "a", Addresses: endpointsAt(a4, a6), Subnets: prefixes("10.244.0.0/24")},
		{Name: "b", Addresses: endpointsAt(peer4, peer6), Subnets: prefixes("10.244.1.0/24")},
	}}
	for _, b := range binds {
		w.Binds = append(w.Binds, netip.MustParseAddrPort(b))
	}
	return w
}

// engine returns an engine on a, which ends with the test.
func (h *twoHosts) engine() *Engine {
	var loops sync.WaitGroup
	u := New(dataplane.Options{
		Log: slog.New(slog.DiscardHandler),
		Broken: func() {
			if h.broken == nil {
				h.t.Error("a loop broke")
			} else {
				h.broken <- struct{}{}
			}
		},
		Start: func(l dataplane.Loop) {
			loops.Go(func() {
				if err := l.Run(h.t.Context()); err != nil && h.broken == nil {
					h.t.Errorf("%s: %v", l, err)
				}
			})
		},
	})
	h.t.Cleanup(func() {
		if err := errors.Join(u.Stop(), u.Close()); err != nil {
			h.t.Error(err)
		}
		loops.Wait()
	})
	return u
}

// apply has an engine do what is wanted.
func (h *twoHosts) apply(u *Engine, w dataplane.Wanted) {
	h.t.Helper()
	h.do(h.a.Do(func() error {
		if _, err := u.Prepare(h.t.Context(), w); err != nil {
			return err
		}
		_, _, err := u.Apply(h.t.Context(), w)
		return err
	}))
	h.do(u.Alive(h.t.Context()))
	h.transmits(h.a, w.Interface)
}

// out sends the packet of a number from a's pod to b's.
func (h *twoHosts) out(number uint32) error {
	_, err := h.pod.WriteToUDPAddrPort(binary.BigEndian.AppendUint32(nil, number), netip.MustParseAddrPort(podB))
	return err
}

// in sends the packet of a number from b's pod to a's, by one of b's addresses to one of a's.
func (h *twoHosts) in(from, to string, number uint32) error {
	_, err := h.wire[from].WriteToUDPAddrPort(numbered(number), netip.MustParseAddrPort(to))
	return err
}

// numbered returns the packet of a number from b's pod to a's.
func numbered(number uint32) []byte {
	b := append(udp4("10.244.1.2", "10.244.0.2", 62, 0), 0, 0, 0, 0)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], packet.Checksum(b[:20], 0))
	binary.BigEndian.PutUint16(b[20:], 7000) // the ports
	binary.BigEndian.PutUint16(b[22:], 7000)
	binary.BigEndian.PutUint16(b[24:], uint16(len(b)-20)) // and no checksum
	binary.BigEndian.PutUint32(b[28:], number)
	return b
}

// A stream sends numbered packets, as fast as they arrive, until it is stopped.
type stream struct {
	sent   atomic.Uint32
	moved  chan int // how many have arrived, if somebody waits
	stop   chan struct{}
	failed chan error // one, when it has ended
}

func (h *twoHosts) start(send func(uint32) error, arrived <-chan struct{}) *stream {
	s := &stream{moved: make(chan int), stop: make(chan struct{}), failed: make(chan error, 1)}
	go func() { s.failed <- s.run(send, arrived) }()
	return s
}

func (s *stream) run(send func(uint32) error, arrived <-chan struct{}) error {
	arrivedSum := 0
	for missing, stop := 0, false; !stop || missing > 0; {
		if !stop && missing < window {
			if err := send(s.sent.Add(1)); err != nil {
				return err
			}
			missing++
			select {
			case <-s.stop:
				stop = true
			default:
			}
			continue
		}
		select {
		case <-arrived:
			missing--
			arrivedSum++
			select {
			case s.moved <- arrivedSum:
			default:
			}
		case <-time.After(wait):
			return fmt.Errorf("%d packets of %d are lost", missing, s.sent.Load())
		}
	}
	return nil
}

// goOn waits until some more packets have arrived.
func (h *twoHosts) goOn(streams ...*stream) {
	h.t.Helper()
	for _, s := range streams {
		for first, now := 0, 0; first == 0 || now < first+4*window; {
			select {
			case now = <-s.moved:
				if first == 0 {
					first = now
				}
			case err := <-s.failed:
				h.t.Fatal(err)
			}
		}
	}
}

// end stops a stream, and waits for all that it has sent.
func (h *twoHosts) end(s *stream) {
	h.t.Helper()
	close(s.stop)
	h.do(<-s.failed)
}

// ascending tells whether numbers only grow, each at most once.
func ascending(numbers []uint32) bool {
	return slices.IsSorted(numbers) && len(slices.Compact(slices.Clone(numbers))) == len(numbers)
}

// leave ends an engine as the end of its process does, and returns copies of the descriptors that it keeps.
func (h *twoHosts) leave(u *Engine) (files []*os.File) {
	h.t.Helper()
	open := u.Descriptors()
	for _, name := range slices.Sorted(maps.Keys(open)) {
		h.do(open[name].Descriptor(func(fd uintptr) {
			if copied, err := unix.Dup(int(fd)); err == nil {
				files = append(files, os.NewFile(uintptr(copied), name))
			}
		}))
	}
	h.do(errors.Join(u.Stop(), u.Close()))
	return files
}

// bound tells whether a socket among descriptors is bound to an address.
func (h *twoHosts) bound(files []*os.File, address string) bool {
	for _, f := range files {
		raw, err := f.SyscallConn()
		h.do(err)
		var at unix.Sockaddr
		h.do(raw.Control(func(fd uintptr) { at, _ = unix.Getsockname(int(fd)) }))
		switch at := at.(type) {
		case *unix.SockaddrInet4:
			if address == netip.AddrPortFrom(netip.AddrFrom4(at.Addr), uint16(at.Port)).String() {
				return true
			}
		case *unix.SockaddrInet6:
			if address == netip.AddrPortFrom(netip.AddrFrom16(at.Addr), uint16(at.Port)).String() {
				return true
			}
		}
	}
	return false
}
