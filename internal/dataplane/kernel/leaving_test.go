package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/peers"
)

// An exit is a host with the program for sending, between two ends that a test holds: what leaves by the
// underlay is seen on the wire, and what is left to user space waits in the queue of the TUN. Both happen
// before the call returns that sends a packet to the TUN.
type exit struct {
	*Engine
	t         *testing.T
	namespace *nstest.Namespace
	queue     int // the TUN's
	wire      int
	tun       int // its index
	address   net.HardwareAddr
	neighbour net.HardwareAddr // of all peers
	user      *userEngine
	mesh      mesh.Mesh
	spread    bool
}

func newExit(t *testing.T, m mesh.Mesh, spread bool) *exit {
	e := &exit{t: t, namespace: nstest.ForTest(t), queue: -1, wire: -1, mesh: m, spread: spread,
		neighbour: net.HardwareAddr{2, 0, 0, 0, 0, 3}}
	// Greetings of the kernel itself would be seen at the TUN, too.
	if err := errors.Join(e.namespace.Sysctl("ipv6.conf.default.disable_ipv6", "1"),
		e.namespace.IP("link add wire0 type veth peer name wire1"),
		e.namespace.Sysctl("ipv6.conf.wire0.disable_ipv6", "0"),
		e.namespace.Sysctl("ipv4.conf.all.forwarding", "1"), e.namespace.Sysctl("ipv6.conf.all.forwarding", "1"),
	); err != nil {
		t.Fatal(err)
	}
	lines := []string{
		"link set wire0 address 02:00:00:00:00:02", "link set wire0 up", "link set wire1 up",
		"addr add 172.18.0.2/16 dev wire0", "addr add fd10::2/64 dev wire0 nodad",
	}
	for _, p := range m.Peers[1:] {
		lines = append(lines, fmt.Sprintf("neigh add %s dev wire0 lladdr %s nud permanent",
			p.Underlay().Addr(), e.neighbour))
	}
	if err := e.namespace.IP(lines...); err != nil {
		t.Fatal(err)
	}
	e.inside(e.open)
	t.Cleanup(func() { _, _ = unix.Close(e.queue), unix.Close(e.wire) })
	if err := e.namespace.IP("link set tun0 up"); err != nil {
		t.Fatal(err)
	}
	e.Engine, e.user = programsOf(t, m), newUserEngine(t, m)
	w := wantedOver(m, "tun0", dataplane.Socket)
	w.Spread = spread
	e.inside(func() error { _, err := e.attach(w, e.tun); return err })
	for name, d := range map[string]peers.Directive{"b": {Finishes: true}, "c": {Finishes: true, MTU: 100}} {
		if err := errors.Join(e.Learn(name, d), e.user.Learn(name, d)); err != nil {
			t.Fatal(err)
		}
	}
	e.drain(e.queue)
	e.drain(e.wire)
	return e
}

// open makes the TUN, and listens on the wire. It runs in the namespace.
func (e *exit) open() (err error) {
	if e.queue, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
		return err
	}
	request, err := unix.NewIfreq("tun0")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(e.queue, unix.TUNSETIFF, request); err != nil {
		return os.NewSyscallError("TUNSETIFF", err)
	}
	tun, err := net.InterfaceByName("tun0")
	if err != nil {
		return err
	}
	wire, err := net.InterfaceByName("wire0")
	if err != nil {
		return err
	}
	e.tun, e.address = tun.Index, wire.HardwareAddr
	all := int(networkOrder(unix.ETH_P_ALL))
	const kind = unix.SOCK_RAW | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	if e.wire, err = unix.Socket(unix.AF_PACKET, kind, all); err != nil {
		return err
	}
	// With it, the first message tells of a tag that is beside the frame.
	return errors.Join(unix.SetsockoptInt(e.wire, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.Bind(e.wire, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: wire.Index}))
}

// drain returns all that waits at a descriptor.
func (e *exit) drain(fd int) (all [][]byte) {
	e.t.Helper()
	for b := make([]byte, 1<<16); ; {
		n, err := unix.Read(fd, b)
		if errors.Is(err, unix.EAGAIN) {
			return all
		}
		if err != nil {
			e.t.Fatal(err)
		}
		all = append(all, bytes.Clone(b[:n]))
	}
}

