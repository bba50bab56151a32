package filter

import (
	"net/netip"
	"testing"

	"example.org/meshd/internal/nstest"
)

// Of a published port the pod's address and port count, in both directions; a packet that connection tracking
// does not know is judged by its header.
func TestAllowOfPublishedPorts(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		w, a, s := newWire(t, n), NewAllow(), someRules()
		s.Rules, s.Closed = []AllowRule{{Name: "web", Outside: true, To: prefixes("10.244.1.0/24"),
			Services: []Service{tcp(443, 443)}}}, prefixes("10.244.1.0/24")
		if _, err := a.Set(s); err != nil {
			t.Fatal(err)
		}
		run(t, n, "nft", "add table ip publish { chain p { type nat hook prerouting priority dstnat; "+
			"ip daddr 192.0.2.80 tcp dport 80 dnat to 10.244.1.5:443; "+
			"ip daddr 192.0.2.80 tcp dport 81 dnat to 10.244.1.5:444; }; "+
			"chain raw { type filter hook prerouting priority raw; tcp sport 7777 notrack; }; }")
		outside := netip.MustParseAddr("198.51.100.7")
		seen := func(j judged) judged { // as it leaves to the pod
			j.to, j.port = netip.MustParseAddr("10.244.1.5"), map[uint16]uint16{80: 443, 81: 444}[j.port]
			return j
		}
		for i, test := range []struct {
			port uint16
			pass uint64
		}{{80, 1}, {81, 0}} {
			p := judged{outside, netip.MustParseAddr("192.0.2.80"), 6, test.port, uint16(3000 + i)}
			before, dropped, err := a.Counters()
			if err != nil {
				t.Fatal(err)
			}
			w.through([]judged{p}, false)
			if test.pass == 1 {
				w.through([]judged{seen(p)}, true)
			}
			after, drops, err := a.Counters()
			if err != nil || after["web"].Packets-before["web"].Packets != 2*test.pass ||
				drops-dropped != 1-test.pass {
				t.Errorf("port %d: passed %v, then %v, dropped %d, then %d, %v", test.port, before, after, dropped,
					drops, err)
			}
		}
		bare := []judged{{outside, netip.MustParseAddr("10.244.1.5"), 6, 443, 7777},
			{outside, netip.MustParseAddr("10.244.1.5"), 6, 444, 7777}}
		if passed := w.through(bare, false); !passed[0] || passed[1] {
			t.Errorf("without a connection: %v", passed)
		}
	})
}
