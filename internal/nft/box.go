package nft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Box is what some packets have in common: where they go, and perhaps where they come from, their protocol
// and their port.
type Box struct {
	From      netip.Prefix // invalid in a set of boxes without sources
	To        netip.Prefix
	Protocols [2]uint8  // the first and the last
	Ports     [2]uint16 // the first and the last; of protocols without ports they say nothing
	Name      string    // by which packets are counted, at most 250 bytes
}

// A Shape is what the boxes of a set have in common. Where all of them are of one size, each is a single key,
// which the kernel finds by a hash; other ones it finds by their ranges (nft_set_pipapo.c, Linux 5.6). That
// costs several times as much for each packet, since it needs the registers of the FPU.
type Shape struct {
	Ranges         bool // boxes of any size; they have a protocol and a port
	Sources        bool // boxes have a From
	FromBits       int  // length of all From; unless Ranges
	ToBits         int  // length of all To; unless Ranges
	Protocol, Port bool // the boxes are about one protocol each, or any; and about one port each, or any
}

// Boxes is a named set of boxes, which share no packet. The kernel finds the box of a packet in one look-up,
// whatever their number, and counts it there.
type Boxes struct {
	name     string
	shape    Shape
	counts   bool
	key      nftables.SetDatatype
	elements []box // sorted by their first keys, each once
}

// A box is an element of Boxes.
type box struct {
	first, last [boxKey]byte // of which the set's type says how many bytes count; the others are zero
	name        string
}

// boxKey is the length of the largest key in bytes: two addresses of IPv6, a protocol, a port. Each fills
// whole registers of 4 bytes.
const boxKey = 16 + 16 + 4 + 4

// Boxes is a set of boxes of the family, which have all the shape. If counts is false, packets in a box are
// not counted.
func (f Family) Boxes(name string, shape Shape, counts bool, all []Box) Boxes {
	b := Boxes{name: name, shape: shape, counts: counts, elements: make([]box, 0, len(all))}
	parts := []nftables.SetDatatype{f.key}
	if shape.Sources {
		parts = append(parts, f.key)
	}
	if shape.Protocol || shape.Ranges {
		parts = append(parts, nftables.TypeInetProto)
	}
	if shape.Port || shape.Ranges {
		parts = append(parts, nftables.TypeInetService)
	}
	if b.key = parts[0]; len(parts) > 1 {
		b.key = nftables.MustConcatSetType(parts...)
	}
	for i := range all {
		b.elements = append(b.elements, shape.element(&all[i]))
	}
	slices.SortFunc(b.elements, byFirst)
	b.elements = slices.CompactFunc(b.elements, func(a, b box) bool { return byFirst(a, b) == 0 })
	return b
}

// element returns a box as an element of a set.
func (s Shape) element(one *Box) box {
	e, at := box{name: one.Name}, 0
	add := func(p netip.Prefix) {
		if p.Addr().Is4() {
			first := p.Addr().As4()
			copy(e.first[at:], first[:])
		} else {
			first := p.Addr().As16()
			copy(e.first[at:], first[:])
		}
		n := p.Addr().BitLen() / 8
		copy(e.last[at:at+n], e.first[at:])
		if s.Ranges {
			setHost(e.last[at:at+n], p.Bits())
		}
		at += n
	}
	if s.Sources {
		add(one.From)
	}
	add(one.To)
	if s.Protocol || s.Ranges {
		e.first[at], e.last[at] = one.Protocols[0], one.Protocols[1]
		at += smallRegister
	}
	if s.Port || s.Ranges {
		binary.BigEndian.PutUint16(e.first[at:], one.Ports[0])
		binary.BigEndian.PutUint16(e.last[at:], one.Ports[1])
	}
	return e
}

// byFirst orders boxes. Boxes that share no packet have different first keys.
func byFirst(a, b box) int { return bytes.Compare(a.first[:], b.first[:]) }

// maxBoxes keeps a message with boxes below the 64 KiB that a netlink attribute can hold: a box of IPv6 has
// up to 400 bytes with its name.
const maxBoxes = 150

