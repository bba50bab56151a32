package virtio

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"example.org/meshd/internal/budget"
	"example.org/meshd/internal/dataplane/packet"
)

func TestHeaderRoundTrip(t *testing.T) {
	for _, h := range []Header{
		{},
		{Partial: true, ChecksumStart: 20, ChecksumOffset: 16},
		{Partial: true, GSO: TCP6, HeaderLen: 72, SegmentSize: 1400, ChecksumStart: 40, ChecksumOffset: 16},
	} {
		frame := make([]byte, HeaderSize+3)
		h.Put(frame)
		if got, data, ok := Parse(frame); !ok || got != h || len(data) != 3 {
			t.Errorf("%+v became %+v, %d bytes, %v", h, got, len(data), ok)
		}
	}
	if h, _, ok := Parse([]byte{1, ecnBit | 1, 0, 0, 0, 0, 0, 0, 0, 0}); !ok || h.GSO != TCP4 {
		t.Errorf("with CWR: %+v", h)
	}
	if _, _, ok := Parse(make([]byte, HeaderSize-1)); ok {
		t.Error("parsed half a header")
	}
}

// shape is what makes a superpacket.
type shape struct {
	v6, tcp          bool
	options, payload int // bytes
	size             int
	flags            uint8
}

// super builds a superpacket as the kernel hands it out, with the sum of the
// pseudo-header in the checksum's place.
func (s shape) super(r *rand.Rand) (Header, []byte) {
	ip, proto, transport := 20, uint8(6), 20+s.options
	if s.v6 {
		ip = 40
	}
	h := Header{Partial: true, GSO: TCP4, SegmentSize: s.size, ChecksumStart: ip, ChecksumOffset: 16}
	if s.v6 {
		h.GSO = TCP6
	}
	if !s.tcp {
		proto, transport = 17, 8
		h.GSO, h.ChecksumOffset = UDP, 6
	}
	b := make([]byte, ip+transport+s.payload)
	for i := range b {
		b[i] = uint8(r.Uint32())
	}
	addresses := b[12:20]
	if s.v6 {
		addresses = b[8:40]
		b[0], b[6] = 0x60|b[0]&0x0f, proto
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-ip))
	} else {
		b[0], b[9] = 0x45, proto
		b[6], b[7] = 0x40, 0
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	}
	t := b[ip:]
	if s.tcp {
		t[12], t[13] = uint8(transport/4)<<4, s.flags
	} else {
		binary.BigEndian.PutUint16(t[4:], uint16(len(t)))
	}
	binary.BigEndian.PutUint16(t[h.ChecksumOffset:], packet.Fold(packet.PseudoSum(addresses, proto, len(t))))
	return h, b
}

// slowSum adds 16 bits at a time.
func slowSum(parts ...[]byte) uint16 {
	sum := 0
	for _, b := range parts {
		for i := 0; i < len(b); i += 2 {
			n := int(b[i]) << 8
			if i+1 < len(b) {
				n |= int(b[i+1])
			}
			if sum += n; sum > 0xffff {
				sum -= 0xffff
			}
		}
	}
	return uint16(sum)
}

// slowSegments cuts a superpacket field by field, as the RFCs have it.
func slowSegments(h Header, b []byte) (all [][]byte) {
	v6, tcp, transport := b[0]>>4 == 6, h.GSO != UDP, h.ChecksumStart
	headers := transport + 8
	if tcp {
		headers = transport + int(b[transport+12]>>4)*4
	}
	payload := b[headers:]
	for i := 0; len(payload) > 0; i++ {
		n := min(h.SegmentSize, len(payload))
		p := append(bytes.Clone(b[:headers]), payload[:n]...)
		payload = payload[n:]
		put := func(at int, value int) { p[at], p[at+1] = byte(value>>8), byte(value) }
		length := len(p) - transport
		addresses, proto := p[12:20], p[9]
		if v6 {
			addresses, proto = p[8:40], p[6]
			put(4, len(p)-40)
		} else {
			put(2, len(p))
			put(4, int(binary.BigEndian.Uint16(b[4:]))+i)
			put(10, 0)
			put(10, int(^slowSum(p[:20])))
		}
		check := transport + 6
		if tcp {
			check = transport + 16
			sequence := binary.BigEndian.Uint32(b[transport+4:]) + uint32(i*h.SegmentSize)
			binary.BigEndian.PutUint32(p[transport+4:], sequence)
			if i > 0 {
				p[transport+13] &= 0x7f // CWR
			}
			if len(payload) > 0 {
				p[transport+13] &= 0xf6 // PSH, FIN
			}
		} else {
			put(transport+4, length)
		}
		put(check, 0)
		sum := ^slowSum(addresses, []byte{0, proto, byte(length >> 8), byte(length)}, p[transport:])
		if sum == 0 && !tcp {
			sum = 0xffff
		}
		put(check, int(sum))
		all = append(all, p)
	}
	return all
}

func segmentsOf(t testing.TB, h Header, b []byte) (all [][]byte) {
	t.Helper()
	s, ok := h.Segment(b)
	if !ok {
		t.Fatalf("no superpacket: %+v, %d bytes", h, len(b))
	}
	buf := make([]byte, s.HeaderLen())
	for i := range s.Len() {
		all = append(all, append(bytes.Clone(s.Header(i, buf)), s.Payload(i)...))
	}
	return all
}

