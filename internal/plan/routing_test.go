package plan

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"example.org/meshd/internal/link"
	"example.org/meshd/internal/mesh"
)

// One rule is one condition, as bad as what it takes, with a rule in front of it as the remedy.
func TestDiversionsAreConditions(t *testing.T) {
	c := load(t, "", near)
	one := func(priority int, whole, inbound bool, prefixes ...string) link.Diversion {
		d := link.Diversion{Rule: "7: from all lookup 52", Priority: priority, Table: 52, By: "d0", Whole: whole,
			Inbound: inbound}
		for _, p := range prefixes {
			d.Prefixes = append(d.Prefixes, netip.MustParsePrefix(p))
		}
		return d
	}
	other := one(9, false, false, "10.244.2.0/24")
	other.Rule, other.By = "9: from all prohibit", ""
	for _, test := range []struct {
		name     string
		diverted []link.Diversion
		severity []mesh.Severity
		remedy   string // has it
		cause    string // has it
	}{
		{"none", nil, nil, "", ""},
		{"a peer's", []link.Diversion{one(7, false, false, "10.244.2.0/24")}, []mesh.Severity{mesh.Degraded},
			"`ip rule add to 10.244.0.0/16 lookup main pref 6`", "d0"},
		{"all", []link.Diversion{one(7, true, false, "10.244.2.0/24")}, []mesh.Severity{mesh.Failed}, "", ""},
		{"in both directions", []link.Diversion{one(7, false, false, "10.244.2.0/24"),
			one(7, true, true, "10.244.1.0/24")}, []mesh.Severity{mesh.Failed}, "", "10.244.1.0/24"},
		{"IPv6 beside IPv4", []link.Diversion{one(7, true, false, "10.244.2.0/24"),
			one(7, false, false, "fd00::/64")}, []mesh.Severity{mesh.Failed, mesh.Degraded}, "", ""},
		{"IPv6", []link.Diversion{one(7, false, false, "fd00::/64")}, []mesh.Severity{mesh.Degraded},
			"`ip -6 rule add to fd00::/48 lookup main pref 6`", ""},
		{"a network behind a node", []link.Diversion{one(7, false, false, "192.168.7.0/24")},
			[]mesh.Severity{mesh.Degraded}, "ip rule add to 192.168.7.0/24 ", ""},
		{"two rules", []link.Diversion{one(7, true, false, "10.244.2.0/24"), other},
			[]mesh.Severity{mesh.Failed, mesh.Degraded}, "", ""},
		{"dropped", []link.Diversion{other}, []mesh.Severity{mesh.Degraded}, "", "10.244.2.0/24"},
		{"no room in front", []link.Diversion{one(1, true, false, "10.244.2.0/24")}, []mesh.Severity{mesh.Failed},
			"10.244.0.0/16", ""},
		{"many prefixes", []link.Diversion{one(7, true, false, "10.244.2.0/24", "10.244.3.0/24",
			"10.244.4.0/24", "10.244.5.0/24", "10.244.6.0/24")}, []mesh.Severity{mesh.Failed}, "", "2 more"},
	} {
		t.Run(test.name, func(t *testing.T) {
			host := here(1500)
			host.Diverted = test.diverted
			p, err := Make(c, 0, host)
			if err != nil {
				t.Fatal(err)
			}
			var severity []mesh.Severity
			subjects := map[string]bool{}
			for _, c := range p.Conditions {
				if c.Kind != mesh.RuleDiverts {
					continue
				}
				severity = append(severity, c.Severity)
				if subjects[c.Subject] || c.Cause == "" || c.Remedy == "" {
					t.Errorf("%+v", c)
				}
				subjects[c.Subject] = true
				if !strings.Contains(c.Remedy, test.remedy) || !strings.Contains(c.Cause, test.cause) {
					t.Errorf("%+v", c)
				}
			}
			if !slices.Equal(severity, test.severity) {
				t.Errorf("%v, want %v", severity, test.severity)
			}
		})
	}
}

// A strict filter may be right: the peer's datagrams may come in elsewhere.
func TestStrictFilterIsInfo(t *testing.T) {
	host := here(1500)
	host.Underlay.Filtered = []link.Filtered{
		{Interface: "eth0.5", Peer: netip.MustParseAddr("172.18.0.4"), By: "eth1"}}
	p, err := Make(load(t, "", near), 0, host)
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(p.Conditions, func(c mesh.Condition) bool { return c.Kind == mesh.ReversePath })
	if at < 0 || p.Conditions[at].Severity != mesh.Info || p.Conditions[at].Subject != "eth0.5" ||
		!strings.Contains(p.Conditions[at].Remedy, "`sysctl -w net/ipv4/conf/eth0.5/rp_filter=2`") {
		t.Errorf("%+v", p.Conditions)
	}
}

// What pods of a node send is what other nodes have, and never what the node has itself.
func TestPodsAndDatagramsOfANode(t *testing.T) {
	c := load(t, "", near)
	for self, n := range c.Nodes {
		t.Run(n.Name, func(t *testing.T) {
			pods := Pods(c, self)
			own, all := Expand(c, nil).Datagrams(self)
			var others, routes []netip.Prefix
			for i, other := range c.Nodes {
				if i != self {
					others, routes = append(others, other.Subnets...), append(routes, other.Prefixes()...)
				}
			}
			others = append(others, routes...)
			if !reflect.DeepEqual(pods.Others, others) || !slices.Equal(pods.Own, n.Subnets) ||
				!slices.Equal(pods.Networks, c.Network.CIDR) || pods.TUN != c.Network.Interface {
				t.Errorf("%+v", pods)
			}
			if len(own.From) != 1 || own.From[0] != n.Address() || own.Mark == 0 || len(all) != len(c.Nodes) ||
				all[self] != n.Address() {
				t.Errorf("%+v, %v", own, all)
			}
		})
	}
}