// left returns the datagrams on the wire, with a tag in them that was beside the frame.
func (e *exit) left() (all [][]byte) {
	e.t.Helper()
	const vlanValid = 0x10 // TP_STATUS_VLAN_VALID of linux/if_packet.h
	b, more := make([]byte, 1<<16), make([]byte, 256)
	for {
		n, m, _, _, err := unix.Recvmsg(e.wire, b, more, 0)
		if errors.Is(err, unix.EAGAIN) {
			return all
		}
		if err != nil {
			e.t.Fatal(err)
		}
		messages, err := unix.ParseSocketControlMessage(more[:m])
		if err != nil {
			e.t.Fatal(err)
		}
		f := bytes.Clone(b[:n])
		for _, message := range messages { // struct tpacket_auxdata
			if d := message.Data; len(d) >= 20 && binary.NativeEndian.Uint32(d)&vlanValid != 0 {
				tag := binary.BigEndian.AppendUint16([]byte{0x81, 0}, binary.NativeEndian.Uint16(d[16:]))
				f = append(append(bytes.Clone(f[:12]), tag...), f[12:]...)
			}
		}
		if isGreeting(f) {
			continue
		}
		all = append(all, f)
	}
}

// isGreeting tells whether a frame is one that the kernel itself sends by an interface: of ARP, of ICMPv6,
// or with the option that multicast reports have.
func isGreeting(f []byte) bool {
	proto := binary.BigEndian.Uint16(f[12:])
	return proto == unix.ETH_P_ARP ||
		proto == unix.ETH_P_IPV6 && (f[14+6] == 0 || f[14+6] == unix.IPPROTO_ICMPV6)
}

// frameOf is what is to be on the wire of a burst that user space sends: by the RFCs 791, 768, 8200.
func (e *exit) frameOf(b packet.Burst, port uint16) []byte {
	from := e.mesh.Peers[0].Underlay().AddrPort
	f := outerTo(from, b.Addr, b.TOS, b.Parts[0])
	copy(f, e.neighbour)
	copy(f[6:], e.address)
	udp := 14 + 40
	if b.Addr.Addr().Is4() {
		udp = 14 + 20
		f[14+6], f[14+10], f[14+11] = 0x40, 0, 0 // don't fragment
		binary.BigEndian.PutUint16(f[14+10:], packet.Checksum(f[14:udp], 0))
	}
	if e.spread {
		binary.BigEndian.PutUint16(f[udp:], port)
	}
	return f
}

// redirectTo is a tc program that sends a copy of what it sees by an interface, with a tag beside it if
// asked for.
func redirectTo(index int, tagged bool) (program asm.Instructions) {
	program = asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}
	if tagged {
		program = append(program,
			asm.Mov.Imm(asm.R2, int32(networkOrder(0x8100))),
			asm.Mov.Imm(asm.R3, 7),
			asm.FnSkbVlanPush.Call(),
			asm.Mov.Reg(asm.R1, asm.R6),
		)
	}
	return append(program,
		asm.Mov.Imm(asm.R2, int32(index)),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnCloneRedirect.Call(),
		asm.Return(),
	)
}

// fate has the program for sending decide about a packet that send sends to the TUN, and compares with user
// space. It returns what became of the packet; plain is one that must not be left to user space as unusual.
func (e *exit) fate(b []byte, plain bool, send func()) string {
	e.t.Helper()
	before := e.counters(e.t).Totals
	why := handedBy(e.t, e.handle(), send)
	after := e.counters(e.t).Totals
	wire, queue := e.left(), e.drain(e.queue)
	want := e.user.send(bytes.Clone(b))
	switch {
	case len(wire)+len(queue) != 1:
		e.t.Errorf("%d on the wire, %d in the queue (%q): % x", len(wire), len(queue), why, b)
	case len(queue) == 1:
		if why == "" || !bytes.Equal(queue[0], b) {
			e.t.Errorf("left to user space as %q, and changed:\n% x\n% x", why, b, queue[0])
		}
		if want == "sent" && (plain || why != "unusual") {
			e.t.Errorf("left to user space as %q, which sends it: % x", why, b)
		}
	case why != "" || want != "sent" || len(e.user.bursts) != 1:
		e.t.Errorf("sent, and handed over as %q; user space: %q: % x", why, want, b)
	default:
		return e.compare(b, wire[0], after.TxPackets-before.TxPackets, after.TxBytes-before.TxBytes)
	}
	return why
}

