package user

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"syscall"
	"testing"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/virtio"
	"example.org/meshd/internal/mesh"
)

// tcp4 returns n TCP packets of one flow, in a row.
func tcp4(src, dst string, n, size int) (all [][]byte) {
	for i := range n {
		b := append(udp4(src, dst, 62, 0)[:20], make([]byte, 20+size)...)
		b[9] = 6
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		binary.BigEndian.PutUint16(b[4:], uint16(i))
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], packet.Checksum(b[:20], 0))
		t := b[20:]
		binary.BigEndian.PutUint32(t[4:], uint32(i*size))
		t[12], t[13], t[20] = 0x50, 0x10, byte(i)
		binary.BigEndian.PutUint16(t[16:], ^packet.Fold(packet.Sum(t, packet.PseudoSum(b[12:20], 6, len(t)))))
		all = append(all, b)
	}
	return all
}

// superframe returns the frame of a superpacket that stands for some packets.
func superframe(packets [][]byte) []byte {
	b := bytes.Clone(packets[0])
	for _, p := range packets[1:] {
		b = append(b, p[40:]...)
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], packet.Checksum(b[:20], 0))
	binary.BigEndian.PutUint16(b[36:], packet.Fold(packet.PseudoSum(b[12:20], 6, len(b)-20)))
	f := frame(b)
	virtio.Header{Partial: true, GSO: virtio.TCP4, SegmentSize: len(packets[0]) - 40, ChecksumStart: 20,
		ChecksumOffset: 16}.Put(f)
	return f
}

// forwarded returns packets as a router passes them on.
func forwarded(packets [][]byte) (all [][]byte) {
	for _, p := range packets {
		p = bytes.Clone(p)
		packet.DecrementTTL(p)
		all = append(all, p)
	}
	return all
}

func (r *rig) checkWire(t *testing.T, want [][]byte, bursts ...int) {
	t.Helper()
	if len(r.wire.sent) != len(want) {
		t.Fatalf("%d packets sent, want %d", len(r.wire.sent), len(want))
	}
	for i, b := range forwarded(want) {
		if !bytes.Equal(r.wire.sent[i].Data, b) {
			t.Errorf("packet %d:\n% x\nwant\n% x", i, r.wire.sent[i].Data[:48], b[:48])
		}
	}
	if bursts != nil && !slices.Equal(r.wire.bursts, bursts) {
		t.Errorf("bursts of %v, want %v", r.wire.bursts, bursts)
	}
}

// A superpacket leaves as its packets, in as few messages as they fit.
func TestSuperpacketOut(t *testing.T) {
	r := newRig(t, allOffloads...)
	packets := tcp4("10.244.0.2", "10.244.1.2", 45, 1432)
	r.out.forward([][]byte{superframe(packets)})
	r.checkWire(t, packets, 44, 1)
	c := r.Read()
	if b := c.Peers["b"]; b.TxPackets != 45 || b.TxBytes != 45*1472 ||
		c.Calls[mesh.TunRead] != (mesh.Calls{Calls: 1, Packets: 45}) ||
		c.Calls[mesh.WireWrite] != (mesh.Calls{Calls: 1, Packets: 45}) {
		t.Errorf("counted %+v, %v", b, c.Calls)
	}
	// Without UDP_SEGMENT each is a message of its own; the headers of all do
	// not fit into memory at once.
	r = newRig(t, "tso4")
	packets = tcp4("10.244.0.2", "10.244.1.2", 1300, 8)
	r.out.forward([][]byte{superframe(packets)})
	r.checkWire(t, packets)
	if len(r.wire.bursts) != 1300 {
		t.Errorf("%d messages", len(r.wire.bursts))
	}
}

