package packet

import (
	"encoding/binary"
	"net/netip"
)

// An Echo is an ICMP echo request or reply (RFC 792, RFC 4443 section 4): the same
// for both families, but for its type.
type Echo struct {
	Src, Dst netip.Addr // of one family
	Reply    bool
	ID, Seq  uint16
	Payload  []byte
}

// EchoHeaders returns how many bytes an Echo is larger than its payload.
func EchoHeaders(v6 bool) int {
	if v6 {
		return headerLen6 + 8
	}
	return headerLen4 + 8
}

// Types of ICMP and ICMPv6.
const (
	echoReply4, echoRequest4 = 0, 8
	echoRequest6, echoReply6 = 128, 129
)

// ParseEcho reads b as an Echo whose Payload is a part of b. ok is false if it is
// something else, a fragment, behind extension headers, or has a wrong checksum.
// b must have passed Parse.
func ParseEcho(b []byte) (e Echo, ok bool) {
	if b[0]>>4 == 6 {
		return parseEcho6(b)
	}
	headerLen := int(b[0]&0x0f) * 4
	const moreOrOffset = 0x3fff
	if b[9] != protoICMP || len(b) < headerLen+8 || binary.BigEndian.Uint16(b[6:])&moreOrOffset != 0 {
		return e, false
	}
	icmp := b[headerLen:]
	if icmp[0] != echoReply4 && icmp[0] != echoRequest4 || icmp[1] != 0 || Checksum(icmp, 0) != 0 {
		return e, false
	}
	e = echoOf(icmp, icmp[0] == echoReply4)
	e.Src, e.Dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	return e, true
}

func parseEcho6(b []byte) (e Echo, ok bool) {
	if b[6] != protoICMPv6 || len(b) < headerLen6+8 {
		return e, false
	}
	icmp := b[headerLen6:]
	if icmp[0] != echoReply6 && icmp[0] != echoRequest6 || icmp[1] != 0 {
		return e, false
	}
	e = echoOf(icmp, icmp[0] == echoReply6)
	e.Src, e.Dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	return e, Checksum(icmp, pseudoSum(e.Src, e.Dst, protoICMPv6, len(icmp))) == 0
}

func echoOf(icmp []byte, reply bool) Echo {
	return Echo{Reply: reply, ID: binary.BigEndian.Uint16(icmp[4:]), Seq: binary.BigEndian.Uint16(icmp[6:]), Payload: icmp[8:]}
}

// Append appends the echo as a finished packet with a TTL of 64, which is not to
// be fragmented on its way.
func (e Echo) Append(buf []byte) []byte {
	start, size := len(buf), EchoHeaders(e.Dst.Is6())+len(e.Payload)
	buf = append(buf, make([]byte, size-len(e.Payload))...)
	buf = append(buf, e.Payload...)
	b := buf[start:]
	if e.Dst.Is6() {
		b[0] = 0x60
		binary.BigEndian.PutUint16(b[4:], uint16(size-headerLen6))
		b[6], b[7] = protoICMPv6, 64
		copy(b[8:], e.Src.AsSlice())
		copy(b[24:], e.Dst.AsSlice())
		icmp := b[headerLen6:]
		e.fill(icmp, echoRequest6, echoReply6)
		binary.BigEndian.PutUint16(icmp[2:], Checksum(icmp, pseudoSum(e.Src, e.Dst, protoICMPv6, len(icmp))))
		return buf
	}
	b[0] = 0x45
	binary.BigEndian.PutUint16(b[2:], uint16(size))
	b[6] = 0x40 // don't fragment
	b[8], b[9] = 64, protoICMP
	copy(b[12:], e.Src.AsSlice())
	copy(b[16:], e.Dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], Checksum(b[:headerLen4], 0))
	icmp := b[headerLen4:]
	e.fill(icmp, echoRequest4, echoReply4)
	binary.BigEndian.PutUint16(icmp[2:], Checksum(icmp, 0))
	return buf
}

// fill writes what both families have in common.
func (e Echo) fill(icmp []byte, request, reply uint8) {
	icmp[0] = request
	if e.Reply {
		icmp[0] = reply
	}
	binary.BigEndian.PutUint16(icmp[4:], e.ID)
	binary.BigEndian.PutUint16(icmp[6:], e.Seq)
}
