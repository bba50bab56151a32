package config

import (
	"net/netip"
	"slices"
)

// comparedPairs bounds the pairs of rules that are compared with each other, for people who check a file.
const comparedPairs = 100_000

// warnOfAllows tells of rules that no packet can match, at most maxWarnings of them.
func (c *Config) warnOfAllows(r *report) {
	if len(c.Allow) == 0 {
		return
	}
	d, reach, told := directoryOf(c.Nodes), &owners{}, 0
	for i, n := range c.Nodes {
		for _, p := range n.Reach() {
			reach.add(p, "", i)
		}
	}
	reach.index()
	seen := map[[2]Party][]Service{}
	for i, a := range c.Allow {
		key, says := c.neverMatches(a, d, reach)
		if says == "" && covered(seen, a) {
			key, says = "", "has no effect: the rules above allow the same"
		}
		if len(seen) < comparedPairs {
			note(seen, a)
		}
		if says == "" {
			continue
		}
		if told++; told > maxWarnings {
			r.add(allowPath(i), "and further rules that no packet can match")
			return
		}
		r.add(allowPath(i)+key, "%s", says)
	}
}

// neverMatches says why no packet can match a rule, whatever other rules there are; empty if one can.
func (c *Config) neverMatches(a Allow, d directory, reach *owners) (key, says string) {
	inMesh := func(p Party) bool { return p.Name != Outside && (p.Name != "" || touches(reach, p.Prefix)) }
	if !slices.ContainsFunc(a.To, inMesh) {
		return ".to", "can never match: no node has any of it in its subnets or routes, and a node judges what " +
			"it takes itself"
	}
	possible := func(p Party) bool {
		cidr, ok := c.Network.CIDROf(p.Prefix.Addr())
		return inMesh(p) || p.Name == Outside || !ok || p.Prefix.Bits() < cidr.Bits() ||
			!cidr.Contains(p.Prefix.Addr())
	}
	if !slices.ContainsFunc(a.From, possible) {
		return ".from", "can never match: it is inside network.cidr, and no node has any of it in its subnets"
	}
	only := a.From[0].Name
	same := func(p Party) bool { return p.Name == only }
	if i, isNode := d.index[only]; isNode && len(c.Nodes[i].Routes) == 0 && !slices.ContainsFunc(
		append(slices.Clip(a.From), a.To...), func(p Party) bool { return !same(p) }) {
		return "", "can never match: pods of one host reach each other without meshd"
	}
	return "", ""
}

// touches tells whether a prefix shares addresses with what a node has.
func touches(reach *owners, p netip.Prefix) bool {
	if _, ok := reach.holding(p.Addr()); ok {
		return true
	}
	// A claim inside of p begins at p's first address or behind it.
	i, _ := slices.BinarySearchFunc(reach.claims, p.Addr(), func(c claim, ip netip.Addr) int {
		return c.prefix.Addr().Compare(ip)
	})
	return i < len(reach.claims) && p.Contains(reach.claims[i].prefix.Addr())
}

// covered tells whether earlier rules with the same parties allow all that a rule allows.
func covered(seen map[[2]Party][]Service, a Allow) bool {
	for _, from := range a.From {
		for _, to := range a.To {
			services, ok := seen[[2]Party{from, to}]
			if !ok {
				return false
			}
			for _, s := range orAll(a.Services) {
				if !slices.ContainsFunc(services, func(o Service) bool { return o.covers(s) }) {
					return false
				}
			}
		}
	}
	return true
}

// note remembers what a rule allows.
func note(seen map[[2]Party][]Service, a Allow) {
	for _, from := range a.From {
		for _, to := range a.To {
			pair := [2]Party{from, to}
			seen[pair] = append(seen[pair], orAll(a.Services)...)
			if len(seen) >= comparedPairs {
				return
			}
		}
	}
}

// orAll returns services, or the one that stands for everything.
func orAll(services []Service) []Service {
	if len(services) == 0 {
		return []Service{{}}
	}
	return services
}

// covers tells whether a service includes another one. The zero value is everything.
func (s Service) covers(o Service) bool {
	return s == Service{} || s.Protocol == o.Protocol && s.First <= o.First && o.Last <= s.Last
}
