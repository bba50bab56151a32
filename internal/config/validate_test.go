package config

import (
	"net/netip"
	"strings"
	"testing"
)

// faultyKeys parses a document and returns the keys of its faults, in file order.
func faultyKeys(t *testing.T, doc string) (keys []string) {
	t.Helper()
	_, err := Parse("x", []byte(doc))
	if err == nil {
		return nil
	}
	for _, f := range err.(Faults) {
		keys = append(keys, f.Key)
	}
	return keys
}

// node returns a [[node]] table.
func node(name, address, subnets, routes string) string {
	list := func(words string) string {
		var quoted []string
		for _, w := range strings.Fields(words) {
			quoted = append(quoted, `"`+w+`"`)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	}
	return "[[node]]\nname = \"" + name + "\"\naddress = \"" + address + "\"\nsubnets = " + list(subnets) +
		"\nroutes = " + list(routes) + "\n"
}

// Rules between nodes: what two of them may have in common, and what may not.
func TestNodesAgainstEachOther(t *testing.T) {
	for name, test := range map[string]struct {
		a, b string
		want string
	}{
		"apart": {node("a", "172.18.0.2", "10.0.0.0/24", ""), node("b", "172.18.0.3", "10.0.1.0/24", ""), ""},
		"one name": {node("a", "172.18.0.2", "10.0.0.0/24", ""), node("a", "172.18.0.3", "10.0.1.0/24", ""),
			"node.name"},
		"one address": {node("a", "172.18.0.2", "10.0.0.0/24", ""), node("b", "172.18.0.2:9", "10.0.1.0/24", ""),
			"node.address"},
		"one subnet in another": {node("a", "172.18.0.2", "10.0.0.0/23", ""),
			node("b", "172.18.0.3", "10.0.1.0/24", ""), "node.subnets"},
		"the larger one second": {node("a", "172.18.0.2", "10.0.1.0/24", ""),
			node("b", "172.18.0.3", "10.0.0.0/23", ""), "node.subnets"},
		"one route of two nodes": {node("a", "172.18.0.2", "10.0.0.0/24", "192.168.0.0/16"),
			node("b", "172.18.0.3", "10.0.1.0/24", "192.168.0.0/16"), ""},
		"an address in a route of two nodes": {node("a", "172.18.0.2", "10.0.0.0/24", "172.18.0.0/16"),
			node("b", "192.0.2.3", "10.0.1.0/24", "172.18.0.0/16"), "node.address"},
		"one host name": {node("a", "edge.lan", "10.0.0.0/24", ""), node("b", "EDGE.lan.:9", "10.0.1.0/24", ""),
			"node.address"},
		"two host names": {node("a", "a.lan", "10.0.0.0/24", ""), node("b", "b.lan", "10.0.1.0/24", ""), ""},
		"a route in another": {node("a", "172.18.0.2", "10.0.0.0/24", "192.168.0.0/16"),
			node("b", "172.18.0.3", "10.0.1.0/24", "192.168.1.0/24"), ""},
		"an address in a route": {node("a", "172.18.0.2", "10.0.0.0/24", "172.18.0.0/24"),
			node("b", "10.9.0.1", "10.0.1.0/24", ""), "node.address"},
		"an address in a subnet": {node("a", "10.0.1.9", "10.0.0.0/24", ""),
			node("b", "172.18.0.3", "10.0.1.0/24", ""), "node.address"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := strings.Join(faultyKeys(t, someNetwork+test.a+test.b), " "); got != test.want {
				t.Errorf("faults of %q, want %q", got, test.want)
			}
		})
	}
}

// Subnets are inside the pod network, and routes outside of it.
func TestPrefixesAgainstTheNetwork(t *testing.T) {
	for name, test := range map[string]struct{ subnets, routes, want string }{
		"inside":                  {"10.0.0.0/24", "", ""},
		"all of it":               {"10.0.0.0/8", "", ""},
		"outside":                 {"11.0.0.0/24", "", "node.subnets"},
		"wider":                   {"8.0.0.0/6", "", "node.subnets"},
		"another family":          {"fd00::/64", "", "node.subnets"},
		"none":                    {"", "", "node.subnets"},
		"a route outside":         {"10.0.0.0/24", "11.0.0.0/8", ""},
		"a route inside":          {"10.0.0.0/24", "10.1.0.0/24", "node.routes"},
		"a route around":          {"10.0.0.0/24", "0.0.0.0/0", "node.routes"},
		"a route of a family":     {"10.0.0.0/24", "fd00::/64", "node.routes"},
		"a route to multicast":    {"10.0.0.0/24", "224.0.0.0/4", "node.routes"},
		"a route to loopback":     {"10.0.0.0/24", "127.0.0.0/8", "node.routes"},
		"one subnet out of order": {"10.0.1.0/24 10.0.0.0/23", "", "node.subnets"},
	} {
		t.Run(name, func(t *testing.T) {
			doc := someNetwork + node("a", "172.18.0.2", test.subnets, test.routes)
			if got := strings.Join(faultyKeys(t, doc), " "); got != test.want {
				t.Errorf("faults of %q, want %q", got, test.want)
			}
		})
	}
}

// Names are those of hosts, in lower case.
func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "edge-1": true, "a.b": true, "7": true, strings.Repeat("a", 63): true,
		"": false, strings.Repeat("a", 64): false, "A": false, "a_b": false, "a b": false, "ä": false,
		"a\n": false,
	} {
		t.Run(name, func(t *testing.T) {
			if got := validName(name); got != want {
				t.Errorf("%v, want %v", got, want)
			}
		})
	}
}

// A network answers for a family that it carries.
func TestCIDROf(t *testing.T) {
	n := Network{CIDR: []netip.Prefix{netip.MustParsePrefix("fd00::/48"), netip.MustParsePrefix("10.0.0.0/8")}}
	for ip, want := range map[string]string{"192.0.2.1": "10.0.0.0/8", "2001:db8::1": "fd00::/48"} {
		if got, ok := n.CIDROf(netip.MustParseAddr(ip)); !ok || got.String() != want {
			t.Errorf("%s: %s, %v, want %s", ip, got, ok, want)
		}
	}
	n.CIDR = n.CIDR[:1]
	if got, ok := n.CIDROf(netip.MustParseAddr("192.0.2.1")); ok {
		t.Errorf("a family that it does not carry: %s", got)
	}
}
