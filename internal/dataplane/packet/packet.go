// Package packet is the byte maths of the mesh: it reads and rewrites IP headers and writes
// ICMP messages. It holds no file descriptor and no state, and does not allocate on the packet
// path. All functions may be called from any goroutine, as long as two do not use one buffer.
//
// It is a room of its own beside virtio and gro because everything that touches packets needs
// it: the engines, segmentation and coalescing.
//
//	TUN or UDP payload      a bare IP packet; its first four bits are the version
//	IPv4 (RFC 791)          header of 20 to 60 bytes with a checksum of its own
//	IPv6 (RFC 8200)         header of 40 bytes, extension headers behind it
//	TOS                     IPv4 type of service or IPv6 traffic class:
//	                        DSCP (RFC 2474, six bits) and ECN (RFC 3168, two bits)
package packet

import (
	"encoding/binary"
	"net/netip"
)

// MaxSize is the size in bytes of the largest packet, the limit of IPv4's length field.
const MaxSize = 65535

// IP protocol numbers (IANA, Protocol Numbers).
const (
	ProtoICMP   = 1
	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoICMPv6 = 58
)

// Sizes of headers in bytes, without options.
const (
	HeaderLen4    = 20
	HeaderLen6    = 40
	TCPHeaderLen  = 20
	UDPHeaderLen  = 8
	icmpHeaderLen = 8
)

// DontFragment is the flag in byte 6 of an IPv4 header.
const DontFragment = 0x40

// A Header is what routing needs of an IP header.
type Header struct {
	// IPv4 addresses are Is4 and IPv6 addresses Is6. An IPv4-mapped address stays IPv6, and so
	// matches no prefix.
	Src, Dst netip.Addr
	TTL      uint8 // TTL or hop limit
	TOS      uint8
}

// Parse reads the IP header of b. ok is false unless b holds exactly one packet: if b is too
// short or longer than the header says, if the header length is impossible, or if the version
// is unknown. The checksum of the header is not verified; see ValidChecksum.
func Parse(b []byte) (h Header, ok bool) {
	if len(b) < HeaderLen4 {
		return h, false
	}
	switch b[0] >> 4 {
	case 4:
		headerLen := int(b[0]&0x0f) * 4
		total := int(binary.BigEndian.Uint16(b[2:]))
		if headerLen < HeaderLen4 || total < headerLen || total != len(b) {
			return h, false
		}
		return Header{
			Src: netip.AddrFrom4([4]byte(b[12:16])),
			Dst: netip.AddrFrom4([4]byte(b[16:20])),
			TTL: b[8],
			TOS: b[1],
		}, true
	case 6:
		// A payload length of 0 would announce a jumbogram (RFC 2675). That cannot fit into a UDP
		// datagram, so 0 means a header without payload here.
		if len(b) < HeaderLen6 || int(binary.BigEndian.Uint16(b[4:])) != len(b)-HeaderLen6 {
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

// ValidChecksum reports whether the checksum of an IPv4 header is right. It is true for IPv6,
// which has none. b must have passed Parse.
func ValidChecksum(b []byte) bool {
	if b[0]>>4 != 4 {
		return true
	}
	return Checksum(b[:int(b[0]&0x0f)*4], 0) == 0
}

// IsFragment4 reports whether an IPv4 packet is a fragment: it has the flag "more fragments" or
// an offset. b must have passed Parse.
func IsFragment4(b []byte) bool { return binary.BigEndian.Uint16(b[6:])&0x3fff != 0 }

// isLaterFragment4 reports whether an IPv4 packet is a fragment other than the first.
func isLaterFragment4(b []byte) bool { return binary.BigEndian.Uint16(b[6:])&0x1fff != 0 }

// Addresses4 and Addresses6 are where source and destination are, side by side, in a header:
// the form in which PseudoSum takes them.
func Addresses4(b []byte) []byte { return b[12:20] }

// Addresses6 is Addresses4 for IPv6.
func Addresses6(b []byte) []byte { return b[8:40] }

// NetworkOrder returns a number whose bytes in memory are those of port on the wire, whatever the
// byte order of this machine: the form of ports in a sockaddr and in BPF maps.
func NetworkOrder(port uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	return binary.NativeEndian.Uint16(b[:])
}

// HostOrder undoes NetworkOrder. Swapping bytes, or not, is its own inverse.
func HostOrder(raw uint16) uint16 { return NetworkOrder(raw) }

// DecrementTTL lowers the TTL or hop limit of b by one and updates the IPv4 checksum (RFC 1624;
// compare ip_decrease_ttl in include/net/ip.h). b must have passed Parse with a TTL above 0.
func DecrementTTL(b []byte) {
	if b[0]>>4 != 4 {
		b[7]--
		return
	}
	b[8]--
	// The TTL is the high byte of its 16 bits of the header: one less of it is 0x0100 less of the sum,
	// and so more of the sum's complement.
	sum := uint32(binary.BigEndian.Uint16(b[10:])) + 0x0100
	if sum >= 0xffff { // end-around carry; 0xffff and 0 are the same number in ones' complement
		sum++
	}
	binary.BigEndian.PutUint16(b[10:], uint16(sum))
}

// MinMTU6 is the size in bytes that every IPv6 link must carry (RFC 8200, section 5). IPv6
// senders do not go below it.
const MinMTU6 = 1280

// MayFragment reports whether a packet that is larger than the path must be sent in fragments,
// because an ICMP error would not help: the sender allows fragments (IPv4 without "don't
// fragment"), or cannot send less (IPv6 up to the minimum MTU; the tunnel has to fragment, RFC
// 2473, section 7.1). b must have passed Parse.
func MayFragment(b []byte) bool {
	if b[0]>>4 == 4 {
		return b[6]&DontFragment == 0
	}
	return len(b) <= MinMTU6
}

// ECN code points (RFC 3168, section 5), the low two bits of the TOS.
const (
	notECT = 0
	ect1   = 1
	ce     = 3
	ecn    = 3 // mask
)

// Decapsulate returns the TOS of the inner header with the ECN mark of the outer one merged in
// (RFC 6040, section 4.2, figure 4). ok is false if the packet must be dropped: a router marked it
// because of congestion, and its sender does not support ECN.
func Decapsulate(inner, outer uint8) (merged uint8, ok bool) {
	i, o := inner&ecn, outer&ecn
	switch {
	case i == notECT && o == ce:
		return inner, false
	// The inner packet keeps what it has: without ECN there is nothing to mark, and CE is the strongest
	// mark.
	case i == notECT || i == ce:
		return inner, true
	// ECT(1) on top of ECT(0) is a mark, too, between ECT(0) and CE.
	case o == ce || o == ect1:
		return inner&^ecn | o, true
	}
	return inner, true
}

// SetTOS replaces the TOS of b and updates the IPv4 checksum (RFC 1624). b must have passed Parse.
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
