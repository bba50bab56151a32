// Package table answers the questions of the packet path: which peer carries packets to this overlay
// address, has a peer this overlay address behind it, and which peer has this underlay address? It
// holds prefixes and addresses, but no packets and no counters.
//
//	share    a prefix behind several peers
//	carrier  the one of them to which its packets go at present
//
// A lookup is a walk over at most 4 (IPv4) or 16 (IPv6) nodes of a multibit trie (gaissmai/bart).
package table

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/gaissmai/bart"
)

// A Peer is what the table needs to know of one node of the mesh.
type Peer struct {
	Name      string
	Addresses []netip.Addr   // the sources of its datagrams; IPv4 never mapped
	Prefixes  []netip.Prefix // its pod subnets and routes, masked; IPv4 never mapped
}

// A Share is a prefix behind several peers, which all have it among their Prefixes.
type Share struct {
	Prefix netip.Prefix
	Peers  []int32 // indexes of New's peers, at least one; the first carries its packets until Carry
}

// None is the index that stands for "no peer".
const None int32 = -1

// A Table is immutable but for the carriers of shares: a changed set of peers needs a new one. Any
// number of goroutines may use it at once, and no lookup allocates.
type Table struct {
	overlay  *bart.Fast[int32] // an index of names, or of shares, as sharedBy says
	underlay *bart.Fast[int32]
	names    []string
	shares   []share
}

// share is a Share that lookups read.
type share struct {
	peers   []int32 // sorted: a prefix may be behind thousands of nodes
	carrier atomic.Int32
}

// sharedBy returns what the overlay holds for the share at an index, and the other way round. An index
// of a peer is never negative, and None stays free, so a share is -2 or less.
func sharedBy(index int32) int32 { return -2 - index }

// ErrTaken says that two peers claim the same prefix or the same underlay address: a lookup would have
// two results. Test with errors.Is.
var ErrTaken = errors.New("another peer has it already")

// New builds the table of peers. Lookups return indexes of that slice, which New does not keep. The
// error wraps ErrTaken and names the prefix or the address, and both peers: a prefix of several has to
// be a share of all of them.
func New(peers []Peer, shares []Share) (*Table, error) {
	t := &Table{overlay: &bart.Fast[int32]{}, underlay: &bart.Fast[int32]{}, names: make([]string, len(peers)),
		shares: make([]share, len(shares))}
	for i, s := range shares {
		one := &t.shares[i]
		one.peers = slices.Sorted(slices.Values(s.Peers))
		one.carrier.Store(s.Peers[0])
		t.overlay.Insert(s.Prefix, sharedBy(int32(i)))
	}
	for i := range peers {
		t.names[i] = peers[i].Name
		err := t.add(int32(i), peers, t.overlay.Insert, t.underlay.Insert)
		if err != nil {
			return nil, err
		}
	}
	return t, nil
}

// add enters one of peers, by ways to insert something into the overlay and the underlay.
func (t *Table) add(peer int32, peers []Peer, overlay, underlay func(netip.Prefix, int32)) error {
	p := &peers[peer]
	for _, prefix := range p.Prefixes {
		other, taken := t.overlay.Get(prefix)
		if taken && t.has(peer, other) {
			continue
		}
		if taken {
			return fmt.Errorf("add prefix %s of %q: %w: %q", prefix, p.Name, ErrTaken, peers[t.Carrier(other)].Name)
		}
		overlay(prefix, peer)
	}
	for _, address := range p.Addresses {
		host := hostOf(address)
		if other, taken := t.underlay.Get(host); taken && other != peer {
			return fmt.Errorf("add address %s of %q: %w: %q", address, p.Name, ErrTaken, peers[other].Name)
		}
		underlay(host, peer)
	}
	return nil
}

// hostOf returns the prefix of one address.
func hostOf(address netip.Addr) netip.Prefix { return netip.PrefixFrom(address, address.BitLen()) }

