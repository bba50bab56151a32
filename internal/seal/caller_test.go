package seal

import (
	"net/netip"
	"testing"
	"time"
)

// Where a peer is called, second by second: what the interface has, whether the peer fails, and what follows.
func TestCaller(t *testing.T) {
	a, b := netip.MustParseAddrPort("192.0.2.1:51820"), netip.MustParseAddrPort("192.0.2.2:51820")
	far := netip.MustParseAddrPort("203.0.113.9:40000")
	type second struct {
		at        int // seconds
		endpoints []netip.AddrPort
		is        netip.AddrPort
		fails     bool
		to        netip.AddrPort
		call      bool
	}
	one, two, none := []netip.AddrPort{a}, []netip.AddrPort{a, b}, []netip.AddrPort(nil)
	var nowhere netip.AddrPort
	for name, seconds := range map[string][]second{
		"a new peer":               {{0, one, nowhere, false, a, false}, {1, one, a, false, a, false}},
		"no address":               {{0, none, far, true, nowhere, false}},
		"an earlier run chose":     {{0, two, b, false, b, false}},
		"it has roamed, and works": {{0, one, far, false, a, false}, {60, one, far, false, a, false}},
		"it has roamed, and fails": {{0, one, nowhere, false, a, false}, {10, one, far, true, a, true},
			{11, one, a, true, a, false}},
		"it fails at one address": {{0, one, nowhere, false, a, false}, {60, one, a, true, a, false}},
		"it fails at the first of two": {{0, two, nowhere, true, a, false}, {1, two, a, true, a, false},
			{6, two, a, true, b, true}, {7, two, b, true, b, false}, {12, two, b, true, a, true},
			{20, two, a, false, a, false}},
		"the file has another address": {{0, one, nowhere, false, a, false}, {9, []netip.AddrPort{b}, a, false, b,
			true},
			{10, []netip.AddrPort{b}, b, false, b, false}},
		"the file has lost the address in use": {{0, two, a, false, a, false}, {9, two, b, false, a, false},
			{10, one, b, false, a, true}, {11, one, a, false, a, false}, {12, one, b, false, a, true},
			{70, one, b, false, a, false}},
		"the file has an address now": {{0, none, far, false, nowhere, false}, {9, one, far, false, a, false}},
		"the file has none any more":  {{0, one, nowhere, false, a, false}, {9, none, a, false, nowhere, false}},
	} {
		t.Run(name, func(t *testing.T) {
			var c caller
			for _, s := range seconds {
				to, call := c.decide(s.endpoints, s.is, s.fails, time.Unix(1000+int64(s.at), 0))
				if to != s.to || call != s.call {
					t.Errorf("after %d s: %v, %v, want %v, %v", s.at, to, call, s.to, s.call)
				}
			}
		})
	}
}
