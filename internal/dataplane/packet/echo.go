package packet

import (
	"encoding/binary"
	"net/netip"
)

// An Echo is an ICMP echo request or reply (RFC 792; RFC 4443, section 4). Only the types differ
// between the families.
type Echo struct {
	Src, Dst netip.Addr // of one family, never mapped
	Reply    bool       // false: a request
	ID, Seq  uint16     // a reply has those of its request
	Payload  []byte
}

// EchoHeaders returns the size in bytes of an Echo without its payload.
func EchoHeaders(v6 bool) int {
	if v6 {
		return HeaderLen6 + icmpHeaderLen
	}
	return HeaderLen4 + icmpHeaderLen
}

// Types of ICMP and ICMPv6.
const (
	echoReply4, echoRequest4 = 0, 8
	echoRequest6, echoReply6 = 128, 129
)

// ParseEcho reads b as an Echo whose Payload is a part of b. ok is false if b is something else, a
// fragment, or has a wrong checksum, or if the message is behind extension headers. b must have
// passed Parse.
func ParseEcho(b []byte) (e Echo, ok bool) {
	if b[0]>>4 == 6 {
		return parseEcho6(b)
	}
	headerLen := int(b[0]&0x0f) * 4
	if b[9] != ProtoICMP || len(b) < headerLen+icmpHeaderLen || IsFragment4(b) {
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

// parseEcho6 is ParseEcho for IPv6.
func parseEcho6(b []byte) (e Echo, ok bool) {
	if b[6] != ProtoICMPv6 || len(b) < HeaderLen6+icmpHeaderLen {
		return e, false
	}
	icmp := b[HeaderLen6:]
	if icmp[0] != echoReply6 && icmp[0] != echoRequest6 || icmp[1] != 0 {
		return e, false
	}
	e = echoOf(icmp, icmp[0] == echoReply6)
	e.Src, e.Dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	return e, Checksum(icmp, pseudoSum(e.Src, e.Dst, ProtoICMPv6, len(icmp))) == 0
}

// echoOf reads what both families have in common.
func echoOf(icmp []byte, reply bool) Echo {
	return Echo{
		Reply: reply, ID: binary.BigEndian.Uint16(icmp[4:]), Seq: binary.BigEndian.Uint16(icmp[6:]),
		Payload: icmp[icmpHeaderLen:],
	}
}

// Append appends the echo to buf as a finished packet, with a TTL of 64 and "don't fragment".
func (e Echo) Append(buf []byte) []byte {
	start, size := len(buf), EchoHeaders(e.Dst.Is6())+len(e.Payload)
	buf = append(buf, make([]byte, size-len(e.Payload))...)
	buf = append(buf, e.Payload...)
	b := buf[start:]
	if e.Dst.Is6() {
		b[0] = 0x60
		binary.BigEndian.PutUint16(b[4:], uint16(size-HeaderLen6))
		b[6], b[7] = ProtoICMPv6, 64
		copy(b[8:], e.Src.AsSlice())
		copy(b[24:], e.Dst.AsSlice())
		icmp := b[HeaderLen6:]
		e.fill(icmp, echoRequest6, echoReply6)
		binary.BigEndian.PutUint16(icmp[2:], Checksum(icmp, pseudoSum(e.Src, e.Dst, ProtoICMPv6, len(icmp))))
		return buf
	}
	b[0] = 0x45
	binary.BigEndian.PutUint16(b[2:], uint16(size))
	b[6] = DontFragment
	b[8], b[9] = 64, ProtoICMP
	copy(b[12:], e.Src.AsSlice())
	copy(b[16:], e.Dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], Checksum(b[:HeaderLen4], 0))
	icmp := b[HeaderLen4:]
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
