package link

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/budget"
)

// The tests of this file make rules and tables themselves and need no root.

// lookup returns a rule that looks in a table.
func lookup(priority uint32, table int, change ...func(*rule)) rule {
	r := rule{priority: priority, action: actLookup, table: table, suppress: -1}
	for _, f := range change {
		f(&r)
	}
	return r
}

// Changes of rules for the tables below.
func vrf(r *rule)              { r.l3mdev = true }
func six(r *rule)              { r.v6 = true }
func prohibit(r *rule)         { r.action = actProhibit }
func ofUser(r *rule)           { r.others = true }
func iif(n string) func(*rule) { return func(r *rule) { r.in = n } }
func hides(n int) func(*rule)  { return func(r *rule) { r.suppress = n } }
func from(p string) func(*rule) {
	return func(r *rule) { r.from = netip.MustParsePrefix(p) }
}

// inTable77 moves a route to another table.
func inTable77(r *netlink.Route) { r.Table = 77 }

const mainTab = unix.RT_TABLE_MAIN

func TestStandard(t *testing.T) {
	local, main := lookup(0, unix.RT_TABLE_LOCAL), lookup(standardMain, mainTab)
	last := lookup(standardDefault, unix.RT_TABLE_DEFAULT)
	for name, test := range map[string]struct {
		rules []rule
		want  bool
	}{
		"IPv4":                    {[]rule{local, main, last}, true},
		"IPv6":                    {[]rule{local, main}, true},
		"one more":                {[]rule{local, lookup(5270, 52), main, last}, false},
		"local is not first":      {[]rule{lookup(100, unix.RT_TABLE_LOCAL), main, last}, false},
		"another table at 0":      {[]rule{local, lookup(0, 52), main, last}, false},
		"main for some only":      {[]rule{local, lookup(standardMain, mainTab, iif("a"))}, false},
		"main refuses":            {[]rule{local, lookup(standardMain, 0, prohibit)}, false},
		"main hides its default":  {[]rule{local, lookup(standardMain, mainTab, hides(0))}, false},
		"no main":                 {[]rule{local, last}, false},
		"none at all":             {nil, false},
		"VRF":                     {[]rule{local, lookup(1000, 0, vrf), main, last}, false},
		"main has a second place": {[]rule{local, lookup(5000, mainTab), main, last}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := standard(test.rules); got != test.want {
				t.Errorf("%v", got)
			}
		})
	}
}

// Two addresses that no route and no rule tells apart are one question.
func TestResolverAsksOnce(t *testing.T) {
	var asked []netip.Addr
	r := newResolver([]rule{lookup(7, 77, func(r *rule) { r.to = netip.MustParsePrefix("10.2.0.0/16") })},
		[]netlink.Route{by("10.0.0.0/8", 2), with(by("10.1.2.0/24", 3), inTable77), by("fd00::/64", 2)},
		func(q question) (netlink.Route, error) {
			asked = append(asked, q.to)
			return by("10.0.0.0/8", len(asked)), nil
		})
	for _, test := range []struct {
		name, to string
		port     uint16
		device   int // which question the answer is of
	}{
		{"the first", "10.9.0.1", 0, 1}, {"in the same block", "10.9.9.9", 0, 1},
		{"in a rule", "10.2.0.1", 0, 2}, {"in the rule as well", "10.2.9.9", 0, 2},
		{"in another table", "10.1.2.1", 0, 3}, {"beside it", "10.1.3.1", 0, 1},
		{"in no block", "11.0.0.1", 0, 4}, {"in none either", "12.0.0.1", 0, 4},
		{"IPv6", "fd00::1", 0, 5}, {"IPv6 as well", "fd00::2", 0, 5}, {"IPv6 in no block", "fe00::2", 0, 6},
		{"another port", "10.9.0.1", 8285, 7}, {"the port as well", "10.9.0.7", 8285, 7},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := r.resolve(question{to: netip.MustParseAddr(test.to), toPort: test.port})
			if a.route.LinkIndex != test.device || a.err != nil {
				t.Errorf("answer %d, %v, want %d; asked: %v", a.route.LinkIndex, a.err, test.device, asked)
			}
		})
	}
}

// A look ends, whatever the tables of the host are; peers beyond the bound keep what main says.
func TestQuestionsHaveABound(t *testing.T) {
	asked := 0
	var routes []netlink.Route
	for i := range mostQuestions + 10 {
		peer := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		routes = append(routes, with(by(peer.String()+"/32", 3), inTable77))
	}
	l := snapshot(by("10.0.0.0/8", 2))
	l.kernel = newResolver([]rule{lookup(7, 77)}, routes, func(q question) (netlink.Route, error) {
		asked++
		return by(netip.PrefixFrom(q.to, 32).String(), 3), nil
	})
	for i, route := range routes {
		peer, want := netip.AddrPortFrom(destination(route).Addr(), 8285), 3
		if i >= mostQuestions {
			want = 2
		}
		if got := l.to(peer).devices; len(got) != 1 || got[0] != want {
			t.Fatalf("peer %d: by %v, want %d", i, got, want)
		}
	}
	if asked != mostQuestions {
		t.Errorf("asked %d times", asked)
	}
}

