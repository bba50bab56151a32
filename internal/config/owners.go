package config

import "net/netip"

// owners tells which places of the file claim a prefix. A lookup costs one map
// access for each prefix length in use, so that 10,000 nodes are checked in
// milliseconds.
type owners struct {
	claims []claim                         // in file order
	first  map[int]map[netip.Prefix]string // by length, and by prefix: the path of its first claim
}

// A claim is one prefix and the path where it stands.
type claim struct {
	prefix netip.Prefix
	path   string
}

// newOwners returns owners with room for some claims.
func newOwners(room int) *owners {
	return &owners{claims: make([]claim, 0, room), first: map[int]map[netip.Prefix]string{}}
}

func (o *owners) add(p netip.Prefix, path string) {
	o.claims = append(o.claims, claim{p, path})
	first := o.first[p.Bits()]
	if first == nil {
		room := 0
		if len(o.first) == 0 { // most files have one length
			room = cap(o.claims)
		}
		first = make(map[netip.Prefix]string, room)
		o.first[p.Bits()] = first
	}
	if _, taken := first[p]; !taken {
		first[p] = path
	}
}

// covering returns an earlier claim of the same prefix, or else the claim of the
// longest shorter one that contains it.
func (o *owners) covering(c claim) (best claim, ok bool) {
	for bits, first := range o.first {
		if bits > c.prefix.Bits() {
			continue
		}
		shorter, err := c.prefix.Addr().Prefix(bits)
		if err != nil {
			continue // an IPv6 length, an IPv4 address
		}
		if path, claimed := first[shorter]; claimed && path != c.path {
			if !ok || bits > best.prefix.Bits() {
				best, ok = claim{prefix: shorter, path: path}, true
			}
		}
	}
	return best, ok
}
