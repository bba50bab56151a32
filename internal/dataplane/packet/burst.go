package packet

import "net/netip"

// A Datagram is what one message from the socket holds: one inner packet, or
// several of one size that the kernel merged (UDP_GRO). Only the last of them may
// be shorter.
type Datagram struct {
	Buf  []byte         // backing memory; belongs to the batch for its whole life
	Data []byte         // the inner packets, one behind the other, within Buf
	Size int            // of each packet but the last, bytes; 0 is that of Data
	Addr netip.AddrPort // underlay address of the sender; IPv4 never mapped
	TOS  uint8          // of the outer header
}

// NewDatagrams returns n datagrams, each with a buffer of its own.
func NewDatagrams(n int) []Datagram {
	ds := make([]Datagram, n)
	memory := make([]byte, n*MaxSize)
	for i := range ds {
		ds[i].Buf = memory[i*MaxSize : (i+1)*MaxSize : (i+1)*MaxSize]
	}
	return ds
}

// Next returns the first inner packet and takes it off Data; ok is false if none
// is left.
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

// A Burst is packets for one peer that leave in one message: one datagram each,
// all of one size but for a shorter last one (UDP_SEGMENT).
type Burst struct {
	Addr    netip.AddrPort // underlay address of the peer; IPv4 never mapped
	TOS     uint8          // for the outer headers
	Size    int            // of each packet but the last, bytes
	Packets int
	Bytes   int
	Parts   [][]byte // the packets one behind the other; none lies across two packets
}

// Limits of one message (UDP_MAX_SEGMENTS of kernels before 6.9, and the payload
// of a UDP datagram in IPv4).
const (
	MaxBurst      = 64
	MaxBurstBytes = 65535 - 20 - 8
)

// Fits tells whether a packet of size bytes may join those that are there.
func (b *Burst) Fits(size int) bool {
	return b.Packets < MaxBurst && b.Bytes == b.Packets*b.Size && size <= b.Size && b.Bytes+size <= MaxBurstBytes
}

// Add appends one packet, given in parts.
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

// Split yields each packet as a burst of its own. Their Parts belong to b.
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
