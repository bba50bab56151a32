package config

import (
	"cmp"
	"net/netip"
	"slices"
)

// Usual lengths of a node's pod subnet, where no other node of the file shows one.
const (
	usualBits  = 24 // 254 pods
	usualBits6 = 64
)

// FreeSubnets returns the next subnet that no node has, one of each family of the network: behind
// the last one in use, or else the first gap. Each has the length of the newest node's subnet. A
// family without room is left out.
func (c *Config) FreeSubnets() (free []netip.Prefix) {
	for _, cidr := range c.Network.CIDR {
		var used []netip.Prefix
		bits := max(usualBits, cidr.Bits())
		if cidr.Addr().Is6() {
			bits = max(usualBits6, cidr.Bits())
		}
		for _, n := range c.Nodes {
			for _, p := range n.Subnets {
				if cidr.Contains(p.Addr()) {
					used, bits = append(used, p), p.Bits()
				}
			}
		}
		if p, ok := gap(cidr, used, bits); ok {
			free = append(free, p)
		}
	}
	return free
}

// gap returns a prefix of a length inside cidr that overlaps none of those in use: behind the
// highest of them, or the lowest one.
func gap(cidr netip.Prefix, used []netip.Prefix, bits int) (p netip.Prefix, ok bool) {
	slices.SortFunc(used, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	lowest, next := netip.Prefix{}, netip.PrefixFrom(cidr.Addr(), bits)
	for _, u := range used {
		if !next.Overlaps(u) && next.Addr().Less(u.Addr()) && !lowest.IsValid() {
			lowest = next
		}
		// Prefixes are nested or apart, so the longer one of two that overlap ends first.
		for next.IsValid() && cidr.Contains(next.Addr()) && (next.Overlaps(u) || next.Addr().Less(u.Addr())) {
			if next = after(wider(next, u), bits); !next.IsValid() {
				break
			}
		}
	}
	if next.IsValid() && cidr.Contains(next.Addr()) {
		return next, true
	}
	return lowest, lowest.IsValid()
}

// wider returns u where it covers next or stands behind it, and else next.
func wider(next, u netip.Prefix) netip.Prefix {
	if next.Overlaps(u) && next.Bits() <= u.Bits() {
		return next
	}
	return u
}

// after returns the prefix of a length that begins right behind p; an invalid one at the end of
// the address space.
func after(p netip.Prefix, bits int) netip.Prefix {
	address := p.Addr().As16()
	at := p.Bits() // the bit whose carry leads behind p
	if p.Addr().Is4() {
		at += 96
	}
	for i := at - 1; i >= 0; i-- {
		address[i/8] ^= 0x80 >> (i % 8)
		if address[i/8]&(0x80>>(i%8)) != 0 { // it was 0: no carry
			next := netip.AddrFrom16(address)
			if p.Addr().Is4() {
				next = next.Unmap()
			}
			return netip.PrefixFrom(next, bits).Masked()
		}
	}
	return netip.Prefix{}
}