// add adds the set with its elements to a transaction.
func (b Boxes) add(conn *nftables.Conn, t *nftables.Table) error {
	set := &nftables.Set{Table: t, Name: b.name, KeyType: b.key, Interval: b.shape.Ranges,
		Concatenation: b.shape.Ranges || b.shape.Sources || b.shape.Protocol || b.shape.Port, Counter: b.counts}
	if !b.shape.Ranges { // with a size the kernel chooses a hash that does not grow, which is the faster one
		set.Size = uint32(len(b.elements))
	}
	if err := addSet(conn, set); err != nil {
		return fmt.Errorf("set %s: %w", b.name, err)
	}
	elements := make([]nftables.SetElement, 0, maxBoxes)
	for chunk := range slices.Chunk(b.elements, maxBoxes) {
		elements = elements[:0]
		for i := range chunk {
			e, n := &chunk[i], b.key.Bytes
			elements = append(elements, nftables.SetElement{Key: e.first[:n]})
			if b.shape.Ranges {
				elements[i].KeyEnd = e.last[:n]
			}
			if b.counts { // the names are for those who look for counters
				elements[i].Comment = e.name
			}
		}
		if err := conn.SetAddElements(set, elements); err != nil {
			return fmt.Errorf("set %s: %w", b.name, err)
		}
	}
	return nil
}

// equal tells whether two sets are the same.
func (b Boxes) equal(o Boxes) bool {
	return b.name == o.name && b.shape == o.shape && b.counts == o.counts && b.key == o.key &&
		slices.Equal(b.elements, o.elements)
}

// compare tells whether the kernel has exactly the wanted boxes.
func (b Boxes) compare(t ID) (same bool, err error) {
	n := 0
	err = b.each(t, func(i int, _ Counter) {
		if n++; i < 0 {
			n = len(b.elements) + 1
		}
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, errAnotherKey) {
		return false, nil
	}
	return err == nil && n == len(b.elements), err
}

// count adds what the boxes have counted to the sums of their names.
func (b Boxes) count(t ID, into map[string]Counter) error {
	err := b.each(t, func(i int, c Counter) {
		if i >= 0 {
			into[b.elements[i].name] = into[b.elements[i].name].plus(c)
		}
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, errAnotherKey) { // another program's doing
		return nil
	}
	return err
}

// each calls do for each of the kernel's boxes with the number of the wanted box that it is; -1: it is none.
func (b Boxes) each(t ID, do func(i int, c Counter)) error {
	one := func(attributes []byte) error {
		var have box
		var c Counter
		n, ends := 0, false
		for a := first(attributes); a.ok; a = first(a.rest) {
			switch a.kind {
			case unix.NFTA_SET_ELEM_KEY:
				n = copy(have.first[:], valueOf(a.value))
			case nftables.NFTA_SET_ELEM_KEY_END:
				copy(have.last[:], valueOf(a.value))
				ends = true
			case unix.NFTA_SET_ELEM_EXPR:
				c = counterOf(a.value)
			}
		}
		if n != int(b.key.Bytes) {
			return errAnotherKey
		}
		if !ends {
			have.last = have.first
		}
		i, found := slices.BinarySearchFunc(b.elements, have, byFirst)
		if !found || b.elements[i].last != have.last {
			i = -1
		}
		do(i, c)
		return nil
	}
	return dumpElements(t, b.name, func(m netlink.Message) error { return elementsIn(m, one) })
}

// valueOf returns the bytes of a key; nil if there are none.
func valueOf(b []byte) []byte {
	if v := first(b); v.ok && v.kind == unix.NFTA_DATA_VALUE {
		return v.value
	}
	return nil
}

// counterOf reads the expression of an element, if it is a counter.
func counterOf(b []byte) (c Counter) {
	for a := first(b); a.ok; a = first(a.rest) {
		if a.kind != unix.NFTA_EXPR_DATA {
			continue
		}
		for one := first(a.value); one.ok; one = first(one.rest) {
			switch {
			case len(one.value) != 8:
			case one.kind == unix.NFTA_COUNTER_BYTES:
				c.Bytes = binary.BigEndian.Uint64(one.value)
			case one.kind == unix.NFTA_COUNTER_PACKETS:
				c.Packets = binary.BigEndian.Uint64(one.value)
			}
		}
	}
	return c
}

// Answer matches packets that answer the one that opened their connection. A packet of no connection does not
// match.
func Answer() Exprs {
	return Exprs{
		// [ ct load direction => reg 1 ]
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1},
		// [ cmp eq reg 1 0x00000001 ]: IP_CT_DIR_REPLY
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{1}},
	}
}

