package gro

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"example.org/meshd/internal/budget"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/virtio"
)

// packetOf describes one packet of a flow.
type packetOf struct {
	v6, udp      bool
	port         uint16 // tells flows apart
	id           uint16
	df           bool
	seq, ack     uint32
	flags        uint8
	window       uint16
	options      []byte
	tos, ttl     uint8
	payload      []byte
	more         bool // more fragments
	wrong, noSum bool // checksum
}

func (p packetOf) bytes() []byte {
	t := make([]byte, 8)
	proto, check := uint8(17), 6
	if !p.udp {
		proto, check = 6, 16
		t = append(make([]byte, 20), p.options...)
		binary.BigEndian.PutUint32(t[4:], p.seq)
		binary.BigEndian.PutUint32(t[8:], p.ack)
		t[12], t[13] = uint8(len(t)/4)<<4, p.flags
		binary.BigEndian.PutUint16(t[14:], p.window)
	}
	binary.BigEndian.PutUint16(t, p.port)
	binary.BigEndian.PutUint16(t[2:], 80)
	t = append(t, p.payload...)
	if p.udp {
		binary.BigEndian.PutUint16(t[4:], uint16(len(t)))
	}
	ip, addresses := make([]byte, 20), []byte{10, 244, 1, 2, 10, 244, 2, 3}
	if p.v6 {
		ip = make([]byte, 40)
		ip[0], ip[1], ip[6], ip[7] = 0x60|p.tos>>4, p.tos<<4, proto, p.ttl
		addresses = []byte{0: 0xfd, 15: 1, 16: 0xfd, 31: 2}
		binary.BigEndian.PutUint16(ip[4:], uint16(len(t)))
		copy(ip[8:], addresses)
	} else {
		ip[0], ip[1], ip[8], ip[9] = 0x45, p.tos, p.ttl, proto
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(t)))
		binary.BigEndian.PutUint16(ip[4:], p.id)
		if p.df {
			ip[6] = 0x40
		}
		if p.more {
			ip[6] |= 0x20
		}
		copy(ip[12:], addresses)
		binary.BigEndian.PutUint16(ip[10:], packet.Checksum(ip, 0))
	}
	if !p.noSum {
		sum := ^packet.Fold(packet.Sum(t, packet.PseudoSum(addresses, proto, len(t))))
		if p.wrong {
			sum ^= 0x0100
		}
		binary.BigEndian.PutUint16(t[check:], sum)
	}
	return append(ip, t...)
}

// unfold returns the packets that the kernel will make of a group's frame.
func unfold(t testing.TB, c *Coalescer, n int) (all [][]byte) {
	t.Helper()
	h, b, ok := virtio.Parse(bytes.Join(c.Frame(n), nil))
	if !ok {
		t.Fatal("no frame")
	}
	if h.GSO == virtio.None {
		if h != (virtio.Header{}) {
			t.Errorf("offloads without a superpacket: %+v", h)
		}
		return [][]byte{b}
	}
	if _, ok := packet.Parse(b); !ok || !packet.ValidChecksum(b) {
		t.Errorf("no IP packet: % x", b[:40])
	}
	s, ok := h.Segment(b)
	if !ok {
		t.Fatalf("cannot be segmented: %+v", h)
	}
	for i := range s.Len() {
		all = append(all, append(s.Header(i, make([]byte, s.HeaderLen())), s.Payload(i)...))
	}
	if s.Len() != len(c.Packets(n)) {
		t.Errorf("%d packets became %d", len(c.Packets(n)), s.Len())
	}
	return all
}

func data(n int, first byte) []byte {
	b := bytes.Repeat([]byte{first}, n)
	return b
}

// Random flows, interleaved, with everything that goes wrong: what comes out is
// what went in, in the order of each flow, and nothing passes a fragment.
func TestRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	c := New(true, true)
	merged := 0
	for range 300 {
		c.Reset()
		in := randomFlows(r)
		var groups []int
		for _, b := range in {
			groups = append(groups, c.Add(bytes.Clone(b)))
		}
		out := make([][]byte, 0, len(in))
		for n := range c.Len() {
			if len(c.Packets(n)) > 1 {
				merged++
			}
			out = append(out, unfold(t, c, n)...)
		}
		compareFlows(t, in, out)
		nothingPassesFragments(t, in, groups)
	}
	if merged < 1000 {
		t.Errorf("only %d superpackets: nothing was tested", merged)
	}
}

// randomFlows returns 200 packets of a few flows, with everything that goes wrong.
func randomFlows(r *rand.Rand) (in [][]byte) {
	flows := make([]packetOf, 1+r.IntN(12))
	for i := range flows {
		flows[i] = packetOf{v6: r.IntN(2) == 0, udp: r.IntN(3) == 0, port: uint16(i), df: r.IntN(4) != 0,
			id: uint16(r.Uint32()), seq: r.Uint32(), flags: ack, ttl: 60, payload: data(1+r.IntN(1400), byte(i))}
		if r.IntN(2) == 0 {
			flows[i].options = []byte{1, 1, 8, 10, 0, 0, 0, byte(i), 0, 0, 0, 2}
		}
	}
	for range 200 {
		f := &flows[r.IntN(len(flows))]
		p := *f
		switch r.IntN(30) {
		case 0:
			p.wrong = true
		case 1:
			p.payload = p.payload[:r.IntN(len(p.payload))]
		case 2:
			p.flags |= uint8(r.Uint32())
		case 3:
			p.tos = uint8(r.Uint32())
		case 4:
			p.more = true
		case 5:
			p.id += 5
		}
		in = append(in, p.bytes())
		f.id++
		f.seq += uint32(len(p.payload))
	}
	return in
}

