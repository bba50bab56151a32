package nft

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"golang.org/x/sys/unix"
)

// A Set is a named set of a table, with all of its elements.
type Set struct {
	name     string
	key      nftables.SetDatatype
	interval bool
	concat   bool
	elements []nftables.SetElement // sorted by key
}

// Prefixes is a set of the prefixes of one family.
func (f Family) Prefixes(name string, ps []netip.Prefix) Set {
	return Set{name: name + f.Suffix(), key: f.key, interval: true, elements: intervals(f.PrefixesOf(ps))}
}

// Addresses is a set of the addresses of one family.
func (f Family) Addresses(name string, ips []netip.Addr) Set {
	s := Set{name: name + f.Suffix(), key: f.key}
	for _, ip := range ips {
		if ip.Is6() == f.v6 {
			s.elements = append(s.elements, nftables.SetElement{Key: ip.AsSlice()})
		}
	}
	return s.sorted()
}

// Endpoints is a set of the addresses of one family, each with a port.
func (f Family) Endpoints(name string, endpoints []netip.AddrPort) Set {
	s := Set{name: name + f.Suffix(), key: nftables.MustConcatSetType(f.key, nftables.TypeInetService), concat: true}
	for _, e := range endpoints {
		if e.Addr().Is6() == f.v6 {
			key := append(e.Addr().AsSlice(), binaryutil.BigEndian.PutUint16(e.Port())...)
			s.elements = append(s.elements, nftables.SetElement{Key: append(key, 0, 0)}) // whole registers
		}
	}
	return s.sorted()
}

// Interfaces is a set of names of interfaces, which need not exist.
func Interfaces(name string, names []string) Set {
	s := Set{name: name, key: nftables.TypeIFName}
	for _, n := range names {
		key := make([]byte, unix.IFNAMSIZ)
		copy(key, n)
		s.elements = append(s.elements, nftables.SetElement{Key: key})
	}
	return s.sorted()
}

// SameInterfaces is a set of pairs of names of interfaces, each with itself.
func SameInterfaces(name string, names []string) Set {
	s := Interfaces(name, names)
	s.key, s.concat = nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIFName), true
	for i, e := range s.elements {
		s.elements[i].Key = append(slices.Clone(e.Key), e.Key...)
	}
	return s
}

func byKey(a, b nftables.SetElement) int { return bytes.Compare(a.Key, b.Key) }

func (s Set) sorted() Set {
	slices.SortStableFunc(s.elements, byKey)
	s.elements = slices.CompactFunc(s.elements, func(a, b nftables.SetElement) bool { return byKey(a, b) == 0 })
	return s
}

// PrefixesOf returns the prefixes of one family.
func (f Family) PrefixesOf(ps []netip.Prefix) (own []netip.Prefix) {
	for _, p := range ps {
		if p.Addr().Is6() == f.v6 {
			own = append(own, p)
		}
	}
	return own
}

// maxElements keeps a message with set elements below the 64 KiB that a netlink attribute can hold.
const maxElements = 500

// in returns the set in the library's words.
func (s Set) in(t *nftables.Table) *nftables.Set {
	set := &nftables.Set{Table: t, Name: s.name, KeyType: s.key, Interval: s.interval, Concatenation: s.concat}
	if s.key == nftables.TypeIFName { // or nft(8) shows each name from its end
		set.KeyByteOrder = binaryutil.NativeEndian
	}
	return set
}

// add adds the set with its elements to a transaction.
func (s Set) add(conn *nftables.Conn, t *nftables.Table) error {
	set := s.in(t)
	if err := conn.AddSet(set, nil); err != nil {
		return fmt.Errorf("set %s: %w", s.name, err)
	}
	for chunk := range slices.Chunk(s.elements, maxElements) {
		if err := conn.SetAddElements(set, chunk); err != nil {
			return fmt.Errorf("set %s: %w", s.name, err)
		}
	}
	return nil
}

// same tells whether the kernel's set has the wanted elements and no others.
func (s Set) same(conn *nftables.Conn, t *nftables.Table) (bool, error) {
	have, err := conn.GetSetElements(s.in(t))
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	// The kernel's list may begin with an end element at the zero address, which means nothing.
	have = slices.DeleteFunc(have, func(e nftables.SetElement) bool {
		return e.IntervalEnd && !slices.ContainsFunc(e.Key, func(b byte) bool { return b != 0 })
	})
	slices.SortStableFunc(have, byKey)
	return slices.EqualFunc(have, s.elements, func(a, b nftables.SetElement) bool {
		return bytes.Equal(a.Key, b.Key) && a.IntervalEnd == b.IntervalEnd
	}), nil
}

// intervals returns prefixes as the elements of an interval set: each interval begins with an
// element and ends before one with the end flag. Prefixes that overlap or touch become one interval,
// since the kernel takes no overlaps.
func intervals(ps []netip.Prefix) []nftables.SetElement {
	sorted := slices.SortedFunc(slices.Values(ps), netip.Prefix.Compare)
	all := make([]nftables.SetElement, 0, 2*len(sorted))
	var end netip.Addr // first address behind the open interval; invalid: none is open, or it has no end
	open := false
	for _, p := range sorted {
		behind := lastOf(p).Next()
		switch {
		case open && !end.IsValid(): // reaches to the last address there is
		case open && p.Addr().Compare(end) <= 0:
			if !behind.IsValid() || behind.Compare(end) > 0 {
				end = behind
			}
		default:
			if open {
				all = append(all, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
			}
			all = append(all, nftables.SetElement{Key: p.Addr().AsSlice()})
			end, open = behind, true
		}
	}
	if open && end.IsValid() {
		all = append(all, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
	}
	return all
}

// lastOf returns the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}
