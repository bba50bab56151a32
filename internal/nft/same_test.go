package nft

import (
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"

	"example.org/meshd/internal/budget"
)

// listed returns a rule as the kernel lists it: with counts, numbers of sets and the upper end of
// a range.
func listed(name string, exprs Exprs) *nftables.Rule {
	r := &nftables.Rule{UserData: comment(name), Handle: 7}
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Counter:
			r.Exprs = append(r.Exprs, &expr.Counter{Packets: 3, Bytes: 300})
		case *expr.Lookup:
			l := *e
			l.SetID = 9
			r.Exprs = append(r.Exprs, &l)
		case *expr.NAT:
			n := *e
			n.RegAddrMax = n.RegAddrMin
			r.Exprs = append(r.Exprs, &n)
		default:
			r.Exprs = append(r.Exprs, e)
		}
	}
	return r
}

// A rule is the wanted one if it does the same, whatever it has counted, and is another if one word
// of it is.
func TestSameRule(t *testing.T) {
	rule := Rule{"mine", Join(IPv4.SourceIn("pods"), IPTables(false), IPv4.KeepSource())}
	inverted := Join(IPv4.SourceNotIn("pods"), IPTables(false), IPv4.KeepSource())
	for name, test := range map[string]struct {
		have *nftables.Rule
		want bool
	}{
		"as it is listed":  {listed("mine", rule.Exprs), true},
		"another comment":  {listed("yours", rule.Exprs), false},
		"another set":      {listed("mine", Join(IPv4.SourceIn("all"), IPTables(false), IPv4.KeepSource())), false},
		"inverted":         {listed("mine", inverted), false},
		"another state":    {listed("mine", Join(IPv4.SourceIn("pods"), IPTables(true), IPv4.KeepSource())), false},
		"another verdict":  {listed("mine", Join(IPv4.SourceIn("pods"), IPTables(false), Accept())), false},
		"a word less":      {listed("mine", Join(IPv4.SourceIn("pods"), IPv4.KeepSource())), false},
		"a word more":      {listed("mine", Join(rule.Exprs, Return())), false},
		"nothing":          {&nftables.Rule{}, false},
		"only its comment": {listed("mine", nil), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := sameRule(test.have, rule); got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

// A chain is the wanted one if packets pass it at the same point and its policy lets them go on.
func TestSameChain(t *testing.T) {
	accept, drop := nftables.ChainPolicyAccept, nftables.ChainPolicyDrop
	want := Chain{Name: "c", Type: NAT, Hook: Postrouting, Priority: SourceNAT}
	earlier := SourceNAT - 1
	for name, test := range map[string]struct {
		change func(*nftables.Chain)
		want   bool
	}{
		"as it is made":       {func(*nftables.Chain) {}, true},
		"with its policy":     {func(c *nftables.Chain) { c.Policy = &accept }, true},
		"that drops":          {func(c *nftables.Chain) { c.Policy = &drop }, false},
		"at another hook":     {func(c *nftables.Chain) { c.Hooknum = Forward }, false},
		"without a hook":      {func(c *nftables.Chain) { c.Hooknum = nil }, false},
		"at another priority": {func(c *nftables.Chain) { c.Priority = &earlier }, false},
		"without a priority":  {func(c *nftables.Chain) { c.Priority = nil }, false},
		"of another type":     {func(c *nftables.Chain) { c.Type = Filter }, false},
	} {
		t.Run(name, func(t *testing.T) {
			have := want.in(&nftables.Table{})
			test.change(have)
			if got := want.sameAs(have); got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
	if want.sameAs(nil) {
		t.Error("a chain that does not exist is the wanted one")
	}
}

// Comments are found where nft(8) and where iptables-nft keeps them, and never in damaged bytes.
func TestCommentOf(t *testing.T) {
	of := xt.Comment("old")
	for name, test := range map[string]struct {
		rule nftables.Rule
		want string
	}{
		"none":             {nftables.Rule{}, ""},
		"ours":             {nftables.Rule{UserData: comment("meshd")}, "meshd"},
		"behind others":    {nftables.Rule{UserData: append([]byte{9, 1, 7}, comment("meshd")...)}, "meshd"},
		"cut short":        {nftables.Rule{UserData: comment("meshd")[:4]}, ""},
		"a length alone":   {nftables.Rule{UserData: []byte{0}}, ""},
		"of iptables":      {nftables.Rule{Exprs: Exprs{&expr.Match{Name: "comment", Info: &of}}}, "old"},
		"of another match": {nftables.Rule{Exprs: Exprs{&expr.Match{Name: "mark", Info: &of}}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := commentOf(&test.rule); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// Any program may have written a rule's user data: no bytes make the reader fail.
func FuzzCommentOf(f *testing.F) {
	f.Add(comment("meshd"))
	f.Add([]byte{0, 255, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		defer budget.Of(t)()
		if got := commentOf(&nftables.Rule{UserData: data}); len(got) > len(data) {
			t.Errorf("%q from %d bytes", got, len(data))
		}
	})
}

// Guests come back behind the rules that stood in front of them.
func TestPlacesOfGuests(t *testing.T) {
	rules := []*nftables.Rule{
		{Handle: 4}, {Handle: 9}, {Handle: 2, UserData: comment("meshd"), Exprs: Accept()},
		{Handle: 5, UserData: comment("meshd"), Exprs: Drop()}, // an administrator's
		{Handle: 6, UserData: comment("meshd")},
	}
	g := NewGuests("meshd", Forward)
	ours := g.ours(rules)
	if len(ours) != 1 || ours[0].Handle != 2 {
		t.Fatalf("%+v", ours)
	}
	front := ahead(rules, ours)
	if len(front) != 2 || front[0] != 4 || front[1] != 9 {
		t.Errorf("in front: %v", front)
	}
	if got := ahead(rules, nil); got != nil {
		t.Errorf("in front of nothing: %v", got)
	}
	for name, test := range map[string]struct {
		rules []*nftables.Rule
		want  uint64
	}{
		"all are there":         {rules, 9},
		"the last one is gone":  {rules[:1], 4},
		"they changed places":   {[]*nftables.Rule{{Handle: 9}, {Handle: 5}, {Handle: 4}}, 4},
		"all of them are gone":  {rules[3:], 0},
		"there is nothing left": {nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := lastOfThese(test.rules, front); got != test.want {
				t.Errorf("behind %d, want %d", got, test.want)
			}
		})
	}
}

// What a place asks of rules: whose packets they see, and in which spelling.
func TestPlaceOf(t *testing.T) {
	accept, drop := nftables.ChainPolicyAccept, nftables.ChainPolicyDrop
	for name, test := range map[string]struct {
		family nftables.TableFamily
		table  string
		chain  string
		policy *nftables.ChainPolicy
		native bool
		want   Place
	}{
		"iptables": {nftables.TableFamilyIPv4, "filter", "FORWARD", &drop, false,
			Place{[]Family{IPv4}, true, true}},
		"iptables without its matches": {nftables.TableFamilyIPv4, "filter", "FORWARD", &drop, true,
			Place{[]Family{IPv4}, true, false}},
		"ip6tables": {nftables.TableFamilyIPv6, "filter", "FORWARD", &accept, false,
			Place{[]Family{IPv6}, false, true}},
		"another chain's name": {nftables.TableFamilyIPv4, "filter", "forward", nil, false,
			Place{[]Family{IPv4}, false, false}},
		"a table of both": {nftables.TableFamilyINet, "filter", "FORWARD", &drop, false,
			Place{[]Family{IPv4.InBoth(), IPv6.InBoth()}, true, false}},
	} {
		t.Run(name, func(t *testing.T) {
			c := &nftables.Chain{Table: &nftables.Table{Family: test.family, Name: test.table}, Name: test.chain,
				Policy: test.policy}
			got := placeOf(c, false, test.native)
			if got.Drops != test.want.Drops || got.IPTables != test.want.IPTables {
				t.Errorf("%+v, want %+v", got, test.want)
			}
			if len(got.Families) != len(test.want.Families) {
				t.Fatalf("families %+v, want %+v", got.Families, test.want.Families)
			}
			for i, f := range got.Families {
				if f.Suffix() != test.want.Families[i].Suffix() || f.V6() != test.want.Families[i].V6() {
					t.Errorf("family %d: %+v", i, f)
				}
			}
		})
	}
}
