package packet_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"testing"

	"example.org/meshd/internal/budget"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/tun"
	"example.org/meshd/internal/dataplane/virtio"
	"example.org/meshd/internal/nstest"
)

// Addresses of the router that the kernel is, and the MTU of the network behind it, in bytes.
const (
	router4, router6 = "10.244.1.0", "fd00:1::"
	narrow           = 1300
)

// A router is the kernel as an oracle: it answers packets that it cannot forward.
type router struct {
	write  func(parts [][]byte) error
	queue  *tun.Queue
	memory []byte
	frames [][]byte
	asked  uint16
}

// newRouter makes one that ends with the test. It limits no rates.
func newRouter(t testing.TB) *router {
	t.Helper()
	n := nstest.ForTest(t)
	r := &router{memory: make([]byte, 1<<20), frames: make([][]byte, 16)}
	if err := n.Do(func() (err error) {
		if err := tun.Create("in0"); err != nil {
			return err
		}
		r.queue, err = tun.Open("in0", false)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.queue.Close() })
	for key, value := range map[string]string{"ipv4.ip_forward": "1", "ipv6.conf.all.forwarding": "1",
		"ipv4.conf.all.rp_filter": "0", "ipv4.conf.default.rp_filter": "0", "ipv4.conf.in0.rp_filter": "0",
		"ipv4.icmp_ratemask": "0", "ipv6.icmp.ratelimit": "0", "ipv6.icmp.ratemask": "255"} {
		if err := n.Sysctl(key, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.IP("link set in0 mtu 1500 addrgenmode none up", "addr add "+router4+"/32 dev in0",
		"addr add "+router6+"/128 dev in0 nodad", "route add 10.245.0.0/16 dev in0",
		"route add 10.244.2.0/24 dev in0", "route add fd00:2::/64 dev in0",
		"link add narrow0 type bridge", "link set narrow0 mtu 1300 addrgenmode none up",
		"route add 10.244.3.0/24 dev narrow0", "route add fd00:3::/64 dev narrow0"); err != nil {
		t.Fatal(err)
	}
	r.write = r.queue.Writer()
	return r
}

// answer returns what the kernel answers a packet; nil: nothing. It does so before it returns from the write.
func (r *router) answer(t testing.TB, b []byte) (answer []byte) {
	t.Helper()
	if err := r.write([][]byte{make([]byte, virtio.HeaderSize), b}); err != nil {
		t.Fatal(err)
	}
	if err := r.queue.Wake(); err != nil {
		t.Fatal(err)
	}
	for {
		n, err := r.queue.Read(r.memory, r.frames)
		for _, frame := range r.frames[:n] {
			to, _ := packet.Parse(frame[virtio.HeaderSize:])
			if from, _ := packet.Parse(b); to.Dst == from.Src { // and no greetings of IPv6
				answer = bytes.Clone(frame[virtio.HeaderSize:])
			}
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return answer
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A question is a packet that cannot be forwarded, made of what a fuzzer chose.
type question struct {
	v6            bool
	problem       packet.Problem
	proto, kind   byte
	later, atomic bool // a fragment: not the first; the only one
	before        int  // size of a header in front of the transport's, in 8 bytes, for IPv6
	size          int  // of the payload, in bytes
	from          uint16
}

// bytes returns the packet.
func (q question) bytes() []byte {
	payload := make([]byte, q.size)
	for i := range payload {
		payload[i] = byte(i * 7)
	}
	payload[0] = q.kind
	ttl, network := byte(64), map[packet.Problem]string{packet.TimeExceeded: "2", packet.NoRoute: "9",
		packet.TooBig: "3"}[q.problem]
	if q.problem == packet.TimeExceeded {
		ttl = 1
	}
	if !q.v6 {
		b := append(make([]byte, 20), payload...)
		b[0], b[8], b[9] = 0x45, ttl, q.proto
		if q.problem == packet.TooBig {
			b[6] = packet.DontFragment
		}
		if q.later {
			b[7] = 9
		}
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		// The kernel answers a sender five times, and then once a second (ip_error in net/ipv4/route.c).
		copy(b[12:], []byte{10, 245, byte(q.from >> 8), byte(q.from)})
		copy(b[16:], netip.MustParseAddr("10.244."+network+".8").AsSlice())
		binary.BigEndian.PutUint16(b[10:], packet.Checksum(b[:20], 0))
		return b
	}
	b := make([]byte, 40)
	b[0], b[6], b[7] = 0x60, q.proto, ttl
	copy(b[8:], netip.MustParseAddr("fd00:2::7").AsSlice())
	copy(b[24:], netip.MustParseAddr("fd00:"+network+"::8").AsSlice())
	if q.before > 0 { // destination options, of padding
		options := make([]byte, 8*q.before)
		options[0], options[1], options[2], options[3] = q.proto, byte(q.before-1), 1, byte(len(options)-4)
		b[6], b = 60, append(b, options...)
	}
	if q.later || q.atomic {
		fragment := []byte{q.proto, 0, 0, 0, 1, 2, 3, 4}
		if q.later {
			fragment[2] = 1
		}
		if q.before > 0 {
			b[40] = 44
		} else {
			b[6] = 44
		}
		b = append(b, fragment...)
	}
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	return b
}

// silent tells whether RFC 4443, section 2.4 e, or the mesh forbids an answer that the kernel gives: to an
// ICMPv6 redirect, and to a fragment that is not the first, which IPv6 leaves open.
func (q question) silent() bool {
	return q.v6 && (q.later || q.proto == packet.ProtoICMPv6 && q.kind == 137)
}

// unknown tells whether a packet is of an ICMP type that is no error, and that the kernel does not know or
// use (icmp_pointers in net/ipv4/icmp.c): it answers none of those.
func (q question) unknown() bool {
	return !q.v6 && q.proto == packet.ProtoICMP &&
		(q.kind > 18 || bytes.IndexByte([]byte{1, 2, 6, 7, 9, 10}, q.kind) >= 0)
}

// masked returns an error without what routers may choose: of IPv4 TOS, identification, fragmentation and
// TTL, of IPv6 class, flow label and hop limit; and so without the sum of the header.
func masked(b []byte) []byte {
	b = bytes.Clone(b)
	if len(b) > 20 && b[0]>>4 == 4 {
		b[1], b[8] = 0, 0
		clear(b[4:8])
		clear(b[10:12])
	} else if len(b) > 40 {
		b[7] = 0
		clear(b[1:4])
		b[0] &= 0xf0
	}
	return b
}

// ICMP errors are those of the kernel, byte by byte, and so is whether a packet is answered at all.
func FuzzKernelErrors(f *testing.F) {
	k := newRouter(f)
	protocols := []byte{1, 6, 17, 58, 132}
	for n := range uint16(120) {
		f.Add(n%2 == 0, byte(n/2), byte(n/6), byte(n), n%7 == 0, n%5 == 0, byte(n%3), n*31)
	}
	f.Add(true, byte(1), byte(3), byte(137), false, false, byte(0), uint16(64))
	f.Fuzz(func(t *testing.T, v6 bool, problem, proto, kind byte, later, atomic bool, before byte, size uint16) {
		defer budget.Of(t)()
		q := question{v6: v6, problem: packet.Problem(problem % 3), proto: protocols[int(proto)%len(protocols)],
			kind: kind, later: later, atomic: atomic, before: int(before % 9), size: 8 + int(size)%1200}
		if q.problem == packet.TooBig {
			q.size = narrow + int(size)%100
		}
		k.asked++
		q.from = k.asked
		b, src := q.bytes(), netip.MustParseAddr(router4)
		if v6 {
			src = netip.MustParseAddr(router6)
		}
		want := masked(k.answer(t, b))
		got := masked(packet.Error(make([]byte, packet.MinMTU6), src, q.problem, narrow, b))
		if q.silent() && len(got) == 0 || q.unknown() {
			return
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%+v: % x\nis answered\n% x\nby the kernel\n% x", q, b[:min(64, len(b))],
				got[:min(96, len(got))], want[:min(96, len(want))])
		}
	})
}