// After is New for peers of which most are as they were when before was made from was. It takes a time that
// grows with what differs, and both tables are as if made anew: they share nothing that ever changes but the
// carriers of shares. It is New where that saves nothing, or where a shared prefix is concerned.
func After(before *Table, was, peers []Peer, shares []Share) (*Table, error) {
	if before == nil || len(was) != len(peers) || len(shares) > 0 || len(before.shares) > 0 {
		return New(peers, shares)
	}
	t := &Table{overlay: before.overlay, underlay: before.underlay, names: make([]string, len(peers))}
	var differ []int
	for i := range peers {
		t.names[i] = peers[i].Name
		if !was[i].same(peers[i]) {
			differ = append(differ, i)
		}
	}
	if len(differ) > len(peers)/mostEdited {
		return New(peers, shares)
	}
	for _, i := range differ { // all of them first: prefixes and addresses may change places
		for _, prefix := range was[i].Prefixes {
			t.overlay = t.overlay.DeletePersist(prefix)
		}
		for _, address := range was[i].Addresses {
			t.underlay = t.underlay.DeletePersist(hostOf(address))
		}
	}
	overlay := func(p netip.Prefix, peer int32) { t.overlay = t.overlay.InsertPersist(p, peer) }
	underlay := func(p netip.Prefix, peer int32) { t.underlay = t.underlay.InsertPersist(p, peer) }
	for _, i := range differ {
		if err := t.add(int32(i), peers, overlay, underlay); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// mostEdited is which part of the peers may differ where a table is made from another one. A prefix that is
// inserted into a copy costs about ten times what it costs in a new table.
const mostEdited = 16

// same tells whether a table has the same entries for two peers.
func (p Peer) same(o Peer) bool {
	return slices.Equal(p.Addresses, o.Addresses) && slices.Equal(p.Prefixes, o.Prefixes)
}

// has tells whether an entry of the overlay is a peer's.
func (t *Table) has(peer, entry int32) bool {
	if entry >= 0 {
		return entry == peer
	}
	_, found := slices.BinarySearch(t.shares[sharedBy(entry)].peers, peer)
	return found
}

// Carry makes a peer the carrier of a shared prefix; the next lookups see it. It changes nothing and
// returns false if the prefix is not shared, or not with that peer.
func (t *Table) Carry(prefix netip.Prefix, peer int32) bool {
	entry, ok := t.overlay.Get(prefix)
	if !ok || entry >= 0 || !t.has(peer, entry) {
		return false
	}
	t.shares[sharedBy(entry)].carrier.Store(peer)
	return true
}

// Owns tells whether an overlay address is behind a peer: whether the longest prefix that contains it is
// the peer's, alone or with others, whoever carries it. src must not be IPv4-mapped IPv6.
func (t *Table) Owns(src netip.Addr, peer int32) bool {
	entry, ok := t.overlay.Lookup(src)
	return ok && t.has(peer, entry)
}

// Find is the first half of Lookup: what it returns is a peer's index, or negative and for Carrier. The
// compiler puts it into its caller's code, which whoever looks up each packet notices.
func (t *Table) Find(dst netip.Addr) int32 {
	if entry, ok := t.overlay.Lookup(dst); ok {
		return entry
	}
	return None
}

// Carrier is the second half of Lookup: it returns the peer's index for what Find returned.
func (t *Table) Carrier(found int32) int32 {
	if found >= None {
		return found
	}
	return t.shares[sharedBy(found)].carrier.Load()
}

// Lookup returns the peer with the longest prefix that contains dst, an overlay address, and of a shared
// one its carrier; None if no prefix does. dst must not be IPv4-mapped IPv6.
func (t *Table) Lookup(dst netip.Addr) int32 { return t.Carrier(t.Find(dst)) }

// LookupPrefix is Lookup that also returns the matching prefix. It is slower, and made for people's
// questions.
func (t *Table) LookupPrefix(dst netip.Addr) (netip.Prefix, int32) {
	prefix, entry, ok := t.overlay.LookupPrefixLPM(netip.PrefixFrom(dst, dst.BitLen()))
	if !ok {
		return netip.Prefix{}, None
	}
	return prefix, t.Carrier(entry)
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
