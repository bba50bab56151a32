package config

import (
	"cmp"
	"net/netip"
	"slices"
	"sort"
)

// owners answers which place of the file claims a prefix. Claims are sorted by address and
// then by length, so that each stands behind the shorter ones that contain it. A link from
// each claim to the one around it makes a lookup a short climb: the cost grows neither with
// the pairs of claims nor with the number of prefix lengths in use.
type owners struct {
	claims []claim // in file order until index sorts them
	outer  []int32 // for each claim, the index of the claim that covers it; -1: none does
}

// A claim is one prefix and the path where it stands.
type claim struct {
	prefix netip.Prefix
	path   string
	node   int // its index
	order  int // in the file, from 0: the first of two equal claims is the owner
}

// add notes a claim; index must follow.
func (o *owners) add(p netip.Prefix, path string, node int) {
	o.claims = append(o.claims, claim{p, path, node, len(o.claims)})
}

// index sorts the claims. It must run after the last add and before the first lookup.
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

// climb starts at the claim that sorts right before p and follows the links outwards. It
// returns the first claim, in file order, of the longest prefix that contains p; -1 if
// none does. Everything that contains p sorts before p and covers all that stands between.
func (o *owners) climb(at int32, p netip.Prefix) int32 {
	for at >= 0 && !(o.claims[at].prefix.Bits() <= p.Bits() && o.claims[at].prefix.Contains(p.Addr())) {
		at = o.outer[at]
	}
	if at >= 0 && o.outer[at] >= 0 && o.claims[o.outer[at]].prefix == o.claims[at].prefix {
		at = o.outer[at]
	}
	return at
}

// covering returns the earlier claim of the same prefix as claims[i], or else the claim of
// the longest shorter prefix that contains it. ok is false if there is neither.
func (o *owners) covering(i int) (c claim, ok bool) {
	if o.outer[i] < 0 {
		return claim{}, false
	}
	return o.claims[o.outer[i]], true
}

// holding returns the claim of the longest prefix that contains ip; ok is false if no
// claim does.
func (o *owners) holding(ip netip.Addr) (c claim, ok bool) {
	behind := sort.Search(len(o.claims), func(i int) bool { return o.claims[i].prefix.Addr().Compare(ip) > 0 })
	at := o.climb(int32(behind)-1, netip.PrefixFrom(ip, ip.BitLen()))
	if at < 0 {
		return claim{}, false
	}
	return o.claims[at], true
}
