package nft

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// intervals against what they say: an address is inside if and only if one of the
// prefixes has it.
func TestIntervalsAgainstOracle(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	ip := func(n uint32) netip.Addr { return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n))) }
	for range 500 {
		var ps []netip.Prefix
		for range r.IntN(6) {
			base := r.Uint32() & 0x3ff
			if r.IntN(3) == 0 {
				base |= 0xfffffc00
			}
			p, _ := ip(base).Prefix(20 + r.IntN(13))
			ps = append(ps, p)
		}
		all := intervals(ps)
		for range 200 {
			a := ip(r.Uint32()&0x7ff | uint32(r.IntN(2))*0xfffff800)
			want := slices.ContainsFunc(ps, func(p netip.Prefix) bool { return p.Contains(a) })
			inside := false
			for i, e := range all {
				start, _ := netip.AddrFromSlice(e.Key)
				if i > 0 && start.Compare(mustAddr(all[i-1].Key)) <= 0 {
					t.Fatalf("out of order: %v from %v", all, ps)
				}
				if start.Compare(a) <= 0 {
					inside = !e.IntervalEnd
				}
			}
			if inside != want {
				t.Fatalf("%s inside %v: %v, want %v", a, ps, inside, want)
			}
		}
	}
}

func mustAddr(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}