// nothingPassesFragments checks that a fragment is a fence: its group stands behind those of all
// packets before it, and in front of those behind it.
func nothingPassesFragments(t *testing.T, in [][]byte, groups []int) {
	t.Helper()
	for i := range groups {
		if in[i][0]>>4 != 4 || in[i][6]&0x20 == 0 {
			continue
		}
		for j := range groups {
			if j < i && groups[j] >= groups[i] || j > i && groups[j] <= groups[i] {
				t.Fatalf("packet %d (group %d) passed the fragment %d (group %d)", j, groups[j], i, groups[i])
			}
		}
	}
}

// compareFlows checks that both have the same packets in the order of each flow.
func compareFlows(t *testing.T, in, out [][]byte) {
	t.Helper()
	byFlow := func(all [][]byte) map[string][][]byte {
		flows := map[string][][]byte{}
		for _, b := range all {
			key := string(b[9]) + string(b[12:24])
			if b[0]>>4 == 6 {
				key = string(b[6]) + string(b[8:44])
			}
			flows[key] = append(flows[key], b)
		}
		return flows
	}
	before, after := byFlow(in), byFlow(out)
	for key, want := range before {
		got := after[key]
		if len(got) != len(want) {
			t.Fatalf("%d packets of a flow became %d", len(want), len(got))
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				head := func(b []byte) []byte { return b[:min(80, len(b))] }
				t.Fatalf("packet %d of a flow:\n% x\nwant\n% x", i, head(got[i]), head(want[i]))
			}
		}
	}
}

// A superpacket stays within what the kernel takes.
func TestLimits(t *testing.T) {
	for _, size := range []int{1, 1400, 9000} {
		c := New(true, true)
		p := packetOf{df: true, flags: ack, ttl: 60, payload: data(size, 'x')}
		for range 200 {
			c.Add(p.bytes())
			p.id++
			p.seq += uint32(size)
		}
		for n := range c.Len() {
			frame := bytes.Join(c.Frame(n), nil)
			if len(c.Packets(n)) > 64 || len(frame) > virtio.HeaderSize+65535 {
				t.Errorf("%d packets, %d bytes", len(c.Packets(n)), len(frame))
			}
		}
		if c.Len() > 40 {
			t.Errorf("%d groups of 200 packets", c.Len())
		}
	}
}

// More flows than are merged at a time go through all the same.
func TestManyFlows(t *testing.T) {
	c := New(true, true)
	for i := range uint16(100) {
		p := packetOf{port: i % 20, df: true, id: i / 20, flags: ack, ttl: 60, seq: uint32(i/20) * 10,
			payload: data(10, 'x')}
		c.Add(p.bytes())
	}
	count := 0
	for n := range c.Len() {
		count += len(unfold(t, c, n))
	}
	if count != 100 {
		t.Errorf("%d packets", count)
	}
	c.Off()
	c.Reset()
	p := packetOf{df: true, flags: ack, ttl: 60, payload: data(10, 'x')}
	q := p
	q.id, q.seq = 1, 10
	if c.Add(p.bytes()) == c.Add(q.bytes()) {
		t.Error("merged after Off")
	}
}

func FuzzCoalesce(f *testing.F) {
	p := packetOf{df: true, flags: ack, ttl: 60, payload: data(10, 'x')}
	q := p
	q.id, q.seq = 1, 10
	f.Add(p.bytes(), q.bytes())
	p.v6, q.v6, p.udp, q.udp = true, true, true, true
	f.Add(p.bytes(), q.bytes())
	f.Fuzz(func(t *testing.T, a, b []byte) {
		defer budget.Of(t)()
		c := New(true, true)
		var in [][]byte
		for _, x := range [][]byte{a, b} {
			if _, ok := packet.Parse(x); ok && packet.ValidChecksum(x) {
				in = append(in, x)
				c.Add(bytes.Clone(x))
			}
		}
		var out [][]byte
		for n := range c.Len() {
			out = append(out, unfold(t, c, n)...)
		}
		for i := range in {
			same := bytes.Equal(out[i], in[i])
			if in[i][0]>>4 == 4 && in[i][6]&0x40 != 0 { // the one exception
				same = bytes.Equal(out[i][12:], in[i][12:]) && bytes.Equal(out[i][:4], in[i][:4])
			}
			if !same {
				t.Errorf("packet %d:\n% x\nwas\n% x", i, out[i], in[i])
			}
		}
	})
}

func full() (all [][]byte) {
	p := packetOf{df: true, flags: ack, ttl: 60, payload: data(1420, 'x'), options: stamps}
	for range 45 {
		all = append(all, p.bytes())
		p.id++
		p.seq += 1420
	}
	return all
}

func TestCoalescingDoesNotAllocate(t *testing.T) {
	c, batch := New(true, true), full()
	if n := testing.AllocsPerRun(10, func() { coalesce(c, batch) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func coalesce(c *Coalescer, batch [][]byte) {
	c.Reset()
	for _, b := range batch {
		c.Add(b)
	}
	for n := range c.Len() {
		c.Frame(n)
	}
}

func BenchmarkCoalesce(b *testing.B) {
	c, batch := New(true, true), full()
	b.SetBytes(int64(len(batch) * len(batch[0])))
	for b.Loop() {
		coalesce(c, batch)
	}
}
