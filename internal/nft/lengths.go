package nft

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
)

// A set of intervals is empty for a moment after the transaction that makes it: the kernel switches packets
// over to the new rules first, and publishes what look-ups of intervals read only then (nft_set_commit_update
// in nf_tables_commit; the array of nft_set_rbtree.c, which 6.18.44 has, and the match of nft_set_pipapo.c).
// So a rule that drops what is in no such set drops everything for that moment, each time its table is
// replaced. Elements of a hash are found by the first packet that sees the rules. The sets here are hashes,
// one for each length of prefixes, in which the first bits of an address are looked up.

// ByLength returns sets of those prefixes that belong to the family, one for each length among them.
func (f Family) ByLength(name string, ps []netip.Prefix) (sets []Set) {
	for _, bits := range f.lengths(ps) {
		s := Set{name: f.ofLength(name, bits), key: f.key}
		for _, p := range ps {
			if p.Addr().Is6() == f.v6 && p.Bits() == bits {
				s.elements = append(s.elements, addressElement(p.Masked().Addr()))
			}
		}
		sets = append(sets, s.sorted())
	}
	return sets
}

// DestinationByLength returns what matches packets whose destination address is in the prefixes, of which
// ByLength has made the sets: each way for those of one length. There is none without prefixes of the family.
func (f Family) DestinationByLength(name string, ps []netip.Prefix) (ways []Exprs) {
	for _, bits := range f.lengths(ps) {
		ways = append(ways, f.lookUp(name, bits, false))
	}
	return ways
}

// DestinationNotByLength matches packets whose destination address is in none of the prefixes, of which
// ByLength has made the sets. Without prefixes of the family that are all.
func (f Family) DestinationNotByLength(name string, ps []netip.Prefix) (e Exprs) {
	for _, bits := range f.lengths(ps) {
		e = append(e, f.lookUp(name, bits, true)...)
	}
	return e
}

// lookUp looks up the first bits of the destination address in the set of prefixes of that length.
func (f Family) lookUp(name string, bits int, invert bool) Exprs {
	// [ payload load 4b @ network header + 16 => reg 1 ]
	e := Exprs{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.daddr,
		Len: f.length}}
	if bits < int(f.length)*8 {
		// [ bitwise reg 1 = ( reg 1 & 0x00ffffff ) ^ 0x00000000 ]
		e = append(e, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: f.length, Mask: f.mask(bits),
			Xor: make([]byte, f.length)})
	}
	// [ lookup reg 1 set inner4_24 ], with 0x1 at the end if inverted
	return append(e, &expr.Lookup{SourceRegister: 1, SetName: f.ofLength(name, bits), Invert: invert})
}

// ofLength returns the name of the set of prefixes of a length.
func (f Family) ofLength(name string, bits int) string {
	return fmt.Sprintf("%s%s_%d", name, f.Suffix(), bits)
}

// lengths returns the lengths of those prefixes that belong to the family, each once, the shortest first.
func (f Family) lengths(ps []netip.Prefix) (all []int) {
	for _, p := range f.PrefixesOf(ps) {
		all = append(all, p.Bits())
	}
	slices.Sort(all)
	return slices.Compact(all)
}
