package filter

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/nft"
	"example.org/meshd/internal/nstest"
)

// tcp and udp are services.
func tcp(first, last uint16) Service { return Service{6, 6, first, last} }

var icmp = Service{1, 58, 0, 65535}

// someRules are those of a node with pods and a network behind it.
func someRules() *AllowSettings {
	to := prefixes("10.244.1.0/24", "fd00:0:0:1::/64")
	return &AllowSettings{
		Rules: []AllowRule{
			{Name: "web", From: prefixes("10.244.2.0/24", "fd00:0:0:2::/64"), Outside: true, To: to,
				Services: []Service{tcp(443, 443), tcp(8000, 8100), icmp}},
			{Name: "all", Mesh: true, To: prefixes("10.244.1.7/32")},
			{Name: "#3", From: prefixes("10.244.2.0/24", "10.244.2.9/32"), To: to, Services: []Service{tcp(400, 500)}},
		},
		Closed: prefixes("10.244.1.0/24", "10.244.1.7/32", "fd00:0:0:1::/64"),
		Pods:   prefixes("10.244.1.0/24", "fd00:0:0:1::/64"),
		Mesh:   prefixes("10.244.1.0/24", "10.244.2.0/24", "fd00:0:0:1::/64", "fd00:0:0:2::/64", "203.0.113.0/24"),
		Links:  []string{"mesh0", "meshd-wg"},
		TUN:    []netip.Addr{netip.MustParseAddr("10.244.1.0"), netip.MustParseAddr("fd00:0:0:1::")},
		Probe:  []byte("meshd\x00\x01\x02"), ProbePort: 8286,
	}
}

// progname is what nft(8) says of the owner of a table.
var progname = regexp.MustCompile(` # progname .*`)

// eachAllow runs a test with rules that belong to this process, and as on kernels where they cannot.
func eachAllow(t *testing.T, test func(t *testing.T, n *nstest.Namespace, a *Allow)) {
	kinds := map[string]func(...nft.ID) *nft.Keeper{"own": nft.NewOwner, "standby": nft.NewKeeper}
	for name, make := range kinds {
		t.Run(name, func(t *testing.T) {
			nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
				a := newAllow(make(allowTables...))
				defer a.Close()
				test(t, n, a)
			})
		})
	}
}

// What `nft list` says of the rules.
func TestAllowAsNftShowsIt(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		a := NewAllow()
		defer a.Close()
		if _, err := a.Set(someRules()); err != nil {
			t.Fatal(err)
		}
		got, file := progname.ReplaceAllString(ruleset(t, n), ""), "testdata/allow.nft"
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(file); err != nil || got != string(want) {
			t.Errorf("got:\n%s\nwant:\n%s", got, want)
		}
	})
}

// Set changes what differs, and nothing else.
func TestAllowChanges(t *testing.T) {
	eachAllow(t, func(t *testing.T, n *nstest.Namespace, a *Allow) {
		s := someRules()
		set := func(what string, want bool) {
			t.Helper()
			if changed, err := a.Set(s); err != nil || changed != want {
				t.Errorf("%s: changed %v, %v, want %v", what, changed, err, want)
			}
		}
		set("at first", true)
		set("again", false)
		if !a.Edit(someRules()) {
			t.Error("the same is taken for something else")
		}
		s = someRules()
		s.Links = []string{"mesh0"}
		if !a.Edit(s) {
			t.Error("an interface less is no element less")
		}
		set("after an edit", false)
		s = someRules()
		s.Rules[0].Services = s.Rules[0].Services[:1]
		if a.Edit(s) {
			t.Error("a change of rules is taken for none")
		}
		set("another rule", true)
		s = someRules()
		s.Closed, s.Rules = prefixes("10.244.1.0/24"), s.Rules[1:2]
		set("without IPv6", true)
		s = nil
		set("no rules", true)
		if list := ruleset(t, n); list != "" {
			t.Errorf("left:\n%s", list)
		}
		set("no rules again", false)
	})
}

// tables returns what nft(8) says of the ordinary tables.
func tables(t *testing.T, n *nstest.Namespace) (all string) {
	for _, family := range []string{"ip", "ip6"} {
		all += run(t, n, "nft", "-s", "list", "table", family, AllowName)
	}
	return all
}

// The damage that another program may do to rules.
var damages = []string{"flush ruleset", "delete table ip meshd-allow", "flush chain ip6 meshd-allow forward",
	"flush chain ip meshd-allow answer", "insert rule ip meshd-allow forward accept",
	"add element ip meshd-allow from_ports { 10.244.3.0/24 . 10.244.1.0/24 . tcp . 22 }",
	"delete element ip meshd-allow mesh_to_32 { 10.244.1.7 }",
	"flush set ip meshd-allow outside_to_24_port", "add element ip meshd-allow links { \"lan\" }"}

