package user

import (
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/virtio"
)

// maxWhole is the largest number of datagrams that a superpacket of UDP stands for: UDP_MAX_SEGMENTS since
// Linux 6.9, twice that of before.
const maxWhole = 2 * packet.MaxBurst

// A cutter makes packets of superpackets of UDP that came whole, see packet.Datagram.IsWhole. Few hosts ever
// get one, so it copies them: then each packet is looked at as others are, and those of a flow are merged
// again. It belongs to one goroutine.
type cutter struct {
	memory []byte // of all packets since reset
	result packet.Datagram
}

// reset forgets all packets, whose memory is used again.
func (c *cutter) reset() { c.memory = c.memory[:0] }

// cut returns a message with the packets that the one in d stands for. It is valid until the next cut, and
// its packets until reset. It is empty if d does not make sense.
func (c *cutter) cut(d *packet.Datagram) *packet.Datagram {
	c.result = packet.Datagram{Addr: d.Addr, TOS: d.TOS}
	b := d.Data
	if !packet.ValidChecksum(b) { // the packets would have a right one
		return &c.result
	}
	header := packet.HeaderLen6
	if b[0]>>4 == 4 {
		header = int(b[0]&0x0f) * 4
	}
	h := virtio.Header{Partial: true, GSO: virtio.UDP, SegmentSize: d.Size, ChecksumStart: header}
	s, ok := h.Segment(b)
	if !ok || s.Len() > maxWhole {
		return &c.result
	}
	var headers [virtio.MaxHeaders]byte
	first := len(c.memory)
	for i := range s.Len() {
		c.memory = append(c.memory, s.Header(i, headers[:])...)
		c.memory = append(c.memory, s.Payload(i)...)
	}
	c.result.Data, c.result.Size = c.memory[first:], s.HeaderLen()+d.Size
	return &c.result
}
