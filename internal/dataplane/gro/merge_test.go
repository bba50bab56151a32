package gro

import (
	"bytes"
	"encoding/binary"
	"testing"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/virtio"
)

// stamps are TCP options: timestamps.
var stamps = []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}

// pairs change two packets of a TCP flow that follow each other, and tell whether they may be merged
// then.
var pairs = []struct {
	name   string
	change func(a, b *packetOf)
	merged bool
}{
	{"in a row", func(a, b *packetOf) {}, true},
	{"shorter last one", func(a, b *packetOf) { b.payload = b.payload[:1] }, true},
	{"PSH on the last", func(a, b *packetOf) { b.flags |= psh }, true},
	{"PSH on the first", func(a, b *packetOf) { a.flags |= psh }, false},
	{"equal options", func(a, b *packetOf) { a.options, b.options = stamps, stamps }, true},
	{"other options", func(a, b *packetOf) {
		a.options, b.options = stamps, append([]byte{1, 1, 8, 10, 0, 0, 0, 9}, stamps[8:]...)
	}, false},
	{"options on one", func(a, b *packetOf) { b.options = stamps }, false},
	{"a gap", func(a, b *packetOf) { b.seq++ }, false},
	{"again", func(a, b *packetOf) { b.seq = a.seq }, false},
	{"longer last one", func(a, b *packetOf) { b.payload = data(101, 'b') }, false},
	{"another acknowledgment", func(a, b *packetOf) { b.ack++ }, false},
	{"another window", func(a, b *packetOf) { b.window++ }, false},
	{"FIN", func(a, b *packetOf) { b.flags |= 1 }, false},
	{"SYN", func(a, b *packetOf) { a.flags |= 2 }, false},
	{"RST", func(a, b *packetOf) { b.flags |= 4 }, false},
	{"URG", func(a, b *packetOf) { a.flags |= 0x20; b.flags |= 0x20 }, false},
	{"CWR", func(a, b *packetOf) { a.flags |= 0x80 }, false},
	{"CWR on the second", func(a, b *packetOf) { b.flags |= 0x80 }, false},
	{"ECE on both", func(a, b *packetOf) { a.flags |= ece; b.flags |= ece }, true},
	{"ECE on one", func(a, b *packetOf) { b.flags |= ece }, false},
	{"no ACK", func(a, b *packetOf) { a.flags, b.flags = 0, 0 }, false},
	{"congestion seen by one", func(a, b *packetOf) { a.tos, b.tos = 2, 3 }, false},
	{"equal DSCP", func(a, b *packetOf) { a.tos, b.tos = 0xb8, 0xb8 }, true},
	{"another TTL", func(a, b *packetOf) { b.ttl-- }, false},
	{"another flow", func(a, b *packetOf) { b.port++ }, false},
	{"another family", func(a, b *packetOf) { b.v6 = true }, false},
	{"UDP after TCP", func(a, b *packetOf) { b.udp = true }, false},
	{"identification jumps", func(a, b *packetOf) { b.id = 10 }, false},
	{"constant identification, DF", func(a, b *packetOf) { b.id = a.id }, true},
	{"constant identification", func(a, b *packetOf) { a.df, b.df, b.id = false, false, a.id }, false},
	{"identification counted, no DF", func(a, b *packetOf) { a.df, b.df = false, false }, true},
	{"DF on one", func(a, b *packetOf) { b.df = false }, false},
	{"identification wraps", func(a, b *packetOf) { a.id, b.id = 0xffff, 0 }, true},
	{"wrong checksum first", func(a, b *packetOf) { a.wrong = true }, false},
	{"wrong checksum last", func(a, b *packetOf) { b.wrong = true }, false},
	{"fragment", func(a, b *packetOf) { a.more = true }, false},
	{"no payload", func(a, b *packetOf) { b.payload = nil }, false},
	{"no payload at all", func(a, b *packetOf) { a.payload, b.payload, b.seq = nil, nil, a.seq }, false},
	{"IPv6", func(a, b *packetOf) { a.v6, b.v6 = true, true }, true},
	{"IPv6, another class", func(a, b *packetOf) { a.v6, b.v6, b.tos = true, true, 4 }, false},
	{"UDP", func(a, b *packetOf) { a.udp, b.udp = true, true }, true},
	{"UDP over IPv6", func(a, b *packetOf) { a.udp, b.udp, a.v6, b.v6 = true, true, true, true }, true},
	{"UDP without checksum", func(a, b *packetOf) {
		a.udp, b.udp, a.noSum, b.noSum = true, true, true, true
	}, false},
	{"UDP, second without", func(a, b *packetOf) { a.udp, b.udp, b.noSum = true, true, true }, false},
	{"UDP, longer last one", func(a, b *packetOf) {
		a.udp, b.udp, b.payload = true, true, data(101, 'b')
	}, false},
	{"UDP, wrong checksum", func(a, b *packetOf) { a.udp, b.udp, b.wrong = true, true, true }, false},
}

