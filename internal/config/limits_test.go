package config

import (
	"net/netip"
	"slices"
	"testing"

	"example.org/meshd/internal/mesh"
)

// A mesh that the kernel engine has no room for is a warning, unless the user engine is asked for.
func TestWarnsAboveLimits(t *testing.T) {
	prefixes := func(count int, v6 bool) (all []netip.Prefix) {
		for i := range count {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
			if v6 {
				p = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 1: byte(i >> 16), 2: byte(i >> 8), 3: byte(i)}), 64)
			}
			all = append(all, p)
		}
		return all
	}
	routes := func(count int) (all []Route) {
		for _, p := range prefixes(count, true) {
			all = append(all, Route{p, DefaultMetric})
		}
		return all
	}
	half := Node{Subnets: prefixes(mesh.MaxPrefixes/2, false), Routes: routes(mesh.MaxPrefixes / 2)}
	one := Node{Subnets: prefixes(1, false)}
	one6 := Node{Routes: routes(1)}
	for name, test := range map[string]struct {
		engine string
		nodes  []Node
		keys   []string
	}{
		"as many nodes as fit":    {Auto, make([]Node, mesh.MaxNodes), nil},
		"one node more":           {Auto, make([]Node, mesh.MaxNodes+1), []string{"node"}},
		"one more, kernel":        {EngineKernel, make([]Node, mesh.MaxNodes+1), []string{"node"}},
		"one more, user":          {EngineUser, make([]Node, mesh.MaxNodes+1), nil},
		"as many prefixes as fit": {Auto, []Node{half, half}, nil},
		"one IPv4 prefix more":    {Auto, []Node{half, half, one}, []string{"node"}},
		"one IPv6 prefix more":    {Auto, []Node{half, half, one6}, []string{"node"}},
		"one more of each family": {Auto, []Node{half, one, half, one6}, []string{"node", "node"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := Config{Nodes: slices.Clone(test.nodes)}
			for i := range c.Nodes {
				c.Nodes[i].Addresses = []Address{{AddrPort: netip.MustParseAddrPort("10.0.0.1:8285")}}
			}
			c.Dataplane.Engine = test.engine
			var keys []string
			for _, w := range c.Warnings() {
				keys = append(keys, w.Key)
			}
			if !slices.Equal(keys, test.keys) {
				t.Errorf("%q, want %q: %v", keys, test.keys, c.Warnings())
			}
		})
	}
}
