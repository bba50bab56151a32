package filter

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

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

// What `nft list` says of the rules, and that whatever somebody does to them is found and mended.
func TestAllowAsNftShowsIt(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		a, s := NewAllow(), someRules()
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
		got, file := ruleset(t, n), "testdata/allow.nft"
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(file); err != nil || got != string(want) {
			t.Errorf("got:\n%s\nwant:\n%s", got, want)
		}
		for _, damage := range []string{"flush ruleset", "delete table ip meshd-allow",
			"flush chain ip6 meshd-allow forward", "flush chain ip meshd-allow answer",
			"insert rule ip meshd-allow forward accept",
			"add element ip meshd-allow from_ports { 10.244.3.0/24 . 10.244.1.0/24 . tcp . 22 }",
			"delete element ip meshd-allow mesh_to_32 { 10.244.1.7 }",
			"flush set ip meshd-allow outside_to_24_port",
			"add element ip meshd-allow links { \"lan\" }"} {
			run(t, n, "nft", damage)
			set("after "+damage, true)
			if again := ruleset(t, n); again != got {
				t.Errorf("after %s:\n%s", damage, again)
			}
		}
		s.Rules[0].Services = s.Rules[0].Services[:1]
		if a.Edit(s) {
			t.Error("a change of rules is taken for none")
		}
		set("another rule", true)
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

func BenchmarkAllow10000Rules(b *testing.B) {
	n := nstest.ForTest(b)
	s := manyRules()
	if err := n.Do(func() error {
		a := NewAllow()
		for b.Loop() {
			s.Rules[0].Name += "x"
			if len(s.Rules[0].Name) > 60 {
				s.Rules[0].Name = "x"
			}
			if _, err := a.Set(s); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		b.Fatal(err)
	}
}

// The transaction alone: of as many rules as a file can have, into a kernel without any.
func BenchmarkAllowTransaction(b *testing.B) {
	n := nstest.ForTest(b)
	s := manyRules()
	before := cpu()
	defer func() { b.ReportMetric(float64(cpu()-before)/float64(b.N)/1e6, "cpu-ms/op") }()
	if err := n.Do(func() error {
		for b.Loop() {
			if _, err := NewAllow().Set(s); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		b.Fatal(err)
	}
}
