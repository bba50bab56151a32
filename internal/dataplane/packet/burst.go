package packet

import (
	"encoding/binary"
	"net/netip"
)

// A Datagram is one message from the socket: one inner packet, or several of one size that the
// kernel has merged (UDP_GRO), of which only the last may be shorter. The receiver of a batch
// owns it until the next Read into the same datagrams.
type Datagram struct {
	Buf  []byte         // backing memory; stays with the datagram
	Data []byte         // the inner packets, one behind the other, a part of Buf
	Size int            // in bytes, of each packet but the last; 0: Data is one packet
	Addr netip.AddrPort // underlay address of the sender; IPv4 is never mapped
	TOS  uint8          // of the outer header
}

// NewDatagrams returns n datagrams, each with a buffer of its own of MaxSize bytes.
func NewDatagrams(n int) []Datagram {
	ds := make([]Datagram, n)
	memory := make([]byte, n*MaxSize)
	for i := range ds {
		ds[i].Buf = memory[i*MaxSize : (i+1)*MaxSize : (i+1)*MaxSize]
	}
	return ds
}

// Next returns the first inner packet and removes it from Data; ok is false if Data is empty. The
// packet is a part of Buf and cannot be extended into the next one.
func (d *Datagram) Next() (b []byte, ok bool) {
	if len(d.Data) == 0 {
		return nil, false
	}
	size := len(d.Data)
	if d.Size > 0 {
		size = min(d.Size, size)
	}
	b, d.Data = d.Data[:size:size], d.Data[size:]
	return b, true
}

// IsWhole reports whether Data is one inner packet, although it has a Size: a superpacket of UDP that no
// device has cut on its way, since both hosts share a machine. Then Size is the payload of its datagrams, and
// the kernel tells it as it tells that of merged packets (udp_cmsg_recv). Of merged packets the first one has
// Size bytes, and so claims no more.
func (d *Datagram) IsWhole() bool {
	b := d.Data
	if d.Size <= 0 || len(b) <= max(d.Size, HeaderLen6) {
		return false
	}
	if b[0]>>4 == 6 {
		return b[6] == ProtoUDP && HeaderLen6+int(binary.BigEndian.Uint16(b[4:])) == len(b)
	}
	return b[0]>>4 == 4 && b[9] == ProtoUDP && int(binary.BigEndian.Uint16(b[2:])) == len(b)
}

// A Burst is packets for one peer that leave in one message. Each becomes a datagram; all have one
// size, but the last may be shorter (UDP_SEGMENT). A burst refers to the memory of its packets,
// which must not change before it is sent.
type Burst struct {
	Addr    netip.AddrPort // underlay address of the peer; IPv4 is never mapped
	TOS     uint8          // for the outer headers
	Size    int            // in bytes, of each packet but the last
	Packets int            // their number
	Bytes   int            // of all packets
	Parts   [][]byte       // the packets one behind the other; each part belongs to one packet
}

// Limits of one message.
const (
	MaxBurst      = 64                                  // packets: UDP_MAX_SEGMENTS before Linux 6.9
	MaxBurstBytes = MaxSize - HeaderLen4 - UDPHeaderLen // the payload of a UDP datagram over IPv4
)

// Fits reports whether a packet of size bytes may follow those of the burst, which has one or
// more. Behind a shorter packet nothing fits.
func (b *Burst) Fits(size int) bool {
	full := b.Packets == MaxBurst || b.Bytes+size > MaxBurstBytes
	return !full && b.Bytes == b.Packets*b.Size && size <= b.Size
}

// Add appends one packet, given in parts. The first packet sets Size; the others must fit.
func (b *Burst) Add(parts ...[]byte) {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	if b.Packets == 0 {
		b.Size = size
	}
	b.Packets++
	b.Bytes += size
	b.Parts = append(b.Parts, parts...)
}

// Split yields each packet as a burst of its own, in order: it is how a refused burst is sent
// again. The Parts of each are a part of those of b.
func (b *Burst) Split(yield func(Burst) bool) {
	one := Burst{Addr: b.Addr, TOS: b.TOS, Packets: 1}
	first := 0
	for i, p := range b.Parts {
		one.Bytes += len(p)
		if one.Bytes < b.Size && i < len(b.Parts)-1 {
			continue
		}
		one.Size, one.Parts = one.Bytes, b.Parts[first:i+1]
		if !yield(one) {
			return
		}
		first, one.Bytes = i+1, 0
	}
}
