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

// A Box is what some packets have in common: where they go, their protocol and port, and perhaps where they
// come from.
type Box struct {
	From      netip.Prefix // invalid in a set of boxes without sources
	To        netip.Prefix
	Protocols [2]uint8  // the first and the last
	Ports     [2]uint16 // the first and the last; of protocols without ports they say nothing
	Name      string    // by which packets are counted, at most 250 bytes
}

// Boxes is a named set of boxes, which share no packet. The kernel finds the box of a packet in one look-up,
// whatever their number (nft_set_pipapo.c, Linux 5.6), and counts it there.
type Boxes struct {
	name     string
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

// Boxes is a set of boxes of the family. Where sources is true, all of them have a From.
func (f Family) Boxes(name string, sources bool, all []Box) Boxes {
	b := Boxes{name: name, elements: make([]box, 0, len(all))}
	b.key = nftables.MustConcatSetType(f.key, nftables.TypeInetProto, nftables.TypeInetService)
	if sources {
		b.key = nftables.MustConcatSetType(f.key, f.key, nftables.TypeInetProto, nftables.TypeInetService)
	}
	for _, one := range all {
		e, at := box{name: one.Name}, 0
		prefixes := []netip.Prefix{one.From, one.To}
		if !sources {
			prefixes = prefixes[1:]
		}
		for _, p := range prefixes {
			copy(e.first[at:], p.Addr().AsSlice())
			at += copy(e.last[at:], lastOf(p).AsSlice())
		}
		e.first[at], e.last[at] = one.Protocols[0], one.Protocols[1]
		binary.BigEndian.PutUint16(e.first[at+4:], one.Ports[0])
		binary.BigEndian.PutUint16(e.last[at+4:], one.Ports[1])
		b.elements = append(b.elements, e)
	}
	slices.SortFunc(b.elements, byFirst)
	b.elements = slices.CompactFunc(b.elements, func(a, b box) bool { return byFirst(a, b) == 0 })
	return b
}

// byFirst orders boxes. Boxes that share no packet have different first keys.
func byFirst(a, b box) int { return bytes.Compare(a.first[:], b.first[:]) }

// maxBoxes keeps a message with boxes below the 64 KiB that a netlink attribute can hold: a box of IPv6 has
// up to 400 bytes with its name.
const maxBoxes = 150

// add adds the set with its elements to a transaction.
func (b Boxes) add(conn *nftables.Conn, t *nftables.Table) error {
	set := &nftables.Set{Table: t, Name: b.name, KeyType: b.key, Interval: true, Concatenation: true,
		Counter: true}
	if err := conn.AddSet(set, nil); err != nil {
		return fmt.Errorf("set %s: %w", b.name, err)
	}
	elements := make([]nftables.SetElement, 0, maxBoxes)
	for chunk := range slices.Chunk(b.elements, maxBoxes) {
		elements = elements[:0]
		for i := range chunk {
			e, n := &chunk[i], b.key.Bytes
			elements = append(elements,
				nftables.SetElement{Key: e.first[:n], KeyEnd: e.last[:n], Comment: e.name})
		}
		if err := conn.SetAddElements(set, elements); err != nil {
			return fmt.Errorf("set %s: %w", b.name, err)
		}
	}
	return nil
}

// equal tells whether two sets are the same.
func (b Boxes) equal(o Boxes) bool {
	return b.name == o.name && b.key == o.key && slices.Equal(b.elements, o.elements)
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

// InBox matches packets in a set of boxes; sources tells whether the boxes have sources. With answer, the
// packet's source is taken for the destination, and the other way around.
func (f Family) InBox(set string, sources, answer bool) (e Exprs) {
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
	address := func(offset uint32) {
		// [ payload load 4b @ network header + 12 => reg 1 ]
		e = append(e, &expr.Payload{DestRegister: register(f.length), Base: expr.PayloadBaseNetworkHeader,
			Offset: offset, Len: f.length})
	}
	if sources {
		address(from)
	}
	address(to)
	return append(e,
		// [ meta load l4proto => reg 10 ]
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register(smallRegister)},
		// [ payload load 2b @ transport header + 2 => reg 11 ]
		&expr.Payload{DestRegister: register(smallRegister), Base: expr.PayloadBaseTransportHeader, Offset: port,
			Len: ports / 2},
		// [ lookup reg 1 set from_prefix_0_0 ]
		&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: set})
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
