package user

import (
	"bytes"
	"encoding/binary"
	"testing"

	"example.org/meshd/internal/budget"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/mesh"
)

// datagrams returns n datagrams of one flow in a row, with their checksums, the last one half as large, and
// the superpacket that stands for them.
func datagrams(src, dst string, n, size int) (all [][]byte, whole []byte) {
	whole = append(udp4(src, dst, 62, 0)[:20], make([]byte, 8)...)
	for i := range n {
		if i == n-1 {
			size /= 2
		}
		b := append(udp4(src, dst, 62, 0)[:20], make([]byte, 8+size)...)
		b[6] = packet.DontFragment
		binary.BigEndian.PutUint16(b[4:], uint16(i))
		b[28] = byte(i)
		finishDatagram(b)
		sum := packet.Sum(b[20:], packet.PseudoSum(b[12:20], 17, len(b)-20))
		binary.BigEndian.PutUint16(b[26:], ^packet.Fold(sum))
		all, whole = append(all, b), append(whole, b[28:]...)
	}
	whole[6] = packet.DontFragment
	finishDatagram(whole)
	binary.BigEndian.PutUint16(whole[26:], packet.Fold(packet.PseudoSum(whole[12:20], 17, len(whole)-20)))
	return all, whole
}

// finishDatagram sets ports, lengths, and the checksum of the IP header.
func finishDatagram(b []byte) {
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], packet.Checksum(b[:20], 0))
	copy(b[20:], []byte{0x1b, 0x58, 0x1b, 0x58})
	binary.BigEndian.PutUint16(b[24:], uint16(len(b)-20))
}

// A superpacket of UDP that came whole is delivered as its datagrams, in one frame if the kernel takes that,
// and among others of its flow in their order.
func TestWholeIn(t *testing.T) {
	packets, whole := datagrams("10.244.1.2", "10.244.0.2", 30, 1200)
	from := threeNodes().Peers[1].Underlay().AddrPort
	for name, test := range map[string]struct {
		offloads []string
		frames   int
	}{"kernel with USO": {allOffloads, 3}, "kernel without": {[]string{"tso4", "udp_gro"}, 32}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, test.offloads...)
			single, _ := datagrams("10.244.1.2", "10.244.0.2", 1, 300)
			r.in.deliver([]packet.Datagram{
				{Data: bytes.Clone(single[0]), Addr: from},
				{Data: bytes.Clone(whole), Size: 1200, Addr: from},
				{Data: bytes.Clone(single[0]), Addr: from},
			})
			want := forwarded(append(append(single[:1:1], packets...), single[0]))
			if len(r.tun.written) != len(want) || r.tun.frames != test.frames {
				t.Fatalf("%d packets in %d frames", len(r.tun.written), r.tun.frames)
			}
			for i := range want {
				if !bytes.Equal(r.tun.written[i], want[i]) {
					t.Errorf("packet %d: % x, want % x", i, r.tun.written[i][:40], want[i][:40])
				}
			}
			if c := r.Read(); c.Peers["b"].RxPackets != 32 || c.Calls[mesh.WireRead].Packets != 32 {
				t.Errorf("%+v, %+v", c.Peers["b"], c.Calls)
			}
		})
	}
}

// What only looks like a superpacket of UDP is dropped.
func TestWholeRefused(t *testing.T) {
	_, whole := datagrams("10.244.1.2", "10.244.0.2", 30, 1200)
	for name, test := range map[string]struct {
		size   int
		change func(b []byte)
	}{
		"header's checksum": {1200, func(b []byte) { b[10]++ }},
		"too many":          {100, func([]byte) {}},
		"another's source":  {1200, func(b []byte) { b[14] = 2; finishDatagram(b) }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, allOffloads...)
			b := bytes.Clone(whole)
			test.change(b)
			r.in.deliver([]packet.Datagram{{Data: b, Size: test.size,
				Addr: threeNodes().Peers[1].Underlay().AddrPort}})
			drops := r.Read().Peers["b"].Drops
			if len(r.tun.written) != 0 || drops[mesh.Malformed]+drops[mesh.SpoofedSource] == 0 {
				t.Errorf("%d packets written, drops %v", len(r.tun.written), drops)
			}
		})
	}
}

// Whatever a message holds, cutting it gives packets that add up to its payload, or none.
func FuzzCut(f *testing.F) {
	_, whole := datagrams("10.244.1.2", "10.244.0.2", 3, 100)
	f.Add(whole, 100)
	f.Add(udp6("fd00::1", "fd00::2", 64), 1)
	f.Fuzz(func(t *testing.T, b []byte, size int) {
		defer budget.Of(t)()
		if len(b) > packet.MaxSize {
			return
		}
		d := &packet.Datagram{Data: b, Size: size}
		if !d.IsWhole() {
			return
		}
		var c cutter
		got := c.cut(d)
		for p, ok := got.Next(); ok; p, ok = got.Next() {
			if _, ok := packet.Parse(p); !ok || !packet.ValidChecksum(p) || len(p) > len(b) {
				t.Fatalf("% x of % x, %d", p, b, size)
			}
		}
	})
}
