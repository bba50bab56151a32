// Package packet is the byte maths of the mesh: reading and rewriting IP
// headers, and writing ICMP errors. It holds no file descriptor and no state.
//
// It is a room of its own beside virtio and gro because everything that touches
// packets needs it, the engines as well as segmentation and coalescing.
//
//	TUN or UDP payload      a bare IP packet, told apart by its version nibble
//	IPv4 (RFC 791)          20 to 60 byte header with a checksum of its own
//	IPv6 (RFC 8200)         40 byte header, extension headers behind it
//	TOS                     IPv4 type of service or IPv6 traffic class:
//	                        DSCP (RFC 2474, six bits) and ECN (RFC 3168, two bits)
package packet

import (
	"encoding/binary"
	"net/netip"
)

// MaxSize is the largest inner packet in bytes, that of the IPv4 length field.
const MaxSize = 65535

// IP protocol numbers and header sizes in bytes.
const (
	protoICMP   = 1
	protoICMPv6 = 58

	headerLen4 = 20 // without options
	headerLen6 = 40
)

// A Header is what routing needs of an IP header.
type Header struct {
	Src, Dst netip.Addr // IPv4 as Is4, IPv6 as Is6; a mapped address stays IPv6 and so matches no prefix
	TTL      uint8      // TTL or hop limit
	TOS      uint8
}

// Parse reads the IP header of b, which must hold exactly one packet: ok is
// false if b is too short, longer than the header says, has an impossible
// header length or is of another version. The header checksum is not verified;
// see ValidChecksum.
func Parse(b []byte) (h Header, ok bool) {
	if len(b) < headerLen4 {
		return h, false
	}
	switch b[0] >> 4 {
	case 4:
		headerLen := int(b[0]&0x0f) * 4
		total := int(binary.BigEndian.Uint16(b[2:]))
		if headerLen < headerLen4 || total < headerLen || total != len(b) {
			return h, false
		}
		return Header{
			Src: netip.AddrFrom4([4]byte(b[12:16])),
			Dst: netip.AddrFrom4([4]byte(b[16:20])),
			TTL: b[8],
			TOS: b[1],
		}, true
	case 6:
		// A zero payload length would announce a jumbogram (RFC 2675), which
		// cannot fit into a UDP datagram; then only a bare header is left.
		if len(b) < headerLen6 || int(binary.BigEndian.Uint16(b[4:])) != len(b)-headerLen6 {
			return h, false
		}
		return Header{
			Src: netip.AddrFrom16([16]byte(b[8:24])),
			Dst: netip.AddrFrom16([16]byte(b[24:40])),
			TTL: b[7],
			TOS: b[0]<<4 | b[1]>>4,
		}, true
	}
	return h, false
}

// ValidChecksum tells whether the IPv4 header checksum of b is right; an IPv6
// header has none and is always right. b must have passed Parse.
func ValidChecksum(b []byte) bool {
	if b[0]>>4 != 4 {
		return true
	}
	return Checksum(b[:int(b[0]&0x0f)*4], 0) == 0
}

// DecrementTTL lowers the TTL or hop limit of b by one and mends the IPv4
// checksum (RFC 1624; compare ip_decrease_ttl in include/net/ip.h). b must have
// passed Parse with a TTL above zero.
func DecrementTTL(b []byte) {
	if b[0]>>4 != 4 {
		b[7]--
		return
	}
	b[8]--
	sum := uint32(binary.BigEndian.Uint16(b[10:])) + 0x0100
	if sum >= 0xffff { // end-around carry; 0xffff is the other zero
		sum++
	}
	binary.BigEndian.PutUint16(b[10:], uint16(sum))
}

// MinMTU6 is the size in bytes that every IPv6 link must carry (RFC 8200 section
// 5), and below which no IPv6 sender goes.
const MinMTU6 = 1280

// MayFragment tells whether a packet that is larger than the path must be sent
// all the same, in fragments: its sender does not want to be told (IPv4 without
// "don't fragment"), or could not make it smaller (IPv6 of the minimum MTU; then
// the tunnel fragments, RFC 2473 section 7.1). b must have passed Parse.
func MayFragment(b []byte) bool {
	const dontFragment = 0x40
	if b[0]>>4 == 4 {
		return b[6]&dontFragment == 0
	}
	return len(b) <= MinMTU6
}

// ECN code points (RFC 3168 section 5), the low two bits of the TOS.
const (
	notECT = 0
	ect1   = 1
	ce     = 3
	ecn    = 3 // mask
)

// Decapsulate merges the ECN mark of the outer header into that of the inner
// one as RFC 6040 section 4.2 says. ok is false if the packet must be dropped:
// it saw congestion and its sender does not understand the mark.
func Decapsulate(inner, outer uint8) (merged uint8, ok bool) {
	i, o := inner&ecn, outer&ecn
	switch {
	case i == notECT && o == ce:
		return inner, false
	case i == notECT || i == ce:
		return inner, true
	case o == ce || o == ect1:
		return inner&^ecn | o, true
	}
	return inner, true
}

// SetTOS replaces the TOS of b and mends the IPv4 checksum (RFC 1624). b must
// have passed Parse.
func SetTOS(b []byte, tos uint8) {
	if b[0]>>4 != 4 {
		b[0] = b[0]&0xf0 | tos>>4
		b[1] = b[1]&0x0f | tos<<4
		return
	}
	sum := uint32(^binary.BigEndian.Uint16(b[10:])) + uint32(^uint16(b[1])) + uint32(tos)
	b[1] = tos
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum+sum>>16))
}
