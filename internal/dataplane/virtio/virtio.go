// Package virtio is the byte maths of the frames of a TUN with IFF_VNET_HDR. Each packet has a
// header in front of it, in which the sender says what work is left to the receiver.
//
//	frame         header and packet
//	superpacket   many segments of one flow in one packet with one set of headers, which may
//	              be larger than any MTU; the receiver of the frame has to segment it
//	partial       a checksum field that holds the sum of the pseudo-header only; the receiver
//	              of the frame has to complete it
//
// It holds no file descriptor and no state. The names are those of struct
// virtio_net_hdr in linux/virtio_net.h.
package virtio

import (
	"encoding/binary"

	"example.org/meshd/internal/dataplane/packet"
)

// HeaderSize is the size of struct virtio_net_hdr in bytes.
const HeaderSize = 10

// GSO is the kind of a superpacket.
type GSO uint8

// Kinds of superpackets (VIRTIO_NET_HDR_GSO_*).
const (
	None GSO = 0 // a plain packet
	TCP4 GSO = 1
	TCP6 GSO = 4
	UDP  GSO = 5 // UDP_L4: whole datagrams, not fragments
)

// Bits of the first two bytes.
const (
	needsChecksum = 1    // VIRTIO_NET_HDR_F_NEEDS_CSUM
	ecnBit        = 0x80 // VIRTIO_NET_HDR_GSO_ECN: the first segment has CWR
)

// A Header is struct virtio_net_hdr. All sizes and offsets are in bytes.
type Header struct {
	Partial        bool // the checksum is partial
	GSO            GSO
	HeaderLen      int // size of all protocol headers; a hint in received frames
	SegmentSize    int // payload of each segment but the last
	ChecksumStart  int // offset of the transport header in the packet
	ChecksumOffset int // offset of the checksum field in the transport header
}

// Parse reads the header of a frame and returns it with the packet, which is a part of frame. ok
// is false if the frame is too short for a header.
func Parse(frame []byte) (h Header, data []byte, ok bool) {
	if len(frame) < HeaderSize {
		return h, nil, false
	}
	order := binary.NativeEndian
	return Header{
		Partial:        frame[0]&needsChecksum != 0,
		GSO:            GSO(frame[1] &^ ecnBit),
		HeaderLen:      int(order.Uint16(frame[2:])),
		SegmentSize:    int(order.Uint16(frame[4:])),
		ChecksumStart:  int(order.Uint16(frame[6:])),
		ChecksumOffset: int(order.Uint16(frame[8:])),
	}, frame[HeaderSize:], true
}

// Put writes the header into the first HeaderSize bytes of frame.
func (h Header) Put(frame []byte) {
	order := binary.NativeEndian
	frame[0] = 0
	if h.Partial {
		frame[0] = needsChecksum
	}
	frame[1] = uint8(h.GSO)
	order.PutUint16(frame[2:], uint16(h.HeaderLen))
	order.PutUint16(frame[4:], uint16(h.SegmentSize))
	order.PutUint16(frame[6:], uint16(h.ChecksumStart))
	order.PutUint16(frame[8:], uint16(h.ChecksumOffset))
}

// Complete completes a partial checksum in b, a packet that is not a superpacket. It returns false
// if the header does not fit the packet.
func (h Header) Complete(b []byte) bool {
	if !h.Partial {
		return true
	}
	field := h.ChecksumStart + h.ChecksumOffset
	if h.ChecksumStart > len(b) || field+2 > len(b) {
		return false
	}
	// The field holds the sum of the pseudo-header, so it is a part of the sum.
	sum := ^packet.Fold(packet.Sum(b[h.ChecksumStart:], 0))
	if sum == 0 { // in UDP, 0 says that there is no checksum; elsewhere 0 and 0xffff are the same
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[field:], sum)
	return true
}
