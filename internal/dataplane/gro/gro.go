// Package gro is the byte maths of generic receive offload: it merges received packets of one
// flow into superpackets for the TUN. The kernel then handles many packets at the cost of one.
//
//	flow         protocol, addresses and ports
//	group        packets of one flow that follow each other and become one frame
//	open         a group that the next packet of its flow may join
//	superpacket  the frame of a group of several packets, under the headers of the first
//	unfinished   a packet whose checksum its sender has left to a network card
//
// A router must not change what it forwards, so packets are merged only if segmenting the
// superpacket gives the same bytes again: their headers are equal, their sequence numbers and IP
// identifications are consecutive, their checksums are right. There is one exception: packets
// with "don't fragment" and a constant identification leave with consecutive ones. The field has
// no meaning there (RFC 6864, section 4.1).
//
// Packets of one flow never overtake each other. The package holds no file descriptor.
package gro

import (
	"encoding/binary"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/virtio"
)

// Limits.
const (
	maxOpen    = 8                        // flows that are merged at one time; the others pass unmerged
	maxGroup   = packet.MaxBurst          // packets in a superpacket
	maxSize    = packet.MaxSize           // bytes in a superpacket
	maxHeaders = packet.HeaderLen6 + 4*15 // IPv6, and TCP with all options
	frameStart = virtio.HeaderSize        // offset of the packet's headers in a group's memory
)

// Sizes for unfinished packets, in bytes. An unfinished packet of TCP that is larger than
// largestPacket may be a superpacket that no network card has segmented. Its original segment size
// is lost. If the packet must be segmented again, anySegment is the payload that every host
// accepts (RFC 9293, section 3.7.1).
const (
	largestPacket = 1500
	anySegment    = 536
)

// A Coalescer merges batches of packets. It belongs to one goroutine and reuses its memory from
// batch to batch.
type Coalescer struct {
	tcp, udp bool // which protocols are merged
	groups   []group
	count    int   // groups in use
	open     []int // indexes of open groups, the oldest first
}

// New returns a coalescer that merges TCP, UDP or both: the kinds of superpackets that the kernel
// accepts. Other packets become groups of one.
func New(tcp, udp bool) *Coalescer {
	return &Coalescer{tcp: tcp, udp: udp, open: make([]int, 0, maxOpen)}
}

// Off turns merging off. Existing groups stay.
func (c *Coalescer) Off() { c.tcp, c.udp = false, false }

// A group becomes one frame.
type group struct {
	flow
	packets  [][]byte // in order; the coalescer does not own their memory
	bytes    int      // of the superpacket
	size     int      // payload of each packet but the last
	verified bool     // the checksum of the first packet is right
	headers  [frameStart + maxHeaders]byte
	parts    [][]byte // the frame
}

// Add adds the next packet and returns the number of its group. The packet must have passed
// packet.Parse and must not change until Reset.
func (c *Coalescer) Add(b []byte) int {
	f, ok := c.classify(b)
	if !ok { // it may be a fragment of any flow: later packets must not overtake it
		c.open = c.open[:0]
		return c.start(f, b)
	}
	for i, n := range c.open {
		g := &c.groups[n]
		if !sameFlow(&g.flow, &f, g.packets[0], b) {
			continue
		}
		if g.accepts(&f, b) {
			g.append(b, len(b)-f.payload)
			if g.full(&f, b) {
				c.close(i)
			}
			return n
		}
		c.close(i)
		break
	}
	n := c.start(f, b)
	if f.mergeable {
		// The oldest goes: its flow has had the longest time to send more, and a short list is searched
		// for each packet.
		if len(c.open) == maxOpen {
			c.close(0)
		}
		c.open = append(c.open, n)
	}
	return n
}

// close ends merging into the open group at an index of open.
func (c *Coalescer) close(i int) { c.open = append(c.open[:i], c.open[i+1:]...) }

