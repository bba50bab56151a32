package nft

import (
	"net/netip"
	"strings"
	"testing"

	"example.org/meshd/internal/nstest"
)

// hosts returns a table of both families with an interval set, and the given hosts in another set.
func hosts(net string, ips ...string) []Table {
	var all []netip.Addr
	for _, ip := range ips {
		all = append(all, netip.MustParseAddr(ip))
	}
	f, made := IPv4.InBoth(), table(two, "a")
	made.Sets = []Set{f.Prefixes("net", prefixes(net)), f.Addresses("hosts", all)}
	return []Table{made}
}

// Edit changes elements and reads nothing: what another program has damaged besides stays for Set. Where
// it cannot, it changes nothing.
func TestEdit(t *testing.T) {
	const net = "127.0.0.0/8"
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		k := NewKeeper(two)
		if k.Edit(hosts(net, "10.0.0.1")) {
			t.Error("edited before the first Set: the rules of an earlier run may be there")
		}
		if _, err := k.Set(hosts(net, "10.0.0.1", "10.0.0.2")); err != nil {
			t.Fatal(err)
		}
		for _, test := range []struct {
			name    string
			damage  string // by another program, before
			tables  []Table
			edited  bool
			mended  bool   // Set finds something to do
			between string // an element that is there after Edit; empty: the set is empty
		}{
			{"nothing", "", hosts(net, "10.0.0.1", "10.0.0.2"), true, false, "10.0.0.2"},
			{"one changes", "", hosts(net, "10.0.0.1", "10.0.0.3"), true, false, "10.0.0.3"},
			{"others are damaged", "delete element inet meshd-filter hosts4 { 10.0.0.1 }",
				hosts(net, "10.0.0.1", "10.0.0.4"), true, true, "10.0.0.4"},
			{"the chain is flushed", "flush chain inet meshd-filter output",
				hosts(net, "10.0.0.1", "10.0.0.5"), true, true, "10.0.0.5"},
			{"the one that goes is gone", "delete element inet meshd-filter hosts4 { 10.0.0.5 }",
				hosts(net, "10.0.0.1", "10.0.0.6"), false, true, "10.0.0.1"},
			{"the one that comes is there", "add element inet meshd-filter hosts4 { 10.0.0.7 }",
				hosts(net, "10.0.0.1", "10.0.0.7"), true, false, "10.0.0.7"},
			{"the set is flushed", "flush set inet meshd-filter hosts4",
				hosts(net, "10.0.0.1", "10.0.0.8"), false, true, ""},
			{"an interval changes", "", hosts("127.0.0.0/16", "10.0.0.1", "10.0.0.8"), false, true, "10.0.0.8"},
			{"a table goes", "", nil, false, true, "10.0.0.8"},
		} {
			if test.damage != "" {
				nftRun(t, n, test.damage)
			}
			if edited := k.Edit(test.tables); edited != test.edited {
				t.Errorf("%s: edited %v", test.name, edited)
			}
			listed := nftRun(t, n, "list set inet meshd-filter hosts4")
			if there := strings.Contains(listed, "10."); !strings.Contains(listed, test.between) ||
				there != (test.between != "") {
				t.Errorf("%s: without %q:\n%s", test.name, test.between, listed)
			}
			if mended, err := k.Set(test.tables); mended != test.mended || err != nil {
				t.Errorf("%s: Set changed %v, %v", test.name, mended, err)
			}
			if again, err := k.Set(test.tables); again || err != nil {
				t.Errorf("%s: Set changed once more: %v, %v", test.name, again, err)
			}
		}
	})
}

// Elements alone can be edited, and only those of sets that are the same otherwise.
func TestDiffering(t *testing.T) {
	before := hosts("127.0.0.0/8", "10.0.0.1", "10.0.0.3", "10.0.0.5")
	renamed, rules := hosts("127.0.0.0/8"), hosts("127.0.0.0/8")
	set, fewer := hosts("127.0.0.0/8"), hosts("127.0.0.0/8")
	renamed[0].ID = Both("meshd-other")
	rules[0].Chains[0].Rules[0].Name = "b"
	set[0].Sets[1] = IPv6.InBoth().Addresses("hosts", nil)
	fewer[0].Sets = fewer[0].Sets[:1]
	for name, test := range map[string]struct {
		after       []Table
		ok          bool
		gone, fresh string
	}{
		"the same":        {before, true, "", ""},
		"one less":        {hosts("127.0.0.0/8", "10.0.0.1", "10.0.0.3"), true, "5", ""},
		"the first less":  {hosts("127.0.0.0/8", "10.0.0.3", "10.0.0.5"), true, "1", ""},
		"one more":        {hosts("127.0.0.0/8", "10.0.0.1", "10.0.0.3", "10.0.0.4", "10.0.0.5"), true, "", "4"},
		"all others":      {hosts("127.0.0.0/8", "10.0.0.2", "10.0.0.6"), true, "1 3 5", "2 6"},
		"none":            {hosts("127.0.0.0/8"), true, "1 3 5", ""},
		"an interval":     {hosts("127.0.0.0/9", "10.0.0.1", "10.0.0.3", "10.0.0.5"), false, "", ""},
		"another table":   {renamed, false, "", ""},
		"another rule":    {rules, false, "", ""},
		"another set":     {set, false, "", ""},
		"a set less":      {fewer, false, "", ""},
		"a table less":    {nil, false, "", ""},
		"two of a table":  {append(hosts("127.0.0.0/8"), before...), false, "", ""},
		"nothing is left": {[]Table{}, false, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			edits, ok := differing(before, test.after)
			var gone, fresh []string
			for _, e := range edits {
				for _, one := range e.gone {
					gone = append(gone, mustAddr(one.key[:4]).String())
				}
				for _, one := range e.fresh {
					fresh = append(fresh, mustAddr(one.key[:4]).String())
				}
			}
			got := [2]string{strings.Join(gone, " "), strings.Join(fresh, " ")}
			for i := range got {
				got[i] = strings.ReplaceAll(got[i], "10.0.0.", "")
			}
			if ok != test.ok || ok && got != [2]string{test.gone, test.fresh} {
				t.Errorf("%v: %q, want %v: %q %q", ok, got, test.ok, test.gone, test.fresh)
			}
		})
	}
}