func TestSegmentsAgainstOracle(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for n := range 4000 {
		s := shape{
			v6: n&1 != 0, tcp: n&2 != 0, options: r.IntN(11) * 4, flags: uint8(r.Uint32()),
			payload: 1 + r.IntN(1+r.IntN(65000)), size: 1 + r.IntN(1500),
		}
		if n%50 == 0 {
			s.size, s.payload = 1432, 64000
		}
		s.size = max(s.size, s.payload/500)
		h, b := s.super(r)
		got, want := segmentsOf(t, h, b), slowSegments(h, b)
		if len(got) != len(want) {
			t.Fatalf("%+v: %d segments, want %d", s, len(got), len(want))
		}
		for i := range got {
			// Zero and its complement are the same sum; a slow sum never gives 0.
			if !bytes.Equal(got[i], want[i]) {
				head := func(b []byte) []byte { return b[:min(80, len(b))] }
				t.Fatalf("%+v, segment %d of %d:\n% x\nwant\n% x", s, i, len(got), head(got[i]), head(want[i]))
			}
		}
	}
}

// What does not fit together is no superpacket.
func TestSegmentRefuses(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	h, b := shape{tcp: true, payload: 3000, size: 1000}.super(r)
	six, b6 := shape{v6: true, tcp: true, payload: 3000, size: 1000}.super(r)
	change := func(f func(*Header)) Header { c := h; f(&c); return c }
	doff := bytes.Clone(b)
	doff[32] = 0x40
	for name, test := range map[string]struct {
		h Header
		b []byte
	}{
		"none":                 {change(func(h *Header) { h.GSO = None }), b},
		"fragments (UFO)":      {change(func(h *Header) { h.GSO = 3 }), b},
		"no size":              {change(func(h *Header) { h.SegmentSize = 0 }), b},
		"whole checksum":       {change(func(h *Header) { h.Partial = false }), b},
		"transport in IP":      {change(func(h *Header) { h.ChecksumStart = 12 }), b},
		"transport behind":     {change(func(h *Header) { h.ChecksumStart = 4000 }), b},
		"headers too long":     {change(func(h *Header) { h.ChecksumStart = 300 }), b},
		"another family":       {change(func(h *Header) { h.GSO = TCP6 }), b},
		"another family, IPv6": {change(func(h *Header) { h.GSO = TCP4 }), b6},
		"data offset":          {h, doff},
		"no payload":           {h, b[:40]},
		"cut":                  {h, b[:30]},
		"cut IPv6":             {six, b6[:30]},
		"empty":                {h, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if _, ok := test.h.Segment(test.b); ok {
				t.Error("accepted")
			}
		})
	}
}

func TestComplete(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	for n := range 200 {
		s := shape{v6: n&1 != 0, tcp: n&2 != 0, payload: 1 + r.IntN(1400), size: 1500}
		h, b := s.super(r)
		want := slowSegments(h, b)[0]
		h.GSO, h.SegmentSize = None, 0
		if !s.v6 { // the checksum of the IP header is not left to us
			copy(b[10:12], want[10:12])
		}
		if !h.Complete(b) || !bytes.Equal(b, want) {
			t.Fatalf("%+v:\n% x\nwant\n% x", s, b, want)
		}
		h.ChecksumStart = len(b) - 1
		if h.Complete(b) {
			t.Error("a checksum behind the packet")
		}
	}
	if b := []byte{1, 2}; !(Header{}).Complete(b) || b[0] != 1 {
		t.Error("nothing to complete")
	}
}

func FuzzFrame(f *testing.F) {
	r := rand.New(rand.NewPCG(6, 6))
	for n := range 4 {
		h, b := shape{v6: n&1 != 0, tcp: n&2 != 0, payload: 100, size: 30}.super(r)
		frame := append(make([]byte, HeaderSize), b...)
		h.Put(frame)
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		defer budget.Of(t)()
		h, b, ok := Parse(frame)
		if !ok {
			return
		}
		if s, ok := h.Segment(b); ok {
			buf, total := make([]byte, s.HeaderLen()), 0
			for i := range min(s.Len(), 2000) {
				s.Header(i, buf)
				total += len(s.Payload(i))
			}
			if s.Len() <= 2000 && s.HeaderLen()+total != len(b) {
				t.Errorf("%d + %d bytes of %d", s.HeaderLen(), total, len(b))
			}
		}
		h.Complete(b)
	})
}

func TestSegmentingDoesNotAllocate(t *testing.T) {
	h, b := shape{tcp: true, options: 12, payload: 64000, size: 1432}.super(rand.New(rand.NewPCG(7, 7)))
	buf := make([]byte, MaxHeaders)
	if n := testing.AllocsPerRun(10, func() {
		s, _ := h.Segment(b)
		for i := range s.Len() {
			s.Header(i, buf)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSegment(b *testing.B) {
	h, p := shape{tcp: true, options: 12, payload: 64000, size: 1420}.super(rand.New(rand.NewPCG(8, 8)))
	buf := make([]byte, MaxHeaders)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		s, _ := h.Segment(p)
		for i := range s.Len() {
			s.Header(i, buf)
		}
	}
}
