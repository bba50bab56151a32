package nft

import (
	"net/netip"
	"strings"
	"testing"

	"example.org/meshd/internal/nstest"
)

// Where elements alone differ, rules stay, with their counters; a set of intervals is made anew.
func TestElementsAreAmended(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		with := func(prefix string, hosts ...string) []Table {
			f := IPv4.InBoth()
			var ips []netip.Addr
			for _, h := range hosts {
				ips = append(ips, netip.MustParseAddr(h))
			}
			made := table(two, "a")
			made.Sets = []Set{f.Prefixes("net", prefixes(prefix)), f.Addresses("hosts", ips)}
			return []Table{made}
		}
		k := NewKeeper(two)
		const net = "127.0.0.0/8"
		if _, err := k.Set(with(net, "10.0.0.1", "10.0.0.2")); err != nil {
			t.Fatal(err)
		}
		for _, test := range []struct {
			name          string
			damage        string // by another program, before
			tables        []Table
			changed, kept bool
		}{
			{"nothing", "", with(net, "10.0.0.1", "10.0.0.2"), false, true},
			{"one comes", "", with(net, "10.0.0.1", "10.0.0.2", "10.0.0.3"), true, true},
			{"one goes", "", with(net, "10.0.0.1", "10.0.0.3"), true, true},
			{"one changes", "", with(net, "10.0.0.1", "10.0.0.4"), true, true},
			{"another program adds one", "add element inet meshd-filter hosts4 { 10.9.9.9 }",
				with(net, "10.0.0.1", "10.0.0.4"), true, true},
			{"another program removes one", "delete element inet meshd-filter hosts4 { 10.0.0.1 }",
				with(net, "10.0.0.1", "10.0.0.4"), true, true},
			{"an interval changes", "", with("127.0.0.0/16", "10.0.0.1", "10.0.0.4"), true, false},
			{"all go", "", with("127.0.0.0/16"), true, true},
		} {
			// A further set is no difference. It goes with the table, so it tells whether the table stayed.
			nftRun(t, n, "add set inet meshd-filter witness { type ipv4_addr; }")
			if test.damage != "" {
				nftRun(t, n, test.damage)
			}
			changed, err := k.Set(test.tables)
			if err != nil || changed != test.changed {
				t.Errorf("%s: changed %v, %v", test.name, changed, err)
			}
			listed := nftRun(t, n, "list table inet meshd-filter")
			if kept := strings.Contains(listed, "set witness"); kept != test.kept {
				t.Errorf("%s: the table was kept: %v\n%s", test.name, kept, listed)
			}
			if again, err := k.Set(test.tables); again || err != nil { // the elements are the wanted ones
				t.Errorf("%s: changed once more: %v, %v", test.name, again, err)
			}
		}
	})
}
