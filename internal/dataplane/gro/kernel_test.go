package gro

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"testing"

	"example.org/meshd/internal/budget"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/tun"
	"example.org/meshd/internal/dataplane/virtio"
	"example.org/meshd/internal/nstest"
)

// A forwarder is the kernel as an oracle: it forwards what is written to one TUN to another that takes no
// offloads, so it has to cut superpackets and complete checksums by itself.
type forwarder struct {
	write  func(parts [][]byte) error
	out    *tun.Queue
	memory []byte
	frames [][]byte
}

// newForwarder makes one that ends with the test.
func newForwarder(t testing.TB) *forwarder {
	t.Helper()
	n := nstest.ForTest(t)
	f := &forwarder{memory: make([]byte, 1<<22), frames: make([][]byte, 256)}
	queues := map[string]*tun.Queue{}
	if err := n.Do(func() (err error) {
		for name, offload := range map[string]bool{"in0": true, "out0": false} {
			if err := tun.Create(name); err != nil {
				return err
			}
			if queues[name], err = tun.Open(name, offload); err != nil {
				return err
			}
		}
		return n.IP("link set in0 mtu 65000 addrgenmode none up", "link set out0 mtu 65000 addrgenmode none up",
			"addr add 10.244.0.0/32 dev in0", "route add 10.244.0.0/16 dev out0", "route add fd00::/16 dev out0")
	}); err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{"ipv4.ip_forward": "1", "ipv6.conf.all.forwarding": "1",
		"ipv4.conf.all.rp_filter": "0", "ipv4.conf.in0.rp_filter": "0"} {
		if err := n.Sysctl(key, value); err != nil {
			t.Fatal(err)
		}
	}
	f.write, f.out = queues["in0"].Writer(), queues["out0"]
	t.Cleanup(func() {
		if err := errors.Join(queues["in0"].Close(), queues["out0"].Close()); err != nil {
			t.Error(err)
		}
	})
	return f
}

