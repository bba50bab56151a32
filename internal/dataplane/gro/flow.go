package gro

import (
	"bytes"
	"encoding/binary"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/virtio"
)

// TCP flags (RFC 9293 section 3.1, RFC 3168 section 6.1).
const (
	psh = 0x08
	ack = 0x10
	ece = 0x40
)

// flow is where the parts of a packet are.
type flow struct {
	v6        bool
	proto     uint8
	gso       virtio.GSO
	transport int  // offset of the TCP or UDP header
	payload   int  // offset of the payload
	checksum  int  // offset of the checksum in the transport header
	mergeable bool // such a packet may be the first of a superpacket
}

// classify looks at a packet; ok is false if the flow cannot be told from it.
// TCP and UDP directly behind a plain IP header are told; options and extension
// headers are rare, and not worth the care.
func (c *Coalescer) classify(b []byte) (f flow, ok bool) {
	f.v6 = b[0]>>4 == 6
	if f.v6 {
		f.proto, f.transport = b[6], 40
	} else {
		const moreFragmentsAndOffset = 0x3fff
		if b[0] != 0x45 || binary.BigEndian.Uint16(b[6:])&moreFragmentsAndOffset != 0 {
			return f, false
		}
		f.proto, f.transport = b[9], 20
	}
	t := b[f.transport:]
	switch {
	case f.proto == protoTCP && len(t) >= 20:
		f.checksum, f.payload = 16, f.transport+int(t[12]>>4)*4
		f.gso = virtio.TCP4
		if f.v6 {
			f.gso = virtio.TCP6
		}
		f.mergeable = c.tcp && f.payload >= f.transport+20 && len(b) > f.payload && t[13]&^ece == ack
		return f, true
	case f.proto == protoUDP && len(t) >= 8:
		f.checksum, f.payload, f.gso = 6, f.transport+8, virtio.UDP
		// Without a checksum (RFC 768) there is nothing to verify, and none to
		// restore.
		f.mergeable = c.udp && len(b) > f.payload && int(binary.BigEndian.Uint16(t[4:])) == len(t) && t[6]|t[7] != 0
		return f, true
	}
	return f, false
}

// sameFlow compares protocol, addresses and ports of two packets.
func sameFlow(f, g *flow, a, b []byte) bool {
	if f.v6 != g.v6 || f.proto != g.proto {
		return false
	}
	if f.v6 {
		return [36]byte(a[8:44]) == [36]byte(b[8:44])
	}
	return [12]byte(a[12:24]) == [12]byte(b[12:24])
}

// accepts tells whether a packet of the same flow may follow the group's last.
func (g *group) accepts(f *flow, b []byte) bool {
	first := g.packets[0]
	size := len(b) - f.payload
	if f.payload != g.payload || size == 0 || size > g.size || len(g.packets) == maxGroup || g.bytes+size > maxSize ||
		!g.sameIP(first, b) || !g.sameTransport(f, first, b) {
		return false
	}
	// The kernel will not look at the checksums of a superpacket.
	g.verified = g.verified || valid(&g.flow, first)
	return g.verified && valid(f, b)
}

// sameIP compares what a superpacket has only once, and checks that the
// identification is the one that segmenting will give.
func (g *group) sameIP(first, b []byte) bool {
	if g.v6 { // version, traffic class and flow label; next header and hop limit
		return [4]byte(first[0:4]) == [4]byte(b[0:4]) && [2]byte(first[6:8]) == [2]byte(b[6:8])
	}
	if [2]byte(first[0:2]) != [2]byte(b[0:2]) || [4]byte(first[6:10]) != [4]byte(b[6:10]) { // TOS; flags, TTL and protocol
		return false
	}
	const dontFragment = 0x40
	id, expected := binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(first[4:])
	return id == expected+uint16(len(g.packets)) || id == expected && b[6]&dontFragment != 0 && g.constantID()
}

// constantID tells whether all packets so far have one identification.
func (g *group) constantID() bool {
	return [2]byte(g.packets[0][4:6]) == [2]byte(g.packets[len(g.packets)-1][4:6])
}

func (g *group) sameTransport(f *flow, first, b []byte) bool {
	if f.proto == protoUDP {
		return f.mergeable
	}
	s, t := first[g.transport:g.payload], b[g.transport:g.payload]
	sent := uint32(len(g.packets) * g.size) // every packet so far was full, or the group would be closed
	return binary.BigEndian.Uint32(t[4:]) == binary.BigEndian.Uint32(s[4:])+sent &&
		[4]byte(s[8:12]) == [4]byte(t[8:12]) && // acknowledgment
		s[12] == t[12] && s[13] == t[13]&^psh && // header length, flags
		[2]byte(s[14:16]) == [2]byte(t[14:16]) && // window
		[2]byte(s[18:20]) == [2]byte(t[18:20]) && // urgent pointer
		bytes.Equal(s[20:], t[20:])
}

// full tells whether nothing may follow the packet that came last.
func (g *group) full(f *flow, b []byte) bool {
	return len(b)-f.payload < g.size || f.proto == protoTCP && b[f.transport+13]&psh != 0
}

func (g *group) append(b []byte, size int) {
	g.packets = append(g.packets, b)
	g.bytes += size
}

// unfinished tells whether the checksum is one that the sender left to a network card which
// then was none: between containers or virtual machines of one host the kernel engine's
// packets come as they are, with the sum of the pseudo-header in the field. The kernel,
// told so, finishes it where that is needed. One correct checksum in 65536 looks like this,
// too, and is found to be the same.
func unfinished(f *flow, b []byte) bool {
	if f.payload == 0 || f.payload > len(b) {
		return false
	}
	addresses := b[12:20]
	if f.v6 {
		addresses = b[8:40]
	}
	return binary.BigEndian.Uint16(b[f.transport+f.checksum:]) == packet.Fold(packet.PseudoSum(addresses, f.proto, len(b)-f.transport))
}

// valid verifies the checksum of the transport header and payload.
func valid(f *flow, b []byte) bool {
	addresses := b[12:20]
	if f.v6 {
		addresses = b[8:40]
	}
	return packet.Fold(packet.Sum(b[f.transport:], packet.PseudoSum(addresses, f.proto, len(b)-f.transport))) == 0xffff
}
