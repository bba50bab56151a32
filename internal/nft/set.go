package nft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"golang.org/x/sys/unix"
)

// A Set is a named set of a table, with all of its elements.
type Set struct {
	name     string
	key      nftables.SetDatatype
	interval bool      // elements are the ends of intervals
	concat   bool      // the key has several parts
	elements []element // sorted by key, each once
}

// An element of a set. Meshes have thousands of them, which are sorted and compared at each change, so it
// has a fixed size and no pointer, and becomes a value of the library only where it is written.
type element struct {
	key [longestKey]byte // of which the set's type says how many bytes count; the others are zero
	end bool             // an interval ends before the key
}

// longestKey is the length of two names of interfaces, in bytes. An endpoint of IPv6 has 20.
const longestKey = 2 * unix.IFNAMSIZ

// elementOf returns the element of a key whose parts are given.
func elementOf(parts ...[]byte) (e element) {
	n := 0
	for _, part := range parts {
		n += copy(e.key[n:], part)
	}
	return e
}

// setElements returns elements as values of the library.
func (s Set) setElements(elements []element) []nftables.SetElement {
	all := make([]nftables.SetElement, len(elements))
	for i, e := range elements {
		all[i] = nftables.SetElement{Key: e.key[:s.key.Bytes], IntervalEnd: e.end}
	}
	return all
}

// Prefixes is a set of those prefixes that belong to the family.
func (f Family) Prefixes(name string, ps []netip.Prefix) Set {
	return Set{name: name + f.Suffix(), key: f.key, interval: true, elements: intervals(f.PrefixesOf(ps))}
}

// Addresses is a set of those addresses that belong to the family.
func (f Family) Addresses(name string, ips []netip.Addr) Set {
	own := func(ip netip.Addr) bool { return ip.Is6() == f.v6 }
	return Set{name: name + f.Suffix(), key: f.key, elements: elementsOf(ips, own, addressElement)}.sorted()
}

// Endpoints is a set of those endpoints, address and port, that belong to the family.
func (f Family) Endpoints(name string, endpoints []netip.AddrPort) Set {
	own := func(e netip.AddrPort) bool { return e.Addr().Is6() == f.v6 }
	return Set{
		name: name + f.Suffix(), key: nftables.MustConcatSetType(f.key, nftables.TypeInetService), concat: true,
		elements: elementsOf(endpoints, own, func(at netip.AddrPort) element {
			e := addressElement(at.Addr()) // each part fills whole registers of 4 bytes
			binary.BigEndian.PutUint16(e.key[f.length:], at.Port())
			return e
		}),
	}.sorted()
}

// elementsOf returns an element of each value that is the set's own.
func elementsOf[T any](values []T, own func(T) bool, of func(T) element) (all []element) {
	for i, v := range values {
		if !own(v) {
			continue
		}
		if all == nil { // a mesh has one family, as a rule
			all = make([]element, 0, len(values)-i)
		}
		all = append(all, of(v))
	}
	return all
}

// addressElement returns the element of an address.
func addressElement(ip netip.Addr) element {
	if ip.Is4() {
		b := ip.As4()
		return elementOf(b[:])
	}
	b := ip.As16()
	return elementOf(b[:])
}

// Interfaces is a set of names of interfaces. The interfaces need not exist.
func Interfaces(name string, names []string) Set {
	s := Set{name: name, key: nftables.TypeIFName}
	for _, n := range names {
		s.elements = append(s.elements, elementOf([]byte(n)))
	}
	return s.sorted()
}

// SameInterfaces is a set of pairs: each name of an interface with itself.
func SameInterfaces(name string, names []string) Set {
	s := Interfaces(name, names)
	s.key, s.concat = nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIFName), true
	for i, e := range s.elements {
		name := e.key[:unix.IFNAMSIZ]
		s.elements[i] = elementOf(name, name)
	}
	return s
}

// byKey orders elements.
func byKey(a, b element) int { return bytes.Compare(a.key[:], b.key[:]) }

// sorted returns the set with its elements in order, each once.
func (s Set) sorted() Set {
	slices.SortFunc(s.elements, byKey)
	s.elements = slices.Compact(s.elements)
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

// numbering is held while the library gives a set its number in a transaction: it counts for all connections
// together, and several goroutines write tables.
var numbering sync.Mutex

// addSet adds a set without elements to a transaction.
func addSet(conn *nftables.Conn, set *nftables.Set) error {
	numbering.Lock()
	defer numbering.Unlock()
	return conn.AddSet(set, nil)
}

// add adds the set with its elements to a transaction.
func (s Set) add(conn *nftables.Conn, t *nftables.Table) error {
	set := s.in(t)
	if err := addSet(conn, set); err != nil {
		return fmt.Errorf("set %s: %w", s.name, err)
	}
	for chunk := range slices.Chunk(s.elements, maxElements) {
		if err := conn.SetAddElements(set, s.setElements(chunk)); err != nil {
			return fmt.Errorf("set %s: %w", s.name, err)
		}
	}
	return nil
}

// An edit turns the kernel's elements of a set into the wanted ones.
type edit struct {
	of          Set
	in          ID // the table
	gone, fresh []element
}

// add adds the edit to a transaction.
func (e edit) add(conn *nftables.Conn) error {
	set := e.of.in(e.in.table())
	for chunk := range slices.Chunk(e.gone, maxElements) {
		if err := conn.SetDeleteElements(set, e.of.setElements(chunk)); err != nil {
			return fmt.Errorf("set %s: %w", set.Name, err)
		}
	}
	for chunk := range slices.Chunk(e.fresh, maxElements) {
		if err := conn.SetAddElements(set, e.of.setElements(chunk)); err != nil {
			return fmt.Errorf("set %s: %w", set.Name, err)
		}
	}
	return nil
}

// compare returns what makes the kernel's set the wanted one; nil if it is. ok is false if the set has to
// be made anew: it does not exist, or its elements are the ends of intervals, which depend on each other.
func (s Set) compare(t ID) (e *edit, ok bool, err error) {
	have, err := readElements(t, s.name, int(s.key.Bytes))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, errAnotherKey) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	// The kernel's list of an interval set may begin with an end element at the zero address. It
	// ends no interval.
	have = slices.DeleteFunc(have, func(e element) bool { return e == element{end: true} })
	// The kernel lists elements in the order of a hash. A search for each is faster than sorting them.
	e = &edit{of: s, in: t}
	found := make([]bool, len(s.elements))
	for _, h := range have {
		i, is := slices.BinarySearchFunc(s.elements, h, byKey)
		if is && !found[i] && h.end == s.elements[i].end {
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
func intervals(ps []netip.Prefix) []element {
	sorted := slices.SortedFunc(slices.Values(ps), netip.Prefix.Compare)
	all := make([]element, 0, 2*len(sorted))
	ends := func(at netip.Addr) {
		e := addressElement(at)
		e.end = true
		all = append(all, e)
	}
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
				ends(end)
			}
			all = append(all, addressElement(p.Addr()))
			end, open = behind, true
		}
	}
	if open && end.IsValid() {
		ends(end)
	}
	return all
}

// lastOf returns the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	setHost(b, p.Bits())
	last, _ := netip.AddrFromSlice(b)
	return last
}