// Another program cannot damage rules of this process. Where it can, whatever it does is found and mended.
func TestAllowDamaged(t *testing.T) {
	eachAllow(t, func(t *testing.T, n *nstest.Namespace, a *Allow) {
		if _, err := a.Set(someRules()); err != nil {
			t.Fatal(err)
		}
		whole := tables(t, n)
		for _, damage := range damages {
			_, err := n.Run("nft", damage)
			if may := !a.rules.Owns() || damage == "flush ruleset"; may != (err == nil) {
				t.Errorf("%s: own %v, %v", damage, a.rules.Owns(), err)
			}
			if changed, err := a.Set(someRules()); err != nil || changed == a.rules.Owns() {
				t.Errorf("after %s: changed %v, %v", damage, changed, err)
			}
			if again := tables(t, n); again != whole {
				t.Errorf("after %s:\n%s", damage, again)
			}
		}
	})
}

// Rules stay in force when their process ends, and the next one takes them over without a moment in between.
// A process that ends without Close leaves them as one that closes does: the kernel closes its socket.
func TestAllowOutlivesItsProcess(t *testing.T) {
	eachAllow(t, func(t *testing.T, n *nstest.Namespace, a *Allow) {
		if _, err := a.Set(someRules()); err != nil {
			t.Fatal(err)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		if list := ruleset(t, n); !strings.Contains(list, "@from_24_to_24_port") ||
			strings.Contains(list, "table ip "+AllowStandbyName) {
			t.Errorf("left:\n%s", list)
		}
		next := newAllow(a.rules)
		if changed, err := next.Set(someRules()); err != nil || !changed == a.rules.Owns() {
			t.Errorf("the same again: %v, %v", changed, err)
		}
		if err := next.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := CleanUp(); err != nil || ruleset(t, n) != "" {
			t.Errorf("%v\n%s", err, ruleset(t, n))
		}
	})
}

// A table of a run that could not own it becomes this process's.
func TestAllowTakesOverAnOrdinaryTable(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		before, a := newAllow(nft.NewKeeper(allowTables...)), NewAllow()
		defer a.Close()
		_, err := before.Set(someRules())
		if err = errors.Join(err, before.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Set(someRules()); err != nil || !a.rules.Owns() {
			t.Errorf("own %v, %v", a.rules.Owns(), err)
		}
		if _, err := n.Run("nft", "delete", "table", "ip", AllowName); err == nil {
			t.Error("another program deleted the table")
		}
		other := NewAllow()
		defer other.Close()
		if _, err := other.Set(someRules()); !errors.Is(err, unix.EPERM) {
			t.Errorf("a table of another process: %v", err)
		}
	})
}

// More pairs than are counted are in force as others are, without counters of rules.
func TestAllowManyPairs(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		w, a, s := newWire(t, n), NewAllow(), someRules()
		defer a.Close()
		var from []netip.Prefix
		for i := range 1000 {
			from = append(from, netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)))
		}
		s.Closed = prefixes("10.244.1.5/32", "10.244.1.6/32")
		for i := range 50 {
			s.Closed = append(s.Closed, netip.MustParsePrefix(fmt.Sprintf("10.245.%d.%d/32", i/256, i%256)))
		}
		s.Rules = []AllowRule{{Name: "all", From: from, To: s.Closed, Services: []Service{tcp(1, 1), tcp(9, 9)}}}
		if _, err := a.Set(s); err != nil {
			t.Fatal(err)
		}
		packet := func(from, to string, port, own uint16) judged {
			return judged{netip.MustParseAddr(from), netip.MustParseAddr(to), 6, port, own}
		}
		passed := w.through([]judged{packet("10.3.231.9", "10.244.1.5", 9, 2000),
			packet("10.3.232.9", "10.244.1.5", 9, 2001), packet("10.0.0.9", "10.244.1.6", 1, 2002),
			packet("10.0.0.9", "10.244.1.6", 2, 2003)}, false)
		if !slices.Equal(passed, []bool{true, false, true, false}) {
			t.Errorf("%v", passed)
		}
		if counted, dropped, err := a.Counters(); err != nil || dropped != 2 || len(counted) != 0 {
			t.Errorf("%v, dropped %d, %v", counted, dropped, err)
		}
	})
}

// manyRules are as many as a file can have, each with a source, a destination and a service of its own.
func manyRules() *AllowSettings {
	s := someRules()
	s.Rules, s.Closed = nil, nil
	for i := range 10_000 {
		s.Rules = append(s.Rules, AllowRule{Name: fmt.Sprintf("rule-%d", i),
			From:     prefixes(fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)),
			To:       prefixes(fmt.Sprintf("10.244.1.%d/32", i%200)),
			Services: []Service{tcp(uint16(1000+i%100), uint16(1000+i%100))}})
		s.Closed = append(s.Closed, s.Rules[i].To...)
	}
	return s
}