// A superpacket that ends here counts as what it stands for, and is answered once.
func TestSuperpacketEnds(t *testing.T) {
	r := newRig(t, allOffloads...)
	r.out.forward([][]byte{superframe(tcp4("10.244.0.2", "10.244.9.2", 10, 1000))})
	if c := r.Read(); c.Totals.Drops[mesh.NoRoute] != 10 || len(r.tun.written) != 1 || len(r.wire.sent) != 0 {
		t.Errorf("%d drops, %d answers", c.Totals.Drops[mesh.NoRoute], len(r.tun.written))
	}
	bad := superframe(tcp4("10.244.0.2", "10.244.1.2", 10, 1000))
	bad[4], bad[5] = 0, 0 // no segment size
	r.out.forward([][]byte{bad, {1, 2, 3}})
	if c := r.Read(); c.Totals.Drops[mesh.Malformed] != 2 || len(r.wire.sent) != 0 {
		t.Errorf("%+v", c.Totals.Drops)
	}
}

// Packets of one size for one peer share a message; those of one peer stay in
// order.
func TestSmallPacketsShareMessages(t *testing.T) {
	r := newRig(t, allOffloads...)
	sized := func(dst string, tos uint8, n int) []byte {
		b := append(udp4("10.244.0.2", dst, 62, tos), make([]byte, n)...)
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], packet.Checksum(b[:20], 0))
		return b
	}
	b, c := "10.244.1.2", "10.244.2.2"
	r.send(sized(b, 0, 100), sized(c, 0, 100), sized(b, 0, 100), sized(c, 0, 50), sized(b, 0, 100),
		sized(c, 0, 50),                    // behind a shorter one: a new message
		sized(b, 8, 100), sized(b, 0, 100), // another class, and back
		sized(b, 0, 101)) // larger
	if want := []int{3, 2, 1, 1, 1, 1}; !slices.Equal(r.wire.bursts, want) {
		t.Errorf("bursts of %v, want %v", r.wire.bursts, want)
	}
	var toB []int
	for _, p := range r.wire.sent {
		if p.Addr.String() == "172.18.0.3:8285" {
			toB = append(toB, len(p.Data)*10+int(p.TOS))
		}
	}
	if want := []int{1280, 1280, 1280, 1288, 1280, 1290}; !slices.Equal(toB, want) {
		t.Errorf("to b: %v, want %v", toB, want)
	}
}

// A device without checksum offload refuses bursts (EIO, older kernels EINVAL):
// nothing is lost, and from then on packets leave one by one.
func TestBurstsRefused(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.EINVAL} {
		r := newRig(t, allOffloads...)
		r.wire.refuses = func(b *packet.Burst) error {
			if b.Packets > 1 {
				return errno
			}
			return nil
		}
		packets := tcp4("10.244.0.2", "10.244.1.2", 10, 1432)
		r.out.forward([][]byte{superframe(packets)})
		r.checkWire(t, packets)
		if info := r.Read().Works; slices.Contains(info.Offloads, "udp_gso") ||
			strings.Join(info.Refused, " ") != "udp_gso" {
			t.Errorf("%v: %+v", errno, info)
		}
		if c := r.Read(); c.Peers["b"].TxPackets != 10 || len(drops(c.Totals)) != 0 {
			t.Errorf("%v: counted %+v", errno, c.Totals)
		}
		offers := r.wire.offers
		r.out.forward([][]byte{superframe(packets)})
		if got := r.wire.offers - offers; got != 10 {
			t.Errorf("%v: %d messages offered for 10 packets", errno, got)
		}
	}
}

// A burst that is larger than the path is no reason to give up bursts: its
// packets are dealt with one by one, and their sender is told.
func TestBurstTooBig(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EMSGSIZE, syscall.EINVAL} { // EINVAL: before Linux 6.14
		r := newRig(t, allOffloads...)
		r.wire.refuses = func(b *packet.Burst) error {
			if b.Size > 1400 && b.Packets > 1 {
				return errno
			}
			if b.Size > 1400 {
				return syscall.EMSGSIZE
			}
			return nil
		}
		r.wire.mtu = 1428
		r.out.forward([][]byte{superframe(tcp4("10.244.0.2", "10.244.1.2", 10, 1432))})
		if c := r.Read(); c.Peers["b"].Drops[mesh.TooBig] != 10 || len(r.Read().Works.Refused) != 0 ||
			len(r.tun.written) != 10 {
			t.Errorf("%v: %+v, %+v, %d answers", errno, c.Peers["b"], r.Read().Works, len(r.tun.written))
		}
		if b := r.tun.written[0]; binary.BigEndian.Uint16(b[26:]) != 1400 {
			t.Errorf("told %d", binary.BigEndian.Uint16(b[26:]))
		}
	}
	// A full socket is another matter: the burst is lost, and nothing is tried.
	r := newRig(t, allOffloads...)
	r.wire.refuse[0] = syscall.EAGAIN
	r.out.forward([][]byte{superframe(tcp4("10.244.0.2", "10.244.1.2", 10, 1000))})
	if c := r.Read(); c.Peers["b"].Drops[mesh.SendError] != 10 || r.wire.offers != 1 {
		t.Errorf("%+v, %d offers", c.Peers["b"], r.wire.offers)
	}
}

