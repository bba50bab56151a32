package virtio

import (
	"encoding/binary"

	"example.org/meshd/internal/dataplane/packet"
)

// MaxHeaders is the most that Header needs, in bytes: what a superpacket may have
// in front of its payload.
const MaxHeaders = 256

// Segments is a superpacket, seen as the packets it stands for. It refers to the
// superpacket's memory, which must not change meanwhile.
type Segments struct {
	packet    []byte
	transport int // offset of the TCP or UDP header
	payload   int // offset of the payload
	size      int // payload of each segment but the last, bytes
	count     int
	pseudo    uint64 // sum of the pseudo-header without the length
	tcp       bool
}

const (
	protoTCP = 6
	protoUDP = 17

	tcpHeader = 20 // without options
	udpHeader = 8
)

// Segment returns the segments of a superpacket. ok is false if it is none, or if
// the header does not fit the packet.
func (h Header) Segment(b []byte) (s Segments, ok bool) {
	s = Segments{packet: b, transport: h.ChecksumStart, size: h.SegmentSize, tcp: h.GSO != UDP}
	if len(b) < 20 || s.size == 0 || !h.Partial {
		return s, false
	}
	v6 := b[0]>>4 == 6
	if v6 && len(b) < 40 || h.GSO == None || h.GSO == TCP4 && v6 || h.GSO == TCP6 && !v6 || h.GSO != TCP4 && h.GSO != TCP6 && h.GSO != UDP {
		return s, false
	}
	minimum, proto, addresses := int(b[0]&0x0f)*4, uint8(protoTCP), b[12:20]
	if v6 {
		minimum, addresses = 40, b[8:40]
	}
	if s.transport < max(minimum, 20) {
		return s, false
	}
	// HeaderLen is a hint that some kernels get wrong: the packet itself knows.
	if s.tcp {
		if s.transport+tcpHeader > len(b) {
			return s, false
		}
		s.payload = s.transport + int(b[s.transport+12]>>4)*4
		if s.payload < s.transport+tcpHeader {
			return s, false
		}
	} else {
		proto, s.payload = protoUDP, s.transport+udpHeader
	}
	if s.payload >= len(b) || s.payload > MaxHeaders {
		return s, false
	}
	s.count = (len(b) - s.payload + s.size - 1) / s.size
	s.pseudo = packet.PseudoSum(addresses, proto, 0)
	return s, true
}

// Len returns how many segments there are, at least one.
func (s *Segments) Len() int { return s.count }

// Payload returns the payload of segment i, a part of the superpacket.
func (s *Segments) Payload(i int) []byte {
	from := s.payload + i*s.size
	return s.packet[from:min(from+s.size, len(s.packet))]
}

// HeaderLen returns the size in bytes of every segment's headers.
func (s *Segments) HeaderLen() int { return s.payload }

// Header writes the headers of segment i into buf, which must hold HeaderLen
// bytes, and returns them. It is what the kernel does in inet_gso_segment,
// ipv6_gso_segment, tcp_gso_segment and __udp_gso_segment.
func (s *Segments) Header(i int, buf []byte) []byte {
	h := buf[:s.payload:s.payload]
	copy(h, s.packet)
	payload := s.Payload(i)
	length := len(h) + len(payload)
	if h[0]>>4 == 4 {
		binary.BigEndian.PutUint16(h[2:], uint16(length))
		binary.BigEndian.PutUint16(h[4:], binary.BigEndian.Uint16(h[4:])+uint16(i)) // identification
		h[10], h[11] = 0, 0
		binary.BigEndian.PutUint16(h[10:], packet.Checksum(h[:int(h[0]&0x0f)*4], 0))
	} else {
		binary.BigEndian.PutUint16(h[4:], uint16(length-40))
	}
	t := h[s.transport:]
	field := 6
	if s.tcp {
		field = 16
		s.tcpFields(i, t)
	} else {
		binary.BigEndian.PutUint16(t[4:], uint16(length-s.transport))
	}
	t[field], t[field+1] = 0, 0
	sum := packet.Sum(payload, packet.Sum(t, packet.SumNumber(uint16(length-s.transport), s.pseudo)))
	check := ^packet.Fold(sum)
	if check == 0 && !s.tcp {
		check = 0xffff
	}
	binary.BigEndian.PutUint16(t[field:], check)
	return h
}

// tcpFields sets what differs between segments: the sequence number, CWR only on
// the first (RFC 3168 section 6.1.2), PSH and FIN only on the last.
func (s *Segments) tcpFields(i int, t []byte) {
	const fin, psh, cwr = 0x01, 0x08, 0x80
	binary.BigEndian.PutUint32(t[4:], binary.BigEndian.Uint32(t[4:])+uint32(i*s.size))
	if i > 0 {
		t[13] &^= cwr
	}
	if i < s.count-1 {
		t[13] &^= fin | psh
	}
}
