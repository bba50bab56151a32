package packet

import (
	"encoding/binary"
	"net/netip"
)

// A Problem is why a router cannot pass a packet on and tells its sender.
type Problem uint8

// The problems that meshd answers.
const (
	TimeExceeded Problem = iota // TTL ran out: ICMP type 11 code 0, ICMPv6 type 3 code 0
	NoRoute                     // nobody has that address: type 3 code 0, ICMPv6 type 1 code 0
	TooBig                      // larger than the path: type 3 code 4, ICMPv6 type 2 code 0
)

// An error quotes as much of the packet as fits these sizes in bytes (RFC 1812
// section 4.3.2.3, RFC 4443 section 2.4 c).
const (
	maxError4 = 576
	maxError6 = 1280
)

// Error writes into buf the ICMP error of a router at address src about the
// packet b and returns it as a finished packet, a part of buf. mtu, in bytes,
// is only used for TooBig. It returns nil if the rules of RFC 1122 section
// 3.2.2 and RFC 4443 section 2.4 e forbid an answer, or if src is not of b's
// family. b must have passed Parse; buf must hold 1280 bytes.
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

func error4(buf []byte, src, dst netip.Addr, problem Problem, mtu int, b []byte) []byte {
	quote := b[:min(len(b), maxError4-headerLen4-8)]
	p := buf[:headerLen4+8+len(quote)]
	clear(p[:headerLen4+8])
	p[0] = 0x45
	p[1] = 0xc0 // internetwork control, RFC 1812 section 4.3.2.5
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	p[6] = 0x40 // don't fragment: an identification of 0 is fine (RFC 6864)
	p[8] = 64
	p[9] = protoICMP
	copy(p[12:], src.AsSlice())
	copy(p[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(p[10:], Checksum(p[:headerLen4], 0))

	icmp := p[headerLen4:]
	switch problem {
	case TimeExceeded:
		icmp[0] = 11
	case NoRoute:
		icmp[0] = 3
	case TooBig:
		icmp[0], icmp[1] = 3, 4
		binary.BigEndian.PutUint16(icmp[6:], uint16(mtu)) // RFC 1191 section 4
	}
	copy(icmp[8:], quote)
	binary.BigEndian.PutUint16(icmp[2:], Checksum(icmp, 0))
	return p
}

func error6(buf []byte, src, dst netip.Addr, problem Problem, mtu int, b []byte) []byte {
	quote := b[:min(len(b), maxError6-headerLen6-8)]
	p := buf[:headerLen6+8+len(quote)]
	clear(p[:headerLen6+8])
	p[0] = 0x60
	binary.BigEndian.PutUint16(p[4:], uint16(8+len(quote)))
	p[6] = protoICMPv6
	p[7] = 64
	copy(p[8:], src.AsSlice())
	copy(p[24:], dst.AsSlice())

	icmp := p[headerLen6:]
	switch problem {
	case TimeExceeded:
		icmp[0] = 3
	case NoRoute:
		icmp[0] = 1
	case TooBig:
		icmp[0] = 2
		binary.BigEndian.PutUint32(icmp[4:], uint32(mtu))
	}
	copy(icmp[8:], quote)
	binary.BigEndian.PutUint16(icmp[2:], Checksum(icmp, pseudoSum(src, dst, protoICMPv6, len(icmp))))
	return p
}

// Answerable tells whether a router may send an ICMP error about b at all: never
// about an ICMP error, to or about many receivers, or about a fragment other
// than the first.
func Answerable(b []byte) bool {
	h, ok := Parse(b)
	if !ok || !single(h.Src) || h.Dst.IsMulticast() || h.Dst == broadcast {
		return false
	}
	if h.Src.Is4() {
		headerLen := int(b[0]&0x0f) * 4
		if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return false
		}
		return b[9] != protoICMP || len(b) > headerLen && !isError4(b[headerLen])
	}
	return answerable6(b)
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// single tells whether ip can be one host that takes an answer.
func single(ip netip.Addr) bool {
	if ip.IsUnspecified() || ip.IsMulticast() || ip.IsLoopback() {
		return false
	}
	return !ip.Is4() || ip.As4()[0] < 240 && ip.As4()[0] > 0 // class E, "this network"
}

// isError4 tells ICMP errors from queries (RFC 792): unreachable, source
// quench, redirect, time exceeded, parameter problem.
func isError4(icmpType uint8) bool {
	switch icmpType {
	case 3, 4, 5, 11, 12:
		return true
	}
	return false
}

// answerable6 walks the extension headers (RFC 8200 section 4) to see whether
// b is a later fragment or an ICMPv6 error. When the chain leaves the packet,
// silence is safer.
func answerable6(b []byte) bool {
	const (
		hopByHop, routing, fragment, authentication, destination = 0, 43, 44, 51, 60

		redirect = 137 // ICMPv6 type; not an error, but RFC 4443 section 2.4 e.2 names it
	)
	next, at := b[6], headerLen6
	for {
		if next == protoICMPv6 {
			return at < len(b) && b[at] >= 128 && b[at] != redirect
		}
		if at+8 > len(b) {
			return next != hopByHop && next != routing && next != fragment && next != authentication && next != destination
		}
		switch next {
		case hopByHop, routing, destination:
			next, at = b[at], at+8+int(b[at+1])*8
		case authentication:
			next, at = b[at], at+8+int(b[at+1])*4 // RFC 4302 section 2.2: words less two
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
