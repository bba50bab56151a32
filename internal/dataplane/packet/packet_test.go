package packet

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"

	"example.org/meshd/internal/budget"
)

// slowSum is the oracle of checksums: what RFC 1071 says in words. Add the 16-bit numbers, add the
// carries back, take the complement.
func slowSum(b []byte) uint16 {
	sum := 0
	for i := range b {
		if i%2 == 0 {
			sum += int(b[i]) << 8
		} else {
			sum += int(b[i])
		}
		if sum > 0xffff {
			sum -= 0xffff
		}
	}
	return ^uint16(sum)
}

var (
	pod1 = netip.MustParseAddr("10.244.1.2")
	pod2 = netip.MustParseAddr("10.244.2.3")
	six1 = netip.MustParseAddr("fd00:10:244:1::2")
	six2 = netip.MustParseAddr("fd00:10:244:2::3")
)

// ip4 returns a finished IPv4 packet with the given protocol and payload.
func ip4(src, dst netip.Addr, proto uint8, payload []byte, options ...byte) []byte {
	b := make([]byte, 20, 20+len(options)+len(payload))
	b[0] = 0x45 + uint8(len(options)/4)
	b[8], b[9] = 64, proto
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	b = append(b, options...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)+len(payload)))
	binary.BigEndian.PutUint16(b[10:], slowSum(b))
	return append(b, payload...)
}

func ip6(src, dst netip.Addr, next uint8, payload []byte) []byte {
	b := make([]byte, 40, 40+len(payload))
	b[0], b[6], b[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return append(b, payload...)
}

func TestParse(t *testing.T) {
	four := ip4(pod1, pod2, 17, make([]byte, 8))
	four[1] = 0xb9
	if h, ok := Parse(four); !ok || h != (Header{Src: pod1, Dst: pod2, TTL: 64, TOS: 0xb9}) {
		t.Errorf("IPv4: %+v, %v", h, ok)
	}
	six := ip6(six1, six2, 17, make([]byte, 8))
	six[0], six[1] = 0x6b, 0x95
	if h, ok := Parse(six); !ok || h != (Header{Src: six1, Dst: six2, TTL: 64, TOS: 0xb9}) {
		t.Errorf("IPv6: %+v, %v", h, ok)
	}

	bad := map[string][]byte{
		"empty":                 {},
		"one byte":              {0x45},
		"IPv4 cut":              four[:len(four)-1],
		"IPv4 with a tail":      append(bytes.Clone(four), 0),
		"IPv4 header cut":       four[:19],
		"IPv4 header too short": append([]byte{0x44}, four[1:]...),
		"IPv4 header too long":  append([]byte{0x4f}, four[1:]...),
		"version 5":             append([]byte{0x55}, four[1:]...),
		"IPv6 cut":              six[:len(six)-1],
		"IPv6 with a tail":      append(bytes.Clone(six), 0),
		"IPv6 header cut":       six[:39],
	}
	for name, b := range bad {
		t.Run(name, func(t *testing.T) {
			if _, ok := Parse(b); ok {
				t.Error("accepted")
			}
		})
	}
}

// Fragments are told by their flag or their offset, and the later ones by their offset alone.
func TestFragments(t *testing.T) {
	for name, test := range map[string]struct {
		flags, offset byte
		is, later     bool
	}{
		"whole":          {0, 0, false, false},
		"don't fragment": {DontFragment, 0, false, false},
		"the first":      {0x20, 0, true, false},
		"one between":    {0x20, 1, true, true},
		"the last":       {0, 1, true, true},
		"far behind":     {0x1f, 0xff, true, true},
		"reserved bit":   {0x80, 0, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := ip4(pod1, pod2, 17, nil)
			b[6], b[7] = test.flags, test.offset
			if IsFragment4(b) != test.is || isLaterFragment4(b) != test.later {
				t.Errorf("%v, %v, want %v, %v", IsFragment4(b), isLaterFragment4(b), test.is, test.later)
			}
		})
	}
}

// Which packets that are too big go in fragments, and of which the sender is told.
func TestMayFragment(t *testing.T) {
	df := ip4(pod1, pod2, 17, make([]byte, 2000))
	df[6] = DontFragment
	for name, test := range map[string]struct {
		b    []byte
		want bool
	}{
		"IPv4":                       {ip4(pod1, pod2, 17, make([]byte, 2000)), true},
		"IPv4 with don't fragment":   {df, false},
		"IPv6":                       {ip6(six1, six2, 17, make([]byte, 2000)), false},
		"IPv6 of the minimum":        {ip6(six1, six2, 17, make([]byte, MinMTU6-40)), true},
		"IPv6 of one byte more":      {ip6(six1, six2, 17, make([]byte, MinMTU6-39)), false},
		"a small one that fragments": {ip4(pod1, pod2, 17, nil), true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := MayFragment(test.b); got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

// A port in network order has the bytes of the wire in memory.
func TestNetworkOrder(t *testing.T) {
	for _, port := range []uint16{0, 1, 0x205d, 0xff00, 0xffff} {
		memory := binary.NativeEndian.AppendUint16(nil, NetworkOrder(port))
		if got := binary.BigEndian.Uint16(memory); got != port {
			t.Errorf("%#x is % x in memory", port, memory)
		}
		if got := HostOrder(NetworkOrder(port)); got != port {
			t.Errorf("%#x came back as %#x", port, got)
		}
	}
}

func TestChecksumAgainstOracle(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for n := range 200 {
		b := make([]byte, n)
		for i := range b {
			b[i] = uint8(r.Uint32()) | uint8(n%3)*0x7f // many carries, too
		}
		if got, want := Checksum(b, 0), slowSum(b); got != want && got^want != 0xffff {
			t.Errorf("%d bytes: %#04x, want %#04x", n, got, want)
		}
	}
}

// Rewriting a field must give the checksum that computing it anew gives, for
// every header there is (all checksums occur).
func TestRewritesKeepTheChecksum(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	fresh := func(b []byte) uint16 {
		c := bytes.Clone(b[:20])
		c[10], c[11] = 0, 0
		return slowSum(c)
	}
	for range 200000 {
		b := ip4(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, r.Uint32()))), pod2, 6, nil)
		b[8] = uint8(1 + r.IntN(255))
		b[1] = uint8(r.Uint32())
		binary.BigEndian.PutUint16(b[10:], fresh(b))
		ttl := b[8]
		DecrementTTL(b)
		if b[8] != ttl-1 || !ValidChecksum(b) {
			t.Fatalf("DecrementTTL: % x", b)
		}
		tos := uint8(r.Uint32())
		SetTOS(b, tos)
		if h, _ := Parse(b); h.TOS != tos || !ValidChecksum(b) {
			t.Fatalf("SetTOS: % x", b)
		}
	}
	six := ip6(six1, six2, 6, nil)
	six[1] = 0x0f // flow label stays
	DecrementTTL(six)
	SetTOS(six, 0xb9)
	if h, ok := Parse(six); !ok || h.TTL != 63 || h.TOS != 0xb9 || six[1]&0x0f != 0x0f || six[0]>>4 != 6 {
		t.Errorf("IPv6: %+v % x", h, six)
	}
}