// compare judges a frame that was sent for a packet, and what was counted.
func (e *exit) compare(b, frame []byte, packets, count uint64) string {
	e.t.Helper()
	burst, udp := e.user.bursts[0], 14+20
	if burst.Addr.Addr().Is6() {
		udp = 14 + 40
	}
	port := binary.BigEndian.Uint16(frame[udp:])
	if want := e.frameOf(burst, port); !bytes.Equal(frame, want) || e.spread && port < 0xc000 {
		e.t.Errorf("% x was sent as\n% x, but is to be\n% x", b, frame, want)
	}
	if packets != 1 || count != uint64(len(b)) {
		e.t.Errorf("counted %d packets and %d bytes of %d", packets, count, len(b))
	}
	return "sent"
}

// sentOver returns a frame to any MAC address with a packet of a pod, the packet, and whether it is plain.
func (g *generator) sentOver() (frame, b []byte, plain bool) {
	b = g.sent()
	frame = make([]byte, 14, 14+len(b))
	for i := range 12 {
		frame[i] = byte(g.Uint32())
	}
	proto := uint16(unix.ETH_P_IP)
	if b[0]>>4 == 6 {
		proto = unix.ETH_P_IPV6
	}
	if g.IntN(20) == 0 {
		proto = one(g, uint16(unix.ETH_P_IP), unix.ETH_P_IPV6, unix.ETH_P_8021Q, unix.ETH_P_ARP, 0, 0xffff)
	}
	binary.BigEndian.PutUint16(frame[12:], proto)
	_, plain = packet.Parse(b)
	plain = plain && (b[0] == 0x45 && proto == unix.ETH_P_IP || b[0]>>4 == 6 && proto == unix.ETH_P_IPV6)
	return append(frame, b...), b, plain
}

// What leaves by the underlay is, byte for byte, what user space would have sent, and what is left to user
// space is as the pod sent it: whatever addresses of Ethernet it came with, whatever the kernel, rules and
// other programs have noted of it.
func TestSentFrames(t *testing.T) {
	for _, way := range []struct{ v6, spread bool }{{false, false}, {false, true}, {true, false}, {true, true}} {
		t.Run(fmt.Sprintf("IPv6 %v, spread %v", way.v6, way.spread), func(t *testing.T) {
			e := newExit(t, sendingMeshOver(way.v6), way.spread)
			program := loadProgram(t, ebpf.SchedCLS, redirectTo(e.tun, false))
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			g := &generator{Rand: rand.New(rand.NewPCG(seed, 0)), mesh: e.mesh}
			fates := map[string]int{}
			e.inside(func() error {
				for range 5000 {
					frame, b, plain := g.sentOver()
					fates[e.fate(b, plain, func() { e.run(program, frame, g.context()) })]++
					if t.Failed() {
						break
					}
				}
				return nil
			})
			t.Log(fates)
			for _, fate := range []string{"sent", "foreign_source", "no_route", "ttl_expired", "too_big",
				"unusual"} {
				if fates[fate] < 20 {
					t.Errorf("%d of %q: this tests little", fates[fate], fate)
				}
			}
		})
	}
}

// run has a program see a frame. It runs in the namespace.
func (e *exit) run(program *ebpf.Program, frame []byte, c skContext) {
	e.t.Helper()
	code, err := program.Run(&ebpf.RunOptions{Data: frame, Context: c})
	if err != nil || code != 0 {
		e.t.Errorf("redirecting returned %d: %v", int32(code), err)
	}
}

