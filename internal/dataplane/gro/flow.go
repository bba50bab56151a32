package gro

import (
	"bytes"
	"encoding/binary"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/virtio"
)

// TCP flags (RFC 9293, section 3.1; RFC 3168, section 6.1).
const (
	psh = 0x08
	ack = 0x10
	ece = 0x40
)

// A flow is where the parts of a packet are.
type flow struct {
	v6        bool
	proto     uint8      // packet.ProtoTCP or packet.ProtoUDP
	gso       virtio.GSO // the kind of superpackets of the flow
	transport int        // offset of the TCP or UDP header
	payload   int        // offset of the payload
	checksum  int        // offset of the checksum in the transport header
	mergeable bool       // the packet may be the first of a superpacket
}

// classify finds the parts of a packet. ok is false if its flow is unknown: it is known for TCP
// and UDP right behind an IP header without options. Options and extension headers are too rare to
// be worth the care.
func (c *Coalescer) classify(b []byte) (f flow, ok bool) {
	f.v6 = b[0]>>4 == 6
	if f.v6 {
		f.proto, f.transport = b[6], packet.HeaderLen6
	} else {
		if b[0] != 0x45 || packet.IsFragment4(b) {
			return f, false
		}
		f.proto, f.transport = b[9], packet.HeaderLen4
	}
	t := b[f.transport:]
	switch {
	case f.proto == packet.ProtoTCP && len(t) >= packet.TCPHeaderLen:
		f.checksum, f.payload = 16, f.transport+int(t[12]>>4)*4
		f.gso = virtio.TCP4
		if f.v6 {
			f.gso = virtio.TCP6
		}
		whole := f.payload >= f.transport+packet.TCPHeaderLen && len(b) > f.payload
		f.mergeable = c.tcp && whole && t[13]&^ece == ack
		return f, true
	case f.proto == packet.ProtoUDP && len(t) >= packet.UDPHeaderLen:
		f.checksum, f.payload, f.gso = 6, f.transport+packet.UDPHeaderLen, virtio.UDP
		whole := len(b) > f.payload && int(binary.BigEndian.Uint16(t[4:])) == len(t)
		// A datagram without a checksum (RFC 768) cannot be verified, and segmenting would add one.
		f.mergeable = c.udp && whole && t[6]|t[7] != 0
		return f, true
	}
	return f, false
}

// pseudoSum returns the sum of the pseudo-header of a packet, or superpacket, of size bytes.
func (f *flow) pseudoSum(b []byte, size int) uint64 {
	if f.v6 {
		return packet.PseudoSum(packet.Addresses6(b), f.proto, size-f.transport)
	}
	return packet.PseudoSum(packet.Addresses4(b), f.proto, size-f.transport)
}

// sameFlow reports whether two packets have the same protocol, addresses and ports. The ports are
// right behind the addresses.
func sameFlow(f, g *flow, a, b []byte) bool {
	if f.v6 != g.v6 || f.proto != g.proto {
		return false
	}
	if f.v6 {
		return [36]byte(a[8:44]) == [36]byte(b[8:44])
	}
	return [12]byte(a[12:24]) == [12]byte(b[12:24])
}

// accepts reports whether a packet of the same flow may follow the last one of the group.
func (g *group) accepts(f *flow, b []byte) bool {
	first := g.packets[0]
	size := len(b) - f.payload
	if f.payload != g.payload || size == 0 || size > g.size ||
		len(g.packets) == maxGroup || g.bytes+size > maxSize ||
		!g.sameIP(first, b) || !g.sameTransport(f, first, b) {
		return false
	}
	// The kernel trusts the checksums of a superpacket, so they are verified here.
	g.verified = g.verified || valid(&g.flow, first)
	return g.verified && valid(f, b)
}

// sameIP reports whether the IP headers have equal fields where the superpacket has one for all,
// and the identification that segmenting will give.
func (g *group) sameIP(first, b []byte) bool {
	if g.v6 { // version, traffic class and flow label; next header and hop limit
		return [4]byte(first[0:4]) == [4]byte(b[0:4]) && [2]byte(first[6:8]) == [2]byte(b[6:8])
	}
	// Version, header length and TOS; flags, TTL and protocol.
	if [2]byte(first[0:2]) != [2]byte(b[0:2]) || [4]byte(first[6:10]) != [4]byte(b[6:10]) {
		return false
	}
	id, expected := binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(first[4:])
	return id == expected+uint16(len(g.packets)) ||
		id == expected && b[6]&packet.DontFragment != 0 && g.constantID()
}

// constantID reports whether all packets so far have one identification.
func (g *group) constantID() bool {
	return [2]byte(g.packets[0][4:6]) == [2]byte(g.packets[len(g.packets)-1][4:6])
}

// sameTransport reports whether the transport headers have equal fields where the superpacket has
// one for all, and the sequence number that segmenting will give.
func (g *group) sameTransport(f *flow, first, b []byte) bool {
	if f.proto == packet.ProtoUDP {
		return f.mergeable
	}
	s, t := first[g.transport:g.payload], b[g.transport:g.payload]
	sent := uint32(len(g.packets) * g.size) // all are full so far: a shorter one closes the group
	return binary.BigEndian.Uint32(t[4:]) == binary.BigEndian.Uint32(s[4:])+sent &&
		[4]byte(s[8:12]) == [4]byte(t[8:12]) && // acknowledgment
		s[12] == t[12] && s[13] == t[13]&^psh && // header length, flags
		[2]byte(s[14:16]) == [2]byte(t[14:16]) && // window
		[2]byte(s[18:20]) == [2]byte(t[18:20]) && // urgent pointer
		bytes.Equal(s[packet.TCPHeaderLen:], t[packet.TCPHeaderLen:]) // options
}

// full reports whether no packet may follow b, the last one of the group.
func (g *group) full(f *flow, b []byte) bool {
	return len(b)-f.payload < g.size || f.proto == packet.ProtoTCP && b[f.transport+13]&psh != 0
}

// append adds a packet with a payload of size bytes.
func (g *group) append(b []byte, size int) {
	g.packets = append(g.packets, b)
	g.bytes += size
}

// unfinished reports whether the checksum field holds the sum of the pseudo-header only. The
// sender has then left the checksum to a network card, and the packet has met none on its way:
// between containers or virtual machines of one host the kernel engine's packets arrive like
// this. Of the right checksums, one in 65536 looks the same; completing it gives it again.
func unfinished(f *flow, b []byte) bool {
	if f.payload == 0 || f.payload > len(b) {
		return false
	}
	return binary.BigEndian.Uint16(b[f.transport+f.checksum:]) == packet.Fold(f.pseudoSum(b, len(b)))
}

// valid reports whether the checksum of transport header and payload is right.
func valid(f *flow, b []byte) bool {
	return packet.Fold(packet.Sum(b[f.transport:], f.pseudoSum(b, len(b)))) == 0xffff
}
