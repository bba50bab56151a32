package config

import (
	"cmp"
	"net/netip"
	"slices"
	"sort"
)

// owners tells which places of the file claim a prefix. Claims are sorted, so that each
// stands right behind the shorter ones that contain it: the cost does not grow with
// pairs, nor with the number of prefix lengths in use.
type owners struct {
	claims []claim // in file order, and sorted after index
	outer  []int32 // of each claim: the one that covers it; -1: none
}

// A claim is one prefix and the path where it stands.
type claim struct {
	prefix netip.Prefix
	path   string
	order  int // in the file
}

func (o *owners) add(p netip.Prefix, path string) {
	o.claims = append(o.claims, claim{p, path, len(o.claims)})
}

// index has to be called after the last add and before anything is asked.
func (o *owners) index() {
	slices.SortFunc(o.claims, func(a, b claim) int {
		return cmp.Or(a.prefix.Addr().Compare(b.prefix.Addr()),
			cmp.Compare(a.prefix.Bits(), b.prefix.Bits()), cmp.Compare(a.order, b.order))
	})
	o.outer = make([]int32, len(o.claims))
	for i, c := range o.claims {
		o.outer[i] = o.climb(int32(i)-1, c.prefix)
	}
}

// climb returns the first claim of the longest prefix that contains p, among a claim that
// sorts before p and those that cover it; -1: none does.
func (o *owners) climb(at int32, p netip.Prefix) int32 {
	for at >= 0 && !(o.claims[at].prefix.Bits() <= p.Bits() && o.claims[at].prefix.Contains(p.Addr())) {
		at = o.outer[at]
	}
	if at >= 0 && o.outer[at] >= 0 && o.claims[o.outer[at]].prefix == o.claims[at].prefix {
		at = o.outer[at]
	}
	return at
}

// covering returns the earlier claim of the prefix of claims[i], or else the claim of the
// longest shorter one that contains it.
func (o *owners) covering(i int) (c claim, ok bool) {
	if o.outer[i] < 0 {
		return claim{}, false
	}
	return o.claims[o.outer[i]], true
}

// holding returns the claim of the longest prefix that contains ip.
func (o *owners) holding(ip netip.Addr) (c claim, ok bool) {
	behind := sort.Search(len(o.claims), func(i int) bool { return o.claims[i].prefix.Addr().Compare(ip) > 0 })
	at := o.climb(int32(behind)-1, netip.PrefixFrom(ip, ip.BitLen()))
	if at < 0 {
		return claim{}, false
	}
	return o.claims[at], true
}
