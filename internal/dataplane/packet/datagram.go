package packet

import (
	"encoding/binary"
	"net/netip"
)

// ParseDatagram reads b as a UDP datagram to a port; payload is a part of b. ok is false if b is something
// else or a fragment, or if the datagram is behind extension headers. b must have passed Parse. The checksum
// is not looked at: the kernel has not completed it in what it only forwards.
func ParseDatagram(b []byte, port uint16) (src, dst netip.Addr, payload []byte, ok bool) {
	header, protocol := HeaderLen6, b[6]
	if b[0]>>4 == 4 {
		header, protocol = int(b[0]&0x0f)*4, b[9]
		if IsFragment4(b) {
			return src, dst, nil, false
		}
	}
	if protocol != ProtoUDP || len(b) < header+UDPHeaderLen {
		return src, dst, nil, false
	}
	udp := b[header:]
	size := int(binary.BigEndian.Uint16(udp[4:]))
	if binary.BigEndian.Uint16(udp[2:]) != port || size < UDPHeaderLen || size > len(udp) {
		return src, dst, nil, false
	}
	h, ok := Parse(b)
	return h.Src, h.Dst, udp[UDPHeaderLen:size], ok
}