// What may be merged and what may not, two packets at a time.
func TestWhatIsMerged(t *testing.T) {
	for _, test := range pairs {
		t.Run(test.name, func(t *testing.T) {
			a := packetOf{port: 1000, df: true, id: 7, seq: 1000, ack: 5, flags: ack, window: 100, ttl: 60,
				payload: data(100, 'a')}
			b := a
			b.id, b.seq, b.payload = 8, 1100, data(100, 'b')
			test.change(&a, &b)
			c := New(true, true)
			first, second := a.bytes(), b.bytes()
			x, y := c.Add(first), c.Add(second)
			if (x == y) != test.merged {
				t.Errorf("groups %d and %d", x, y)
			}
			var all [][]byte
			for n := range c.Len() {
				all = append(all, unfold(t, c, n)...)
			}
			if test.merged && a.df && a.id == b.id && !a.v6 { // the one exception
				second[5]++
				binary.BigEndian.PutUint16(second[10:], 0)
				binary.BigEndian.PutUint16(second[10:], packet.Checksum(second[:20], 0))
			}
			if len(all) != 2 || !bytes.Equal(all[0], first) || !bytes.Equal(all[1], second) {
				t.Errorf("changed on the way:\n% x\n% x", all, [][]byte{first, second})
			}
			for _, c := range []*Coalescer{New(false, false), New(a.udp, !a.udp)} {
				if c.Add(a.bytes()) == c.Add(b.bytes()) {
					t.Error("merged what the kernel does not accept")
				}
			}
		})
	}
}

// An unfinished packet is given to the kernel with what is left to do: its checksum, and for a
// large one of TCP its segments.
func TestUnfinished(t *testing.T) {
	for name, test := range map[string]struct {
		packet packetOf
		want   virtio.Header
	}{
		"TCP": {packetOf{ttl: 60, flags: ack, payload: data(100, 'a')},
			virtio.Header{Partial: true, ChecksumStart: 20, ChecksumOffset: 16}},
		"UDP over IPv6": {packetOf{ttl: 60, udp: true, v6: true, payload: data(100, 'a')},
			virtio.Header{Partial: true, ChecksumStart: 40, ChecksumOffset: 6}},
		"the largest packet": {packetOf{ttl: 60, flags: ack, payload: data(1460, 'a')},
			virtio.Header{Partial: true, ChecksumStart: 20, ChecksumOffset: 16}},
		"a superpacket": {packetOf{ttl: 60, flags: ack, payload: data(1461, 'a')},
			virtio.Header{Partial: true, GSO: virtio.TCP4, HeaderLen: 40, SegmentSize: 536,
				ChecksumStart: 20, ChecksumOffset: 16}},
		"a superpacket of IPv6": {
			packetOf{ttl: 60, flags: ack, v6: true, options: stamps, payload: data(3000, 'a')},
			virtio.Header{Partial: true, GSO: virtio.TCP6, HeaderLen: 72, SegmentSize: 536,
				ChecksumStart: 40, ChecksumOffset: 16}},
		"a large datagram": {packetOf{ttl: 60, udp: true, payload: data(3000, 'a')},
			virtio.Header{Partial: true, ChecksumStart: 20, ChecksumOffset: 6}},
	} {
		t.Run(name, func(t *testing.T) {
			whole := test.packet.bytes()
			b := bytes.Clone(whole)
			f, ok := New(true, true).classify(b)
			if !ok {
				t.Fatal("its flow is unknown")
			}
			binary.BigEndian.PutUint16(b[f.transport+f.checksum:], packet.Fold(f.pseudoSum(b, len(b))))
			c := New(true, true)
			h, got, ok := virtio.Parse(bytes.Join(c.Frame(c.Add(b)), nil))
			if !ok || h != test.want || !bytes.Equal(got, b) {
				t.Errorf("%+v, want %+v", h, test.want)
			}
			if h.GSO = virtio.None; !h.Complete(got) || !bytes.Equal(got, whole) {
				t.Error("completing it does not give the packet")
			}
		})
	}
}
