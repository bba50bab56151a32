package kernel

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/nstest"
)

// tcpFrom returns a packet of TCP from a pod of peer b to one of ours, known again by a word.
func tcpFrom(word string) []byte {
	header := make([]byte, 20)
	header[12], header[13] = 5<<4, 0x10 // 20 bytes, ACK
	from, to := netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("10.244.0.2")
	return ip4(from, to, 0, 64, 6, append(header, word...))
}

// sinceStart returns now by the clock of the programs, ns.
func sinceStart(t *testing.T) uint64 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		t.Fatal(err)
	}
	return uint64(now.Nano())
}

// countersOf returns a peer's counters, one for each CPU.
func (p *Engine) countersOf(t *testing.T, peer string) (cpus []meshCounters) {
	t.Helper()
	cpus, err := p.handle().chunks.lookup(p.tables.numbers[peer])
	if err != nil {
		t.Fatal(err)
	}
	return cpus
}

// sendWhole sends a frame whose UDP payload is not to be cut before it is received, though it is
// larger than a segment. It runs in the neighbour.
func sendWhole(f []byte, segment uint16) error {
	device, err := net.InterfaceByName("x0")
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		return err
	}
	// struct virtio_net_hdr of linux/virtio_net.h: VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_UDP_L4,
	// then the bytes of all headers, of a segment, and the places of UDP and of its checksum.
	const ethernet, ip, udp, udpChecksum = 14, 20, 8, 6
	header := []byte{1, 5}
	for _, n := range []uint16{ethernet + ip + udp, segment, ethernet + ip, udpChecksum} {
		header = binary.NativeEndian.AppendUint16(header, n)
	}
	return unix.Sendto(fd, append(header, f...), 0, &unix.SockaddrLinklayer{Ifindex: device.Index})
}

// Packets of a peer are not merged for a second after a superpacket of its came whole, and then they
// are again.
func TestWhole(t *testing.T) {
	n := newNeighbourhood(t)
	p := programsOf(t, n.mesh)
	n.attach(p, "tcx")
	merged, err := n.host.Capture(mergerExit)
	if err != nil {
		t.Fatal(err)
	}
	defer merged.Close()
	await := func(c *nstest.Capture, word string) (before []string) {
		t.Helper()
		for {
			b, err := c.Next(10*time.Second, func(b []byte) bool { return strings.Contains(string(b), "word:") })
			if err != nil {
				t.Fatal(err)
			}
			_, got, _ := strings.Cut(string(b), "word:")
			if got == word {
				return before
			}
			before = append(before, got)
		}
	}
	// deliver sends a packet of TCP, after a superpacket came whole on each CPU at a time. It returns
	// how much later the packet came, ns.
	deliver := func(whole uint64, word string) (later uint64) {
		t.Helper()
		cpus := p.countersOf(t, "b")
		for i := range cpus {
			cpus[i].Whole, cpus[i].Seen = whole, 0
		}
		number := p.tables.numbers["b"]
		if err := p.handle().chunks.made[0].Load().Update(number, cpus, ebpf.UpdateAny); err != nil {
			t.Fatal(err)
		}
		b := n.generator.outer(n.mesh.Peers[1].Underlay().AddrPort, 0, tcpFrom("word:"+word))
		n.do(func() error { return send(frame(n.address, 0x0800, b[14:])) })
		await(n.tun, word)
		for _, c := range p.countersOf(t, "b") {
			later = max(later, c.Seen)
		}
		return later - whole
	}
	// A superpacket is noted by its time, and no other packet is.
	deliver(0, "never")
	for _, c := range p.countersOf(t, "b") {
		if c.Whole != 0 {
			t.Errorf("a packet is noted: %+v", c)
		}
	}
	super := "super" + strings.Repeat(".", 1000)
	b := n.generator.outer(n.mesh.Peers[1].Underlay().AddrPort, 0, tcpFrom("word:"+super))
	n.do(func() error { return sendWhole(frame(n.address, 0x0800, b[14:]), 400) })
	await(n.tun, super)
	noted := func(c meshCounters) bool { return c.Whole != 0 && c.Whole == c.Seen }
	if cpus := p.countersOf(t, "b"); !slices.ContainsFunc(cpus, noted) {
		t.Errorf("the superpacket is not noted: %+v", cpus)
	}

	const second = uint64(time.Second)
	want := []string{"never", "a second ago", "long ago"}
	deliver(sinceStart(t)-second, "a second ago")
	deliver(1, "long ago") // what earlier programs have left, for which it was a flag
	for try := range 10 {  // a slow machine may take longer than the packet may be late
		word := fmt.Sprintf("just now, try %d", try)
		if deliver(sinceStart(t), word) < second {
			break
		}
		want = append(want, word)
	}
	deliver(0, "end")
	if got := await(merged, "end"); !slices.Equal(got, want) || len(want) == 13 {
		t.Errorf("merged %q, want %q", got, want)
	}
}