// The rule behind an answer is the first that can match and has the table, or refuses.
func TestRuleBehindAnAnswer(t *testing.T) {
	routes := []netlink.Route{
		with(by("10.0.0.0/8", 2), inTable77), with(by("0.0.0.0/0", 2), func(r *netlink.Route) { r.Table = 78 }),
		with(by("10.3.0.0/16", 0), func(r *netlink.Route) { r.Table, r.Type = 78, unix.RTN_THROW }),
	}
	q := question{to: netip.MustParseAddr("10.3.0.1"), in: 4, inName: "cni0"}
	q.from = netip.MustParseAddr("10.1.0.1")
	found, no := answer{route: with(by("10.0.0.0/8", 2), inTable77)}, answer{err: unix.EHOSTUNREACH}
	for name, test := range map[string]struct {
		rules []rule
		a     answer
		want  string // "": not known
	}{
		"the table": {[]rule{lookup(1, 78), lookup(2, 77), lookup(3, 77)}, found, "2: from all lookup 77"},
		"one that cannot match": {[]rule{lookup(2, 77, from("10.2.0.0/16")), lookup(3, 77, from("10.1.0.0/16"))},
			found, "3: from 10.1.0.0/16 lookup 77"},
		"by the interface": {[]rule{lookup(1, 77, iif("lo")), lookup(2, 77, iif("cni0"))},
			found, "2: from all iif cni0 lookup 77"},
		"of a user, who is not known": {[]rule{lookup(1, 77, ofUser)}, found, "1: from all lookup 77"},
		"of a VRF":                    {[]rule{lookup(1, 77, vrf)}, found, ""},
		"of the other family":         {[]rule{lookup(1, 77, six)}, found, ""},
		"refused by a rule":           {[]rule{lookup(1, 79), lookup(2, 0, prohibit)}, no, "2: from all prohibit"},
		"refused by a table": {[]rule{lookup(1, 79), lookup(2, 77), lookup(3, 0, prohibit)}, no,
			"2: from all lookup 77"},
		"a throw route goes on": {[]rule{lookup(1, 78), lookup(2, 77)}, no, "2: from all lookup 77"},
		"a suppressed one goes on": {[]rule{lookup(1, 77, hides(8)), lookup(2, 0, prohibit)}, no,
			"2: from all prohibit"},
		"by none": {[]rule{lookup(1, 79)}, no, ""},
	} {
		t.Run(name, func(t *testing.T) {
			by, known := newResolver(test.rules, routes, nil).ruleOf(q, test.a)
			if known != (test.want != "") || known && by.String() != test.want {
				t.Errorf("%s, %v, want %q", by, known, test.want)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for err, want := range map[error]bool{
		unix.EHOSTUNREACH: true, unix.ENETUNREACH: true, unix.EACCES: true, unix.EINVAL: true,
		unix.EXDEV: false, unix.ENODEV: false, unix.EAGAIN: false, errUnasked: false, nil: false,
	} {
		if got := refused(errors.Join(err)); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}

// Whatever a message has in it, reading it ends without a panic.
func FuzzMessages(f *testing.F) {
	q := question{to: netip.MustParseAddr("10.0.0.1"), in: 3, fromPort: 1}
	f.Add(q.request(0).Serialize()[unix.SizeofNlMsghdr:])
	f.Add([]byte{unix.AF_INET, 8, 0, 0, 52, 3, 0, 1, 0, 0, 0, 0, 8, 0, 1, 0, 10, 0, 0, 0, 20, 0, 9, 0,
		16, 0, 0, 0, 3, 0, 0, 0, 8, 0, 5, 0, 1, 2, 3, 4, 12, 0, 8, 0, 8, 0, 2, 0, 220, 5, 0, 0})
	f.Add([]byte{unix.AF_INET, 8, 0, 0, 52, 0, 0, 1, 2, 0, 0, 0, 8, 0, 1, 0, 10, 0, 0, 0,
		9, 0, 3, 0, 'e', 't', 'h', '0', 0})
	f.Fuzz(func(t *testing.T, message []byte) {
		defer budget.Of(t)()
		if r, err := parseRoute(message); err == nil {
			_ = destination(r)
			if len(r.MultiPath) > len(message) {
				t.Errorf("%d hops in %d bytes", len(r.MultiPath), len(message))
			}
		}
		if r, err := parseRule(message); err == nil && len(r.String()) > 200+2*len(message) {
			t.Errorf("%q", r)
		}
		_, _, _ = answerTo(1, message)
	})
}