func TestChecksumMismatchIsSeen(t *testing.T) {
	b := ip4(pod1, pod2, 17, nil)
	for bit := range 160 {
		b[bit/8] ^= 1 << (bit % 8)
		if bit/8 != 0 && ValidChecksum(b) { // byte 0 changes what is summed
			t.Errorf("bit %d flipped, checksum still right", bit)
		}
		b[bit/8] ^= 1 << (bit % 8)
	}
}

// The whole table of RFC 6040 section 4.2, figure 4.
func TestDecapsulate(t *testing.T) {
	const drop = 0xff
	want := map[[2]uint8]uint8{ // inner, outer
		{0, 0}: 0, {0, 2}: 0, {0, 1}: 0, {0, 3}: drop,
		{2, 0}: 2, {2, 2}: 2, {2, 1}: 1, {2, 3}: 3,
		{1, 0}: 1, {1, 2}: 1, {1, 1}: 1, {1, 3}: 3,
		{3, 0}: 3, {3, 2}: 3, {3, 1}: 3, {3, 3}: 3,
	}
	for pair, code := range want {
		inner, outer := 0xb8|pair[0], 0x28|pair[1]
		got, ok := Decapsulate(inner, outer)
		if ok != (code != drop) || ok && got != 0xb8|code {
			t.Errorf("inner %d outer %d: %#x, %v", pair[0], pair[1], got, ok)
		}
	}
}

func FuzzPacket(f *testing.F) {
	f.Add(ip4(pod1, pod2, 17, make([]byte, 8)))
	f.Add(ip4(pod1, pod2, 1, []byte{8, 0, 0, 0, 0, 0, 0, 0}, 1, 1, 1, 0))
	f.Add(ip6(six1, six2, 17, make([]byte, 8)))
	f.Add(ip6(six1, six2, 0, []byte{44, 0, 0, 0, 0, 0, 0, 0, 58, 0, 0, 0, 0, 0, 0, 0, 128, 0, 0, 0}))
	buf := make([]byte, 1280)
	f.Fuzz(func(t *testing.T, b []byte) {
		defer budget.Of(t)()
		h, ok := Parse(b)
		if !ok {
			if Error(buf, pod1, NoRoute, 0, b) != nil || Error(buf, six1, NoRoute, 0, b) != nil {
				t.Error("answered what is not a packet")
			}
			return
		}
		valid := ValidChecksum(b)
		if e, ok := ParseEcho(b); ok {
			if again, ok := ParseEcho(e.Append(nil)); !ok || !reflect.DeepEqual(again, e) {
				t.Errorf("%+v became %+v", e, again)
			}
		}
		if src, dst, payload, ok := ParseDatagram(b, 0); ok && (src != h.Src || dst != h.Dst ||
			len(payload) > len(b)-UDPHeaderLen-HeaderLen4) {
			t.Errorf("a datagram of %s to %s: % x", src, dst, payload)
		}
		for _, src := range []netip.Addr{pod1, six1} {
			for _, problem := range []Problem{TimeExceeded, NoRoute, TooBig} {
				answer := Error(buf, src, problem, 1400, b)
				if answer == nil {
					continue
				}
				a, ok := Parse(answer)
				if !ok || a.Src != src || a.Dst != h.Src || !ValidChecksum(answer) {
					t.Fatalf("answer % x", answer)
				}
				if Error(make([]byte, 1280), src, problem, 1400, answer) != nil {
					t.Error("an ICMP error can be answered")
				}
			}
		}
		if h.TTL > 0 {
			DecrementTTL(b)
		}
		SetTOS(b, h.TOS^0xff)
		again, ok := Parse(b)
		if !ok || again.Src != h.Src || again.Dst != h.Dst || again.TOS != h.TOS^0xff || ValidChecksum(b) != valid {
			t.Errorf("after rewriting: %+v, %v, checksum %v", again, ok, ValidChecksum(b))
		}
	})
}

func BenchmarkParseAndDecrement(b *testing.B) {
	p := ip4(pod1, pod2, 17, make([]byte, 64))
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := Parse(p); !ok || !ValidChecksum(p) {
			b.Fatal("bad packet")
		}
		DecrementTTL(p)
		p[8]++
		binary.BigEndian.PutUint16(p[10:], binary.BigEndian.Uint16(p[10:])-0x100)
	}
}