// InBox matches packets in a set of boxes of a shape. With answer, the packet's source is taken for the
// destination, and the other way around.
func (f Family) InBox(set string, shape Shape, answer bool) (e Exprs) {
	from, to, port := f.saddr, f.daddr, uint32(ports/2)
	if answer {
		from, to, port = to, from, 0
	}
	at := uint32(0)
	register := func(length uint32) uint32 {
		r := unix.NFT_REG32_00 + at/smallRegister
		if at%largeRegister == 0 { // as the kernel lists it (nft_dump_register)
			r = unix.NFT_REG_1 + at/largeRegister
		}
		at += length
		return r
	}
	address := func(offset uint32, bits int) {
		r := register(f.length)
		// [ payload load 4b @ network header + 12 => reg 1 ]
		e = append(e, &expr.Payload{DestRegister: r, Base: expr.PayloadBaseNetworkHeader, Offset: offset,
			Len: f.length})
		if !shape.Ranges && bits < int(f.length)*8 {
			// [ bitwise reg 1 = ( reg 1 & 0x00ffffff ) ^ 0x00000000 ]
			e = append(e, &expr.Bitwise{SourceRegister: r, DestRegister: r, Len: f.length, Mask: f.mask(bits),
				Xor: make([]byte, f.length)})
		}
	}
	if shape.Sources {
		address(from, shape.FromBits)
	}
	address(to, shape.ToBits)
	if shape.Protocol || shape.Ranges {
		// [ meta load l4proto => reg 10 ]
		e = append(e, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register(smallRegister)})
	}
	if shape.Port || shape.Ranges {
		// [ payload load 2b @ transport header + 2 => reg 11 ]
		e = append(e, &expr.Payload{DestRegister: register(smallRegister), Base: expr.PayloadBaseTransportHeader,
			Offset: port, Len: ports / 2})
	}
	// [ lookup reg 1 set from_prefix_0_0 ]
	return append(e, &expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: set})
}

// PortBetween matches packets whose destination port is in a range, both ends included; with answer, whose
// source port is. The rule has to check the protocol.
func PortBetween(first, last uint16, answer bool) Exprs {
	offset := uint32(ports / 2)
	if answer {
		offset = 0
	}
	return Exprs{
		// [ payload load 2b @ transport header + 2 => reg 1 ]
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: ports / 2},
		// [ range eq reg 1 0x00009001 0x0000f401 ]
		&expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: binary.BigEndian.AppendUint16(nil, first),
			ToData: binary.BigEndian.AppendUint16(nil, last)},
	}
}

// mask returns the mask of prefixes of a length.
func (f Family) mask(bits int) []byte {
	mask := make([]byte, f.length)
	setHost(mask, bits)
	for i := range mask {
		mask[i] = ^mask[i]
	}
	return mask
}

// setHost sets the bits behind a prefix of a length.
func setHost(b []byte, bits int) {
	for ; bits < len(b)*8; bits++ {
		b[bits/8] |= 0x80 >> (bits % 8)
	}
}

// RelatedError matches ICMP errors about a packet of a connection.
func (f Family) RelatedError() Exprs {
	protocol := byte(unix.IPPROTO_ICMP)
	if f.v6 {
		protocol = unix.IPPROTO_ICMPV6
	}
	return Join(connection(expr.CtKeySTATE, expr.CtStateBitRELATED), Exprs{
		// [ meta load l4proto => reg 1 ]
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		// [ cmp eq reg 1 0x00000001 ]
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
	})
}