// forward writes frames and returns the packets that leave. The kernel forwards a packet before it returns
// from the write.
func (f *forwarder) forward(t testing.TB, frames ...[]byte) (all [][]byte) {
	t.Helper()
	for _, frame := range frames {
		if err := f.write([][]byte{frame}); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.out.Wake(); err != nil {
		t.Fatal(err)
	}
	for {
		n, err := f.out.Read(f.memory, f.frames)
		for _, frame := range f.frames[:n] {
			h, b, ok := virtio.Parse(frame)
			if !ok || h.GSO != virtio.None || h.Partial {
				t.Fatalf("the kernel has left something to do: %+v", h)
			}
			if b[0]>>4 == 4 || b[6] == packet.ProtoTCP || b[6] == packet.ProtoUDP { // no greetings of IPv6
				all = append(all, bytes.Clone(b))
			}
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// forwarded returns a packet as a router sends it on: with a smaller TTL.
func forwarded(b []byte) []byte {
	b = bytes.Clone(b)
	if b[0]>>4 == 6 {
		b[7]--
		return b
	}
	b[8]--
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], packet.Checksum(b[:int(b[0]&0x0f)*4], 0))
	return b
}

// withoutID returns packets without what merging may change: the identification of a packet that is not to be
// fragmented (RFC 6864, section 4.1), and so its header's checksum.
func withoutID(all [][]byte) [][]byte {
	for _, b := range all {
		if b[0]>>4 == 4 && b[6]&0x40 != 0 {
			clear(b[4:6])
			clear(b[10:12])
		}
	}
	return all
}

// entropy is a source of what a fuzzer chose, and of noise that follows from it when that is used up.
type entropy struct {
	chosen []byte
	noise  *rand.PCG
}

func newEntropy(chosen []byte) *rand.Rand {
	var seed uint64
	for _, c := range chosen {
		seed = seed*31 + uint64(c)
	}
	return rand.New(&entropy{chosen, rand.NewPCG(seed, 1)})
}

func (e *entropy) Uint64() (n uint64) {
	if len(e.chosen) < 8 {
		return e.noise.Uint64()
	}
	n, e.chosen = binary.LittleEndian.Uint64(e.chosen), e.chosen[8:]
	return n
}

// seedsOf adds inputs with which a target is a test of its own.
func seedsOf(f *testing.F, many uint8) {
	for n := range many {
		f.Add([]byte{n})
	}
}

// What is merged leaves the kernel as it was before: the kernel cuts superpackets as they were put together.
func FuzzKernelCutsMerged(f *testing.F) {
	k := newForwarder(f)
	seedsOf(f, 40)
	f.Fuzz(func(t *testing.T, chosen []byte) {
		defer budget.Of(t)()
		c := New(true, true)
		in := randomFlows(newEntropy(chosen))
		var want, frames [][]byte
		for _, b := range in {
			want = append(want, forwarded(b))
			c.Add(bytes.Clone(b))
		}
		for n := range c.Len() {
			frames = append(frames, bytes.Join(c.Frame(n), nil))
		}
		compareFlows(t, withoutID(want), withoutID(k.forward(t, frames...)))
	})
}

// Superpackets are cut as the kernel cuts them.
func FuzzKernelSegments(f *testing.F) {
	k := newForwarder(f)
	seedsOf(f, 100)
	f.Fuzz(func(t *testing.T, chosen []byte) {
		defer budget.Of(t)()
		r := newEntropy(chosen)
		size := 1 + r.IntN(1400)
		p := packetOf{v6: r.IntN(2) == 0, udp: r.IntN(2) == 0, id: uint16(r.Uint32()), df: r.IntN(2) == 0,
			seq: r.Uint32(), ack: r.Uint32(), flags: uint8(r.Uint32()), window: uint16(r.Uint32()),
			options: make([]byte, 4*r.IntN(11)), tos: uint8(r.Uint32()), ttl: 60, payload: make([]byte,
				1+size+r.IntN(min(60000, 63*size)))}
		for i := range p.payload {
			p.payload[i] = uint8(r.Uint32())
		}
		b := p.bytes()
		h := headerOf(p, size)
		// The sum of the pseudo-header is in the checksum's place.
		addresses, proto := b[12:20], b[9]
		if p.v6 {
			addresses, proto = b[8:40], b[6]
		}
		sum := packet.Fold(packet.PseudoSum(addresses, proto, len(b)-h.ChecksumStart))
		binary.BigEndian.PutUint16(b[h.ChecksumStart+h.ChecksumOffset:], sum)
		frame := append(make([]byte, virtio.HeaderSize), b...)
		h.Put(frame)
		got := k.forward(t, frame)
		s, ok := h.Segment(b)
		if !ok || s.Len() != len(got) {
			t.Fatalf("%d segments, and %d of the kernel: %+v", s.Len(), len(got), h)
		}
		for i := range got {
			want := forwarded(append(s.Header(i, make([]byte, s.HeaderLen())), s.Payload(i)...))
			if !bytes.Equal(got[i], want) {
				head := func(b []byte) []byte { return b[:min(80, len(b))] }
				t.Fatalf("segment %d of %d: % x\nthe kernel's is % x", i, len(got), head(want), head(got[i]))
			}
		}
	})
}

// headerOf returns the header of a superpacket that a packet without end is cut into.
func headerOf(p packetOf, size int) virtio.Header {
	h := virtio.Header{Partial: true, GSO: virtio.TCP4, SegmentSize: size, ChecksumStart: 20, ChecksumOffset: 16}
	if p.v6 {
		h.GSO, h.ChecksumStart = virtio.TCP6, 40
	}
	h.HeaderLen = h.ChecksumStart + 20 + len(p.options)
	if p.udp {
		h.GSO, h.ChecksumOffset, h.HeaderLen = virtio.UDP, 6, h.ChecksumStart+8
	}
	return h
}
