package kernel

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"example.org/meshd/internal/mesh"
)

// A prefix that several nodes have, a mesh.Share, leads to the number of the one that carries its packets,
// and carriers tells from whom packets may come. So a packet of all other prefixes costs nothing more:
//
//	prefixes4  192.168.7.0/24 -> 2, shared, length 24
//	carriers   1 192.168.7.0/24 -> 24
//	           2 192.168.7.0/24 -> 24

// shared marks what a prefix leads to (SHARED in bpf/mesh.h); lengthAt is where its length begins there.
const (
	shared   = 1 << 31
	lengthAt = 16
)

// beforeAddress is how many bits of the key of carriers are in front of the address (BEFORE_ADDRESS there).
const beforeAddress = 64

// Carry says which peer carries a shared prefix (mesh.Share) from now on. Until it is said, the first of
// its carriers does, and this node itself where it is one of them. It is as cheap as Learn; a prefix that
// is not shared is remembered.
func (e *Engine) Carry(prefix mesh.Prefix, peer string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.carried[prefix] = peer
	h := e.handle()
	if h == nil || e.inMaps == nil {
		return nil
	}
	index, is := e.inMaps.shares[prefix]
	if !is {
		return nil
	}
	number, known := e.inMaps.carrier(e.inMaps.Mesh.Shares[index], e.tables.numbers, e.carried)
	if !known {
		return nil
	}
	if err := h.carry(&e.tables, prefix, number); err != nil {
		return fmt.Errorf("write who carries %s into the kernel's tables: %w", prefix, err)
	}
	return nil
}

// carry writes who carries a shared prefix, if that has changed, into a map and then into the tables.
func (h *handle) carry(t *tables, prefix mesh.Prefix, number uint32) error {
	value := leadsTo(prefix, number)
	if prefix.Addr().Is4() {
		return replace(h.Prefixes4, t.prefixes4, prefix4Of(prefix), value)
	}
	return replace(h.Prefixes6, t.prefixes6, prefix6Of(prefix), value)
}

// replace writes an element that has changed, into a map and then into what it holds.
func replace[K, V comparable](m *ebpf.Map, held map[K]V, key K, value V) error {
	if held[key] == value {
		return nil
	}
	if err := m.Update(key, value, ebpf.UpdateAny); err != nil {
		return err
	}
	held[key] = value
	return nil
}

// carrier returns the number of the node that carries a share: the one that was said, or else this node,
// or else the first. ok is false if no carrier has a number.
func (c *contents) carrier(s mesh.Share, numbers map[string]uint32, said map[mesh.Prefix]string,
) (number uint32, ok bool) {
	for _, one := range s.Carriers {
		its, known := numbers[one.Peer]
		switch {
		case !known:
			continue
		case one.Peer == said[s.Prefix]:
			return its, true
		case !ok || its == self:
			number, ok = its, true
		}
	}
	return number, ok
}

// addShare enters a share whose packets a node carries.
func (t *tables) addShare(s mesh.Share, number uint32) {
	t.addPrefix(s.Prefix, leadsTo(s.Prefix, number))
	for _, one := range s.Carriers {
		if its, known := t.numbers[one.Peer]; known {
			t.carriers[carrierOf(s.Prefix, its)] = uint32(s.Prefix.Bits())
		}
	}
}

// addPrefix enters what a prefix leads to.
func (t *tables) addPrefix(p mesh.Prefix, value uint32) {
	if p.Addr().Is4() {
		t.prefixes4[prefix4Of(p)] = value
	} else {
		t.prefixes6[prefix6Of(p)] = value
	}
}

// leadsTo returns the value of a shared prefix.
func leadsTo(p mesh.Prefix, number uint32) uint32 {
	return number | uint32(p.Bits())<<lengthAt | shared
}

func prefix4Of(p mesh.Prefix) meshPrefix4 {
	return meshPrefix4{Length: uint32(p.Bits()), Address: p.Masked().Addr().As4()}
}

func prefix6Of(p mesh.Prefix) meshPrefix6 {
	return meshPrefix6{Length: uint32(p.Bits()), Address: p.Masked().Addr().As16()}
}

// carrierOf returns the key in carriers of a shared prefix of a node.
func carrierOf(p mesh.Prefix, number uint32) meshCarrier {
	return meshCarrier{Length: beforeAddress + uint32(p.Bits()), Number: number,
		V6: uint32(boolean(p.Addr().Is6())), Address: bytesOf(p.Masked().Addr())}
}

// carried returns who carries the shared prefixes of maps that an earlier meshd has left.
func (t *tables) carried() map[mesh.Prefix]string {
	names := make(map[uint32]string, len(t.numbers))
	for name, number := range t.numbers {
		names[number] = name
	}
	all := map[mesh.Prefix]string{}
	note := func(address netip.Addr, length, value uint32) {
		if name, known := names[value&(1<<lengthAt-1)]; known && value&shared != 0 {
			all[netip.PrefixFrom(address, int(length))] = name
		}
	}
	for key, value := range t.prefixes4 {
		note(netip.AddrFrom4(key.Address), key.Length, value)
	}
	for key, value := range t.prefixes6 {
		note(netip.AddrFrom16(key.Address), key.Length, value)
	}
	return all
}

// turned returns the prefixes that are shared in one of two contents, and not in the other.
func turned(a, b *contents) map[mesh.Prefix]bool {
	all := map[mesh.Prefix]bool{}
	for _, both := range [][2]*contents{{a, b}, {b, a}} {
		for prefix := range both[0].shares {
			if _, stays := both[1].shares[prefix]; !stays {
				all[prefix] = true
			}
		}
	}
	return all
}

// hasAny tells whether a peer has one of some prefixes.
func hasAny(p mesh.Peer, some map[mesh.Prefix]bool) bool {
	is := func(prefix mesh.Prefix) bool { return some[prefix] }
	return len(some) > 0 && (slices.ContainsFunc(p.Routes, is) || slices.ContainsFunc(p.Subnets, is))
}

// differingShares returns which shares of two contents the other one has not, or not as they are.
func differingShares(old, next *contents) (left, joined []mesh.Share) {
	lacks := func(c *contents, s mesh.Share) bool {
		i, has := c.shares[s.Prefix]
		return !has || !slices.Equal(c.Mesh.Shares[i].Carriers, s.Carriers)
	}
	for _, s := range old.Mesh.Shares {
		if lacks(next, s) {
			left = append(left, s)
		}
	}
	for _, s := range next.Mesh.Shares {
		if lacks(old, s) {
			joined = append(joined, s)
		}
	}
	return left, joined
}
