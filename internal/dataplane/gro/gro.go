// Package gro is the byte maths of generic receive offload: it merges packets of
// one flow, as they come from the wire, into superpackets for the TUN, so that
// the kernel handles many at the cost of one.
//
//	flow         protocol, addresses and ports
//	group        what becomes one frame: packets of one flow that follow each other
//	open         the group at the end of its flow, which the next packet may join
//	superpacket  a group of several packets under the headers of the first
//
// A router must not change what it forwards, so packets are merged only if
// segmenting the superpacket gives the same bytes again: equal headers, sequence
// numbers and IP identifications in a row, right checksums. The one liberty is
// the identification of packets with "don't fragment", which means nothing
// (RFC 6864 section 4.1): senders that leave it constant may see it counted.
//
// Packets of one flow never overtake each other. It holds no file descriptor.
package gro

import (
	"encoding/binary"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/virtio"
)

const (
	protoTCP = 6
	protoUDP = 17

	maxOpen    = 8                 // flows that are merged at a time; the rest passes as it is
	maxGroup   = 64                // packets of a superpacket: UDP_MAX_SEGMENTS before Linux 6.9
	maxSize    = packet.MaxSize    // bytes of a superpacket
	maxHeaders = 40 + 60           // IPv6 and TCP with all options
	frameStart = virtio.HeaderSize // of the packet's headers in a group's scratch memory

	// A longer one whose checksum is unfinished may be a superpacket that no network card
	// has cut. Into what is not known any more: should it be cut yet, then into what every
	// host takes (RFC 9293 section 3.7.1).
	largestPacket = 1500
	anySegment    = 536
)

// A Coalescer merges batches of packets. It belongs to one goroutine and keeps
// its memory from batch to batch.
type Coalescer struct {
	tcp, udp bool
	groups   []group
	count    int
	open     []int // indexes of open groups, the oldest first
}

// New returns a coalescer of TCP, UDP or both: of what the kernel takes. What is
// not merged becomes groups of one packet.
func New(tcp, udp bool) *Coalescer {
	return &Coalescer{tcp: tcp, udp: udp, open: make([]int, 0, maxOpen)}
}

// Off ends merging. Groups that exist are left as they are.
func (c *Coalescer) Off() { c.tcp, c.udp = false, false }

// group is one frame in the making.
type group struct {
	flow
	packets  [][]byte
	bytes    int // of the superpacket
	size     int // payload of each packet but the last
	verified bool
	headers  [frameStart + maxHeaders]byte
	parts    [][]byte
}

// Add takes the next packet, which must have passed packet.Parse and stay
// unchanged until Reset, and returns the number of the group it is in.
func (c *Coalescer) Add(b []byte) int {
	f, ok := c.classify(b)
	if !ok { // a fragment perhaps, whose flow is unknown: nothing may pass it
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
		if len(c.open) == maxOpen {
			c.close(0)
		}
		c.open = append(c.open, n)
	}
	return n
}

func (c *Coalescer) close(i int) { c.open = append(c.open[:i], c.open[i+1:]...) }

// start makes a group of one packet.
func (c *Coalescer) start(f flow, b []byte) int {
	if c.count == len(c.groups) {
		c.groups = append(c.groups, group{})
	}
	g := &c.groups[c.count]
	c.count++
	g.flow, g.packets, g.verified = f, append(g.packets[:0], b), false
	g.bytes, g.size = len(b), len(b)-f.payload
	return c.count - 1
}

// Len returns the number of groups, numbered from 0 in the order in which they
// have to be delivered.
func (c *Coalescer) Len() int { return c.count }

// Packets returns the packets of group n as they came.
func (c *Coalescer) Packets(n int) [][]byte { return c.groups[n].packets }

// Reset forgets all groups.
func (c *Coalescer) Reset() { c.count, c.open = 0, c.open[:0] }

// noOffload is the header of a frame that is no superpacket.
var noOffload [virtio.HeaderSize]byte

// Plain appends to parts the frame of one packet as it is.
func Plain(parts [][]byte, b []byte) [][]byte { return append(parts, noOffload[:], b) }

// Frame returns the frame of group n in parts, valid until Reset.
func (c *Coalescer) Frame(n int) [][]byte {
	g := &c.groups[n]
	first := g.packets[0]
	if len(g.packets) == 1 && unfinished(&g.flow, first) {
		h := virtio.Header{Partial: true, ChecksumStart: g.transport, ChecksumOffset: g.checksum}
		if g.proto == protoTCP && len(first) > largestPacket {
			h.GSO, h.HeaderLen, h.SegmentSize = g.gso, g.payload, anySegment
		}
		h.Put(g.headers[:])
		g.parts = append(g.parts[:0], g.headers[:frameStart], first)
		return g.parts
	}
	if len(g.packets) == 1 {
		g.parts = Plain(g.parts[:0], first)
		return g.parts
	}
	h := g.headers[frameStart : frameStart+g.payload]
	copy(h, first)
	g.finish(h)
	virtio.Header{
		Partial: true, GSO: g.gso, HeaderLen: g.payload, SegmentSize: g.size,
		ChecksumStart: g.transport, ChecksumOffset: g.checksum,
	}.Put(g.headers[:])
	g.parts = append(g.parts[:0], g.headers[:frameStart+g.payload])
	for _, p := range g.packets {
		g.parts = append(g.parts, p[g.payload:])
	}
	return g.parts
}

// finish makes the headers of the first packet those of the superpacket.
func (g *group) finish(h []byte) {
	addresses := h[8:40]
	if h[0]>>4 == 4 {
		addresses = h[12:20]
		binary.BigEndian.PutUint16(h[2:], uint16(g.bytes))
		h[10], h[11] = 0, 0
		binary.BigEndian.PutUint16(h[10:], packet.Checksum(h[:g.transport], 0))
	} else {
		binary.BigEndian.PutUint16(h[4:], uint16(g.bytes-40))
	}
	t := h[g.transport:]
	if g.proto == protoUDP {
		binary.BigEndian.PutUint16(t[4:], uint16(g.bytes-g.transport))
	} else {
		last := g.packets[len(g.packets)-1]
		t[13] |= last[g.transport+13] & psh
	}
	binary.BigEndian.PutUint16(t[g.checksum:], packet.Fold(packet.PseudoSum(addresses, g.proto, g.bytes-g.transport)))
}
