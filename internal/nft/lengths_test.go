package nft

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/nftables/expr"
)

// An address is in one of the sets, looked up as the rules say, if and only if a prefix contains it.
func TestByLengthAgainstOracle(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for _, f := range Families {
		f = f.InBoth()
		address := func() netip.Addr {
			b := make([]byte, f.length)
			b[0], b[1], b[f.length-1] = 10, byte(r.IntN(4)), byte(r.IntN(4))
			ip, _ := netip.AddrFromSlice(b)
			return ip
		}
		for range 200 {
			var ps []netip.Prefix
			for range r.IntN(6) {
				ps = append(ps, netip.PrefixFrom(address(), r.IntN(int(f.length)*8+1)))
			}
			// What belongs to the other family does not matter.
			other := map[bool]string{true: "0.0.0.0/0", false: "::/0"}[f.v6]
			all := append(slices.Clone(ps), netip.MustParsePrefix(other))
			sets, outside := f.ByLength("x", all), f.DestinationNotByLength("x", all)
			for range 50 {
				ip := address()
				want := slices.ContainsFunc(ps, func(p netip.Prefix) bool { return p.Contains(ip) })
				if got := found(t, outside, ip, sets); got != want {
					t.Fatalf("%v in %v: %v, want %v", ip, ps, got, want)
				}
			}
		}
	}
}

// found evaluates look-ups of an address, each of which goes on if it is not in a set.
func found(t *testing.T, all Exprs, ip netip.Addr, sets []Set) bool {
	t.Helper()
	var b []byte
	for _, e := range all {
		switch e := e.(type) {
		case *expr.Payload:
			b = ip.AsSlice()
		case *expr.Bitwise:
			for i := range b {
				b[i] &= e.Mask[i]
			}
		case *expr.Lookup:
			i := slices.IndexFunc(sets, func(s Set) bool { return s.name == e.SetName })
			if i < 0 || sets[i].interval || !e.Invert {
				t.Fatalf("%+v in %+v", e, sets)
			}
			if _, is := slices.BinarySearchFunc(sets[i].elements, elementOf(b), byKey); is {
				return true
			}
		default:
			t.Fatalf("%T", e)
		}
	}
	return false
}