// start makes a group of one packet and returns its number.
func (c *Coalescer) start(f flow, b []byte) int {
	if c.count == len(c.groups) {
		c.groups = append(c.groups, group{})
	}
	g := &c.groups[c.count]
	c.count++
	// The slices of an earlier batch are reused: the packet path does not allocate.
	g.flow, g.packets, g.verified = f, append(g.packets[:0], b), false
	g.bytes, g.size = len(b), len(b)-f.payload
	return c.count - 1
}

// Len returns the number of groups. They are numbered from 0 in the order of delivery.
func (c *Coalescer) Len() int { return c.count }

// Packets returns the packets of group n as they were added, valid until Reset.
func (c *Coalescer) Packets(n int) [][]byte { return c.groups[n].packets }

// Reset forgets all groups. Their packets and frames must not be used afterwards.
func (c *Coalescer) Reset() { c.count, c.open = 0, c.open[:0] }

// noOffload is the virtio header of a plain packet.
var noOffload [virtio.HeaderSize]byte

// Plain appends the frame of one packet, without offloads, to parts.
func Plain(parts [][]byte, b []byte) [][]byte { return append(parts, noOffload[:], b) }

// Frame returns the frame of group n in parts, valid until Reset.
func (c *Coalescer) Frame(n int) [][]byte {
	g := &c.groups[n]
	switch {
	case len(g.packets) > 1:
		g.superpacket()
	case unfinished(&g.flow, g.packets[0]):
		g.unfinished()
	default:
		g.parts = Plain(g.parts[:0], g.packets[0])
	}
	return g.parts
}

// unfinished makes the frame of one unfinished packet: the kernel completes the checksum, and
// segments the packet if that is still needed.
func (g *group) unfinished() {
	b := g.packets[0]
	h := virtio.Header{Partial: true, ChecksumStart: g.transport, ChecksumOffset: g.checksum}
	if g.proto == packet.ProtoTCP && len(b) > largestPacket {
		// Too small a segment costs packets; too large a one would be dropped on its way, with "don't
		// fragment" in most of TCP.
		h.GSO, h.HeaderLen, h.SegmentSize = g.gso, g.payload, anySegment
	}
	h.Put(g.headers[:])
	g.parts = append(g.parts[:0], g.headers[:frameStart], b)
}

// superpacket makes the frame of several packets: the headers once, and all payloads.
func (g *group) superpacket() {
	h := g.headers[frameStart : frameStart+g.payload]
	copy(h, g.packets[0])
	g.finish(h)
	virtio.Header{
		Partial: true, GSO: g.gso, HeaderLen: g.payload, SegmentSize: g.size,
		ChecksumStart: g.transport, ChecksumOffset: g.checksum,
	}.Put(g.headers[:])
	g.parts = append(g.parts[:0], g.headers[:frameStart+g.payload])
	for _, p := range g.packets {
		g.parts = append(g.parts, p[g.payload:])
	}
}

// finish turns a copy of the first packet's headers into those of the superpacket: lengths, the
// last packet's PSH, and a partial checksum.
func (g *group) finish(h []byte) {
	if g.v6 {
		binary.BigEndian.PutUint16(h[4:], uint16(g.bytes-packet.HeaderLen6))
	} else {
		binary.BigEndian.PutUint16(h[2:], uint16(g.bytes))
		h[10], h[11] = 0, 0
		binary.BigEndian.PutUint16(h[10:], packet.Checksum(h[:g.transport], 0))
	}
	t := h[g.transport:]
	if g.proto == packet.ProtoUDP {
		binary.BigEndian.PutUint16(t[4:], uint16(g.bytes-g.transport))
	} else {
		last := g.packets[len(g.packets)-1]
		// PSH ends a group, so only the last packet can have it (see full), and segmenting puts it on the
		// last again.
		t[13] |= last[g.transport+13] & psh
	}
	// Not complemented: with VIRTIO_NET_HDR_F_NEEDS_CSUM the field holds the sum of the pseudo-header,
	// and the kernel adds the rest (skb_checksum_help).
	binary.BigEndian.PutUint16(t[g.checksum:], packet.Fold(g.pseudoSum(h, g.bytes)))
}
