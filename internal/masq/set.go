package masq

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
)

// elements returns prefixes as the elements of an interval set: each interval
// begins with an element and ends before one with the end flag. Prefixes that
// overlap or touch become one interval, since the kernel takes no overlaps.
func elements(ps []netip.Prefix) []nftables.SetElement {
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
