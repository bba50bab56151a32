// Package table answers the two questions of the packet path: which peer has this overlay address
// behind it, and which peer has this underlay address? It holds prefixes and addresses, but no
// packets and no counters.
//
// A lookup is a walk over at most 4 (IPv4) or 16 (IPv6) nodes of a multibit trie (gaissmai/bart).
package table

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/gaissmai/bart"
)

// A Peer is what the table needs to know of one node of the mesh.
type Peer struct {
	Name     string
	Underlay netip.Addr     // the source of its datagrams; IPv4 never mapped
	Prefixes []netip.Prefix // its pod subnets and routes, masked; IPv4 never mapped
}

// None is the index that stands for "no peer".
const None int32 = -1

// A Table is immutable: a changed set of peers needs a new one. Any number of goroutines may use it at
// once, and no lookup allocates.
type Table struct {
	overlay  bart.Fast[int32]
	underlay bart.Fast[int32]
	names    []string
}

// ErrTaken says that two peers claim the same prefix or the same underlay address: a lookup would have
// two results. Test with errors.Is.
var ErrTaken = errors.New("another peer has it already")

// New builds the table of peers. Lookups return indexes of that slice, which New does not keep. The
// error wraps ErrTaken and names both peers.
func New(peers []Peer) (*Table, error) {
	t := &Table{names: make([]string, len(peers))}
	for i, p := range peers {
		t.names[i] = p.Name
		for _, prefix := range p.Prefixes {
			if other, taken := t.overlay.Get(prefix); taken {
				return nil, fmt.Errorf("add prefix %s of %q: %w: %q", prefix, p.Name, ErrTaken, peers[other].Name)
			}
			t.overlay.Insert(prefix, int32(i))
		}
		host := netip.PrefixFrom(p.Underlay, p.Underlay.BitLen())
		if other, taken := t.underlay.Get(host); taken {
			return nil, fmt.Errorf("add address %s of %q: %w: %q", p.Underlay, p.Name, ErrTaken, peers[other].Name)
		}
		t.underlay.Insert(host, int32(i))
	}
	return t, nil
}

// Lookup returns the peer with the longest prefix that contains dst, an overlay address; None if no
// prefix does. dst must not be IPv4-mapped IPv6.
func (t *Table) Lookup(dst netip.Addr) int32 {
	if peer, ok := t.overlay.Lookup(dst); ok {
		return peer
	}
	return None
}

// LookupPrefix is Lookup that also returns the matching prefix. It is slower, and made for people's
// questions.
func (t *Table) LookupPrefix(dst netip.Addr) (netip.Prefix, int32) {
	prefix, peer, ok := t.overlay.LookupPrefixLPM(netip.PrefixFrom(dst, dst.BitLen()))
	if !ok {
		return netip.Prefix{}, None
	}
	return prefix, peer
}

// Name returns the name of the peer at an index that a lookup returned.
func (t *Table) Name(peer int32) string { return t.names[peer] }

// Sender returns the peer with the underlay address src; None if no peer has it. src must not be
// IPv4-mapped IPv6.
func (t *Table) Sender(src netip.Addr) int32 {
	if peer, ok := t.underlay.Lookup(src); ok {
		return peer
	}
	return None
}