// What the kernel merged on receiving is checked packet by packet and goes to the
// TUN as one frame.
func TestMergedIn(t *testing.T) {
	r := newRig(t, allOffloads...)
	packets := tcp4("10.244.1.2", "10.244.0.2", 10, 1432)
	var all []byte
	for i, p := range packets {
		if i == 4 {
			lie := tcp4("10.244.2.2", "10.244.0.2", 1, 1432)[0]
			all = append(all, lie...)
		}
		all = append(all, p...)
	}
	merged := func() []packet.Datagram {
		return []packet.Datagram{{Data: bytes.Clone(all), Size: 1472,
			Addr: threeNodes().Peers[1].Underlay().AddrPort}}
	}
	r.in.deliver(merged())
	check := func(r *rig, frames int) {
		t.Helper()
		c := r.Read()
		if b := c.Peers["b"]; b.RxPackets != 10 || b.RxBytes != 10*1472 || b.Drops[mesh.SpoofedSource] != 1 ||
			r.tun.frames != frames {
			t.Errorf("%d frames, counted %+v", r.tun.frames, b)
		}
		if len(r.tun.written) != 10 {
			t.Fatalf("%d packets delivered", len(r.tun.written))
		}
		for i, b := range forwarded(packets) {
			if !bytes.Equal(r.tun.written[i], b) {
				t.Errorf("packet %d changed", i)
			}
		}
	}
	check(r, 1)
	if c := r.Read(); c.Calls[mesh.WireRead] != (mesh.Calls{Calls: 1, Packets: 11}) ||
		c.Calls[mesh.TunWrite] != (mesh.Calls{Calls: 1, Packets: 10}) {
		t.Errorf("calls %v", c.Calls)
	}

	// A kernel that does not understand it gets them one by one, now and later.
	r = newRig(t, allOffloads...)
	r.tun.refuse[0] = syscall.EINVAL
	r.in.deliver(merged())
	check(r, 10)
	if got := strings.Join(r.Read().Works.Refused, " "); got != "tun_gro" {
		t.Errorf("refused %q", got)
	}
	r.in.deliver(merged())
	if r.tun.frames != 20 {
		t.Errorf("%d frames", r.tun.frames)
	}
	// An interface that is down refuses everything, which says nothing of that.
	r = newRig(t, allOffloads...)
	for i := range 30 {
		r.tun.refuse[i] = syscall.EIO
	}
	r.in.deliver(merged())
	if c := r.Read(); c.Peers["b"].Drops[mesh.WriteError] != 10 || len(r.Read().Works.Refused) != 0 {
		t.Errorf("%+v, %+v", c.Peers["b"], r.Read().Works)
	}
}

// Without offloads nothing is merged and nothing shares a message.
func TestPlain(t *testing.T) {
	r := newRig(t)
	packets := tcp4("10.244.0.2", "10.244.1.2", 3, 100)
	r.send(packets...)
	r.checkWire(t, packets, 1, 1, 1)
	r.receive("172.18.0.3:8285", 0, tcp4("10.244.1.2", "10.244.0.2", 3, 100)...)
	if info := r.Read().Works; r.tun.frames != 3 || len(info.Offloads) != 0 || len(info.Refused) != 0 {
		t.Errorf("%d frames, %+v", r.tun.frames, info)
	}
}
