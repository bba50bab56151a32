package migrate

import (
	"slices"
	"testing"
)

// The guessed network contains all subnets, and has room for more nodes.
func TestGuessNetwork(t *testing.T) {
	for name, test := range map[string]struct {
		subnets []string
		v4, v6  string
	}{
		"one node":         {[]string{"10.244.3.0/24"}, "10.244.0.0/16", ""},
		"in one /16":       {[]string{"10.244.3.0/24", "10.244.200.0/24"}, "10.244.0.0/16", ""},
		"in two":           {[]string{"10.244.3.0/24", "10.245.0.0/24"}, "10.244.0.0/15", ""},
		"far apart":        {[]string{"10.0.0.0/24", "192.168.0.0/24"}, "0.0.0.0/0", ""},
		"a large one":      {[]string{"10.244.3.0/24", "10.128.0.0/12"}, "10.128.0.0/9", ""},
		"both families":    {[]string{"10.1.0.0/24", "fd00:1:2:3::/64"}, "10.1.0.0/16", "fd00:1:2::/48"},
		"IPv6 in two /48s": {[]string{"fd00:1:2::/64", "fd00:1:3::/64"}, "", "fd00:1:2::/47"},
		"none":             {nil, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			prefixes := prefixesOf(test.subnets...)
			for range 2 {
				var nodes []Node
				for _, p := range prefixes {
					nodes = append(nodes, Node{Subnets: prefixesOf(p.String())})
				}
				if got := guessNetwork(nodes); got.Network != test.v4 || got.IPv6Network != test.v6 {
					t.Errorf("%q, %q, want %q, %q", got.Network, got.IPv6Network, test.v4, test.v6)
				}
				slices.Reverse(prefixes)
			}
		})
	}
}
