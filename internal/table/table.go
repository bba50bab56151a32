// Package table answers the two questions of the packet path: which peer
// carries this overlay address, and which peer is this underlay address? It
// holds no packets and no counters, only prefixes and addresses.
package table

import (
	"fmt"
	"net/netip"

	"github.com/gaissmai/bart"
)

// A Peer is what the table needs to know of one node of the mesh.
type Peer struct {
	Name     string
	Underlay netip.Addr     // the address its datagrams come from, unmapped
	Prefixes []netip.Prefix // its pod subnets and routes, masked, IPv4 never as mapped IPv6
}

// None is the index that stands for "no peer".
const None int32 = -1

// A Table is immutable: build a new one for a new set of peers. Any number of
// goroutines may look things up at once, and no lookup allocates.
type Table struct {
	overlay  bart.Fast[int32]
	underlay bart.Fast[int32]
	names    []string
}

// New builds the table of peers; the indexes that lookups return are those of
// the slice, which is not kept. It returns an error if two peers claim the same
// prefix or the same underlay address: a lookup would have two answers.
func New(peers []Peer) (*Table, error) {
	t := &Table{names: make([]string, len(peers))}
	for i, p := range peers {
		t.names[i] = p.Name
		for _, prefix := range p.Prefixes {
			if other, taken := t.overlay.Get(prefix); taken {
				return nil, fmt.Errorf("add prefix %s of %q: %q has it already", prefix, p.Name, peers[other].Name)
			}
			t.overlay.Insert(prefix, int32(i))
		}
		host := netip.PrefixFrom(p.Underlay, p.Underlay.BitLen())
		if other, taken := t.underlay.Get(host); taken {
			return nil, fmt.Errorf("add address %s of %q: %q has it already", p.Underlay, p.Name, peers[other].Name)
		}
		t.underlay.Insert(host, int32(i))
	}
	return t, nil
}

// Lookup returns the peer whose prefix is the longest match for dst, an overlay
// address; None if no prefix contains it. dst must not be IPv4-mapped IPv6.
func (t *Table) Lookup(dst netip.Addr) int32 {
	if peer, ok := t.overlay.Lookup(dst); ok {
		return peer
	}
	return None
}

// LookupPrefix is Lookup that also tells the matching prefix, for people.
func (t *Table) LookupPrefix(dst netip.Addr) (netip.Prefix, int32) {
	prefix, peer, ok := t.overlay.LookupPrefixLPM(netip.PrefixFrom(dst, dst.BitLen()))
	if !ok {
		return netip.Prefix{}, None
	}
	return prefix, peer
}

// Name returns the name of the peer at an index that a lookup returned.
func (t *Table) Name(peer int32) string { return t.names[peer] }

// Sender returns the peer whose underlay address is src; None for a stranger.
// src must not be IPv4-mapped IPv6.
func (t *Table) Sender(src netip.Addr) int32 {
	if peer, ok := t.underlay.Lookup(src); ok {
		return peer
	}
	return None
}
