package virtio

import (
	"encoding/binary"

	"example.org/meshd/internal/dataplane/packet"
)

// MaxHeaders is the largest size, in bytes, of the headers in front of a superpacket's payload,
// and so of the buffer that Segments.Header needs.
const MaxHeaders = 256

// Segments is a superpacket, seen as the packets that it stands for. It refers to the memory of
// the superpacket, which must not change as long as Segments is in use.
type Segments struct {
	packet    []byte
	transport int // offset of the TCP or UDP header
	payload   int // offset of the payload
	size      int // payload of each segment but the last, in bytes
	count     int
	pseudo    uint64 // sum of the pseudo-header without the length
	tcp       bool
}

// Segment returns the segments of a superpacket. ok is false if b is not a superpacket, or if the
// header does not fit the packet: the frame comes from the kernel, but a virtual machine or a
// program with a socket of type AF_PACKET may have chosen its contents.
func (h Header) Segment(b []byte) (s Segments, ok bool) {
	s = Segments{packet: b, transport: h.ChecksumStart, size: h.SegmentSize, tcp: h.GSO != UDP}
	if len(b) < packet.HeaderLen4 || s.size == 0 || !h.Partial {
		return s, false
	}
	v6 := b[0]>>4 == 6
	if v6 && len(b) < packet.HeaderLen6 || !h.GSO.carries(v6) {
		return s, false
	}
	headerLen, proto, addresses := int(b[0]&0x0f)*4, uint8(packet.ProtoTCP), packet.Addresses4
	if v6 {
		headerLen, addresses = packet.HeaderLen6, packet.Addresses6
	}
	if s.transport < max(headerLen, packet.HeaderLen4) {
		return s, false
	}
	// The size of the headers is read from the packet: some kernels put a wrong HeaderLen.
	if s.tcp {
		if s.transport+packet.TCPHeaderLen > len(b) {
			return s, false
		}
		s.payload = s.transport + int(b[s.transport+12]>>4)*4
		if s.payload < s.transport+packet.TCPHeaderLen {
			return s, false
		}
	} else {
		proto, s.payload = packet.ProtoUDP, s.transport+packet.UDPHeaderLen
	}
	// A superpacket without payload would have no segment, and its headers would be lost.
	if s.payload >= len(b) || s.payload > MaxHeaders {
		return s, false
	}
	s.count = (len(b) - s.payload + s.size - 1) / s.size
	s.pseudo = packet.PseudoSum(addresses(b), proto, 0)
	return s, true
}

// carries reports whether superpackets of the kind are of a family.
func (g GSO) carries(v6 bool) bool {
	switch g {
	case TCP4:
		return !v6
	case TCP6:
		return v6
	}
	return g == UDP
}

// Len returns the number of segments, which is at least one.
func (s *Segments) Len() int { return s.count }

// Payload returns the payload of segment i, a part of the superpacket.
func (s *Segments) Payload(i int) []byte {
	from := s.payload + i*s.size
	return s.packet[from:min(from+s.size, len(s.packet))]
}

// HeaderLen returns the size in bytes of every segment's headers.
func (s *Segments) HeaderLen() int { return s.payload }

// Header writes the headers of segment i into buf, which must hold HeaderLen bytes, and returns
// them as a part of buf. The result is the same as the kernel's in inet_gso_segment,
// ipv6_gso_segment, tcp_gso_segment and __udp_gso_segment.
func (s *Segments) Header(i int, buf []byte) []byte {
	h := buf[:s.payload:s.payload]
	copy(h, s.packet)
	payload := s.Payload(i)
	// The last segment may be shorter than the others, so each length is its own.
	length := len(h) + len(payload)
	if h[0]>>4 == 4 {
		binary.BigEndian.PutUint16(h[2:], uint16(length))
		binary.BigEndian.PutUint16(h[4:], binary.BigEndian.Uint16(h[4:])+uint16(i)) // identification
		h[10], h[11] = 0, 0
		binary.BigEndian.PutUint16(h[10:], packet.Checksum(h[:int(h[0]&0x0f)*4], 0))
	} else {
		binary.BigEndian.PutUint16(h[4:], uint16(length-packet.HeaderLen6))
	}
	t := h[s.transport:]
	field := 6 // offset of the checksum in a UDP header
	if s.tcp {
		field = 16
		s.tcpFields(i, t)
	} else {
		binary.BigEndian.PutUint16(t[4:], uint16(length-s.transport))
	}
	t[field], t[field+1] = 0, 0
	sum := packet.Sum(payload, packet.Sum(t, packet.SumNumber(uint16(length-s.transport), s.pseudo)))
	check := ^packet.Fold(sum)
	if check == 0 && !s.tcp { // in UDP, 0 says that there is no checksum (RFC 768)
		check = 0xffff
	}
	binary.BigEndian.PutUint16(t[field:], check)
	return h
}

// tcpFields sets what differs between segments: the sequence number, CWR on the first only (RFC
// 3168, section 6.1.2), PSH and FIN on the last only.
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