// inside runs f in the namespace.
func (e *exit) inside(f func() error) {
	e.t.Helper()
	if err := e.namespace.Do(f); err != nil {
		e.t.Fatal(err)
	}
}

// A packet with a VLAN's tag beside it, as a program of somebody else may bring one, does not leave: its
// datagram would be in that VLAN of the underlay. The TUN puts the tag into the packet, which user space then
// drops.
func TestSentTagged(t *testing.T) {
	e := newExit(t, sendingMesh(), false)
	program := loadProgram(t, ebpf.SchedCLS, redirectTo(e.tun, true))
	g := &generator{Rand: rand.New(rand.NewPCG(1, 0)), mesh: e.mesh}
	e.inside(func() error {
		for range 500 {
			frame, _, _ := g.sentOver()
			e.run(program, frame, g.context())
			for _, f := range e.left() {
				return fmt.Errorf("sent as % x: % x", f, frame)
			}
			for _, b := range e.drain(e.queue) {
				if e.user.send(b) == "sent" {
					return fmt.Errorf("left to user space, which sends % x: % x", b, frame)
				}
			}
		}
		return nil
	})
}

// What an XDP program of somebody else has put in front of a pod's packet does not leave, and changes
// nothing, were it the secret mark.
func TestSentWithMetadata(t *testing.T) {
	e := newExit(t, sendingMesh(), false)
	if err := e.namespace.IP("link add in0 type veth peer name in1", "link set in0 up",
		"link set in1 up"); err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0)), mesh: e.mesh}
	mark := e.settings.Mark.Words[:]
	for name, words := range map[string][]uint32{
		"short": {g.Uint32()}, "as long as a mark": {1, 2, 3, 4}, "the mark": mark,
		"longer than the mark": append(mark[:4:4], 0, 0, 0), "as long as it may be": append(mark[:4:4], mark...),
	} {
		t.Run(name, func(t *testing.T) {
			e.t = t
			fates := map[string]int{}
			e.through(words, func(pod int) {
				for range 2000 {
					frame, b, plain := g.sentOver()
					if binary.BigEndian.Uint16(frame[12:]) == unix.ETH_P_8021Q {
						continue // here the kernel takes the tag out of the frame
					}
					fates[e.fate(b, plain, func() { e.sendBy(pod, frame) })]++
					if t.Failed() {
						return
					}
				}
			})
			if t.Log(fates); fates["sent"] < 20 || fates["foreign_source"] < 20 {
				t.Error("this tests little")
			}
		})
	}
}

// through calls f with a socket for frames that get words in front of them, and go to the TUN.
func (e *exit) through(words []uint32, f func(pod int)) {
	e.t.Helper()
	meta := loadProgram(e.t, ebpf.XDP, metadataOf(words))
	redirect := loadProgram(e.t, ebpf.SchedCLS, redirectTo(e.tun, false))
	e.inside(func() error {
		in, err := net.InterfaceByName("in0")
		if err != nil {
			return err
		}
		pod, err := net.InterfaceByName("in1")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: pod.Index}); err != nil {
			return err
		}
		x, err := link.AttachXDP(link.XDPOptions{Program: meta, Interface: in.Index, Flags: link.XDPDriverMode})
		if err != nil {
			return err
		}
		defer x.Close()
		c, err := link.AttachTCX(link.TCXOptions{
			Program: redirect, Interface: in.Index, Attach: ebpf.AttachTCXIngress})
		if err != nil {
			return err
		}
		defer c.Close()
		f(fd)
		return nil
	})
}

// sendBy sends a frame by a socket, and waits until something of it is on the wire or in the TUN's queue.
func (e *exit) sendBy(pod int, frame []byte) {
	e.t.Helper()
	if _, err := unix.Write(pod, frame); err != nil {
		e.t.Error(err)
		return
	}
	ends := []unix.PollFd{{Fd: int32(e.wire), Events: unix.POLLIN}, {Fd: int32(e.queue), Events: unix.POLLIN}}
	n, err := unix.Poll(ends, 10_000)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Poll(ends, 10_000)
	}
	if n == 0 || err != nil {
		e.t.Errorf("nothing came of % x: %v", frame, err)
	}
}
