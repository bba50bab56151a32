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
	interval bool                  // elements are the ends of intervals
	concat   bool                  // the key has several parts
	elements []nftables.SetElement // sorted by key, each once
}

// Prefixes is a set of those prefixes that belong to the family.
func (f Family) Prefixes(name string, ps []netip.Prefix) Set {
	return Set{name: name + f.Suffix(), key: f.key, interval: true, elements: intervals(f.PrefixesOf(ps))}
}

// Addresses is a set of those addresses that belong to the family.
func (f Family) Addresses(name string, ips []netip.Addr) Set {
	s := Set{name: name + f.Suffix(), key: f.key}
	for _, ip := range ips {
		if ip.Is6() == f.v6 {
			s.elements = append(s.elements, nftables.SetElement{Key: ip.AsSlice()})
		}
	}
	return s.sorted()
}

// Endpoints is a set of those endpoints, address and port, that belong to the family.
func (f Family) Endpoints(name string, endpoints []netip.AddrPort) Set {
	key := nftables.MustConcatSetType(f.key, nftables.TypeInetService)
	s := Set{name: name + f.Suffix(), key: key, concat: true}
	for _, e := range endpoints {
		if e.Addr().Is6() == f.v6 {
			key := append(e.Addr().AsSlice(), binaryutil.BigEndian.PutUint16(e.Port())...)
			key = append(key, 0, 0) // each part fills whole registers of 4 bytes
			s.elements = append(s.elements, nftables.SetElement{Key: key})
		}
	}
	return s.sorted()
}

// Interfaces is a set of names of interfaces. The interfaces need not exist.
func Interfaces(name string, names []string) Set {
	s := Set{name: name, key: nftables.TypeIFName}
	for _, n := range names {
		key := make([]byte, unix.IFNAMSIZ)
		copy(key, n)
		s.elements = append(s.elements, nftables.SetElement{Key: key})
	}
	return s.sorted()
}

// SameInterfaces is a set of pairs: each name of an interface with itself.
func SameInterfaces(name string, names []string) Set {
	s := Interfaces(name, names)
	s.key, s.concat = nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIFName), true
	for i, e := range s.elements {
		s.elements[i].Key = append(slices.Clone(e.Key), e.Key...)
	}
	return s
}

// byKey orders elements.
func byKey(a, b nftables.SetElement) int { return bytes.Compare(a.Key, b.Key) }

// sorted returns the set with its elements in order, each once.
func (s Set) sorted() Set {
	slices.SortFunc(s.elements, byKey)
	s.elements = slices.CompactFunc(s.elements, func(a, b nftables.SetElement) bool { return byKey(a, b) == 0 })
	return s
}

// PrefixesOf returns those prefixes that belong to the family, in their order.
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

// in returns the set, in a table, as a value of the library.
func (s Set) in(t *nftables.Table) *nftables.Set {
	set := &nftables.Set{Table: t, Name: s.name, KeyType: s.key, Interval: s.interval, Concatenation: s.concat}
	if s.key == nftables.TypeIFName { // otherwise nft(8) shows the bytes of each name in reverse
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

// An edit turns the kernel's elements of a set into the wanted ones.
type edit struct {
	set         *nftables.Set
	gone, fresh []nftables.SetElement
}

// add adds the edit to a transaction.
func (e edit) add(conn *nftables.Conn) error {
	for chunk := range slices.Chunk(e.gone, maxElements) {
		if err := conn.SetDeleteElements(e.set, chunk); err != nil {
			return fmt.Errorf("set %s: %w", e.set.Name, err)
		}
	}
	for chunk := range slices.Chunk(e.fresh, maxElements) {
		if err := conn.SetAddElements(e.set, chunk); err != nil {
			return fmt.Errorf("set %s: %w", e.set.Name, err)
		}
	}
	return nil
}

// compare returns what makes the kernel's set the wanted one; nil if it is. ok is false if the set has to
// be made anew: it does not exist, or its elements are the ends of intervals, which depend on each other.
func (s Set) compare(conn *nftables.Conn, t *nftables.Table) (e *edit, ok bool, err error) {
	have, err := conn.GetSetElements(s.in(t))
	if errors.Is(err, unix.ENOENT) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	// The kernel's list of an interval set may begin with an end element at the zero address. It
	// ends no interval.
	have = slices.DeleteFunc(have, func(e nftables.SetElement) bool {
		return e.IntervalEnd && !slices.ContainsFunc(e.Key, func(b byte) bool { return b != 0 })
	})
	// The kernel lists elements in the order of a hash. A search for each is faster than sorting them.
	e = &edit{set: s.in(t)}
	found := make([]bool, len(s.elements))
	for _, h := range have {
		i, is := slices.BinarySearchFunc(s.elements, h, byKey)
		if is && !found[i] && h.IntervalEnd == s.elements[i].IntervalEnd {
			found[i] = true
		} else {
			e.gone = append(e.gone, h)
		}
	}
	for i, is := range found {
		if !is {
			e.fresh = append(e.fresh, s.elements[i])
		}
	}
	if len(e.gone)+len(e.fresh) == 0 {
		return nil, true, nil
	}
	return e, !s.interval, nil
}

// intervals returns prefixes as the elements of an interval set. An interval begins with an
// element and ends before an element with the end flag. Prefixes that overlap or touch become
// one interval, since the kernel refuses overlaps.
func intervals(ps []netip.Prefix) []nftables.SetElement {
	sorted := slices.SortedFunc(slices.Values(ps), netip.Prefix.Compare)
	all := make([]nftables.SetElement, 0, 2*len(sorted))
	var end netip.Addr // the first address behind the open interval; invalid: the last address is in it
	open := false
	for _, p := range sorted {
		behind := lastOf(p).Next()
		switch {
		case open && !end.IsValid(): // no prefix can begin behind the interval
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
