package packet

import (
	"encoding/binary"
	"net/netip"
)

// A Problem is the reason why a router cannot forward a packet, as it tells the sender.
type Problem uint8

// The problems that meshd answers.
const (
	TimeExceeded Problem = iota // TTL ran out: ICMP type 11 code 0, ICMPv6 type 3 code 0
	NoRoute                     // no node has the address: type 3 code 0, ICMPv6 type 1 code 0
	TooBig                      // larger than the path: type 3 code 4, ICMPv6 type 2 code 0
)

// Largest sizes of an ICMP error in bytes. It quotes as much of the packet as fits (RFC 1812,
// section 4.3.2.3; RFC 4443, section 2.4 c).
const (
	maxError4 = 576
	maxError6 = MinMTU6
)

// Error writes into buf the ICMP error of a router with the address src about the packet b. It
// returns the error as a finished packet, a part of buf. mtu, in bytes, is used for TooBig only.
// Error returns nil if RFC 1122, section 3.2.2, or RFC 4443, section 2.4 e, forbids an answer, or
// if src is not of b's family. b must have passed Parse; buf must hold MinMTU6 bytes.
func Error(buf []byte, src netip.Addr, problem Problem, mtu int, b []byte) []byte {
	if !Answerable(b) {
		return nil
	}
	h, _ := Parse(b)
	if !src.IsValid() || src.Is4() != h.Src.Is4() {
		return nil
	}
	if src.Is4() {
		return error4(buf, src, h.Src, problem, mtu, b)
	}
	return error6(buf, src, h.Src, problem, mtu, b)
}

// error4 writes an ICMP error (RFC 792).
func error4(buf []byte, src, dst netip.Addr, problem Problem, mtu int, b []byte) []byte {
	const headers = HeaderLen4 + icmpHeaderLen
	quote := b[:min(len(b), maxError4-headers)]
	p := buf[:headers+len(quote)]
	clear(p[:headers])
	p[0] = 0x45
	p[1] = 0xc0 // internetwork control: RFC 1812, section 4.3.2.5
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	p[6] = DontFragment // with it the identification may be 0 (RFC 6864, section 4.1)
	p[8] = 64
	p[9] = ProtoICMP
	copy(p[12:], src.AsSlice())
	copy(p[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(p[10:], Checksum(p[:HeaderLen4], 0))

	icmp := p[HeaderLen4:]
	switch problem {
	case TimeExceeded:
		icmp[0] = 11
	case NoRoute:
		icmp[0] = 3
	case TooBig:
		icmp[0], icmp[1] = 3, 4
		binary.BigEndian.PutUint16(icmp[6:], uint16(mtu)) // RFC 1191, section 4
	}
	copy(icmp[icmpHeaderLen:], quote)
	binary.BigEndian.PutUint16(icmp[2:], Checksum(icmp, 0))
	return p
}

// error6 writes an ICMPv6 error (RFC 4443, section 3).
func error6(buf []byte, src, dst netip.Addr, problem Problem, mtu int, b []byte) []byte {
	const headers = HeaderLen6 + icmpHeaderLen
	quote := b[:min(len(b), maxError6-headers)]
	p := buf[:headers+len(quote)]
	clear(p[:headers])
	p[0] = 0x60
	binary.BigEndian.PutUint16(p[4:], uint16(icmpHeaderLen+len(quote)))
	p[6] = ProtoICMPv6
	p[7] = 64
	copy(p[8:], src.AsSlice())
	copy(p[24:], dst.AsSlice())

	icmp := p[HeaderLen6:]
	switch problem {
	case TimeExceeded:
		icmp[0] = 3
	case NoRoute:
		icmp[0] = 1
	case TooBig:
		icmp[0] = 2
		binary.BigEndian.PutUint32(icmp[4:], uint32(mtu))
	}
	copy(icmp[icmpHeaderLen:], quote)
	binary.BigEndian.PutUint16(icmp[2:], Checksum(icmp, pseudoSum(src, dst, ProtoICMPv6, len(icmp))))
	return p
}

// Answerable reports whether a router may send an ICMP error about b. It must not answer ICMP
// errors, packets from or to more than one host, and fragments other than the first (RFC 1122,
// section 3.2.2; RFC 4443, section 2.4 e). b need not have passed Parse.
func Answerable(b []byte) bool {
	h, ok := Parse(b)
	if !ok || !single(h.Src) || h.Dst.IsMulticast() || h.Dst == broadcast {
		return false
	}
	if h.Src.Is4() {
		headerLen := int(b[0]&0x0f) * 4
		if isLaterFragment4(b) {
			return false
		}
		return b[9] != ProtoICMP || len(b) > headerLen && !isError4(b[headerLen])
	}
	return answerable6(b)
}

// broadcast is the limited broadcast address (RFC 919).
var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// single reports whether ip can be the address of one host that receives an answer.
func single(ip netip.Addr) bool {
	if ip.IsUnspecified() || ip.IsMulticast() || ip.IsLoopback() {
		return false
	}
	return !ip.Is4() || ip.As4()[0] < 240 && ip.As4()[0] > 0 // class E, "this network"
}

// isError4 reports whether a type of ICMP is an error (RFC 792): unreachable, source quench,
// redirect, time exceeded, parameter problem.
func isError4(icmpType uint8) bool {
	switch icmpType {
	case 3, 4, 5, 11, 12:
		return true
	}
	return false
}

// answerable6 walks the extension headers (RFC 8200, section 4) to find out whether b is a later
// fragment or an ICMPv6 error. If the chain of headers ends outside of the packet, that is
// unknown, and no answer is the safe choice.
func answerable6(b []byte) bool {
	const (
		hopByHop, routing, fragment, authentication, destination = 0, 43, 44, 51, 60

		query    = 128 // the lowest ICMPv6 type that is not an error
		redirect = 137 // not an error, but RFC 4443, section 2.4 e.2, forbids to answer it, too
	)
	next, at := b[6], HeaderLen6
	for {
		if next == ProtoICMPv6 {
			return at < len(b) && b[at] >= query && b[at] != redirect
		}
		if at+8 > len(b) {
			return next != hopByHop && next != routing && next != fragment && next != authentication &&
				next != destination
		}
		switch next {
		case hopByHop, routing, destination:
			next, at = b[at], at+8+int(b[at+1])*8
		case authentication:
			next, at = b[at], at+8+int(b[at+1])*4 // RFC 4302, section 2.2: 32-bit words less 2
		case fragment:
			if binary.BigEndian.Uint16(b[at+2:])&0xfff8 != 0 {
				return false
			}
			next, at = b[at], at+8
		default:
			return true
		}
	}
}
