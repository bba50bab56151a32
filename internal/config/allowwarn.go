package config

import (
	"fmt"
	"net/netip"
	"slices"
	"sort"
)

// comparedPairs bounds the pairs of rules that are compared with each other, for people who check a file.
const comparedPairs = 100_000

// warnOfAllows tells of rules that no packet can match, at most maxWarnings of them.
func (c *Config) warnOfAllows(r *report) {
	if len(c.Allow) == 0 {
		return
	}
	d, behind, told := directoryOf(c.Nodes), &owners{}, 0
	for i, n := range c.Nodes {
		for _, p := range n.Reach() {
			behind.add(p, "", i)
		}
	}
	behind.index()
	seen := map[[2]Party]*reachable{}
	for i, a := range c.Allow {
		never := c.neverMatches(a, d, behind)
		if len(never) == 0 && covered(seen, a) {
			never = []unmatched{{"", "has no effect: the rules above allow the same"}}
		}
		if len(seen) < comparedPairs {
			note(seen, a)
		}
		for _, n := range never {
			if told++; told > maxWarnings {
				r.add(allowPath(i), "and further rules that no packet can match")
				return
			}
			r.add(allowPath(i)+n.key, "%s", n.says)
		}
	}
}

// An unmatched is a rule, or a party of one, that no packet can match.
type unmatched struct{ key, says string }

// neverMatches says which parties of a rule no packet can match, and why, whatever other rules there are. If
// none of from or of to can match, neither can the rule.
func (c *Config) neverMatches(a Allow, d directory, behind *owners) (all []unmatched) {
	inMesh := func(p Party) bool { return p.Name != Outside && (p.Name != "" || touches(behind, p.Prefix)) }
	possible := func(p Party) bool {
		cidr, ok := c.Network.CIDROf(p.Prefix.Addr())
		return inMesh(p) || p.Name == Outside || !ok || p.Prefix.Bits() < cidr.Bits() ||
			!cidr.Contains(p.Prefix.Addr())
	}
	for _, side := range []struct {
		key, says string
		parties   []Party
		matches   func(Party) bool
	}{
		{".to", "can never match: no node has any of it in its subnets or routes, and a node judges what it " +
			"takes itself", a.To, inMesh},
		{".from", "can never match: it is inside network.cidr, and no node has any of it in its subnets", a.From,
			possible},
	} {
		none := !slices.ContainsFunc(side.parties, side.matches)
		for i, p := range side.parties {
			if !none && !side.matches(p) {
				all = append(all, unmatched{fmt.Sprintf("%s[%d]", side.key, i), side.says})
			}
		}
		if none {
			return []unmatched{{side.key, side.says}}
		}
	}
	host, onOne := d.hostOf(a.From[0], behind)
	elsewhere := func(p Party) bool { i, ok := d.hostOf(p, behind); return !ok || i != host }
	if onOne && !slices.ContainsFunc(slices.Concat(a.From, a.To), elsewhere) {
		all = append(all, unmatched{"", "can never match: pods of one host reach each other without meshd"})
	}
	return all
}

// hostOf returns the node that has all of a party in its subnets. ok is false where none has, or where some
// of it may be behind the node: that is no pod of it.
func (d directory) hostOf(p Party, behind *owners) (node int, ok bool) {
	if i, isNode := d.index[p.Name]; isNode {
		return i, len(d.nodes[i].Routes) == 0
	}
	if p.Name != "" {
		return 0, false
	}
	owner, ok := behind.holding(p.Prefix.Addr())
	return owner.node, ok && slices.ContainsFunc(d.nodes[owner.node].Subnets, func(s netip.Prefix) bool {
		return s.Bits() <= p.Prefix.Bits() && s.Contains(p.Prefix.Addr())
	})
}

// touches tells whether a prefix shares addresses with what a node has.
func touches(behind *owners, p netip.Prefix) bool {
	if _, ok := behind.holding(p.Addr()); ok {
		return true
	}
	// A claim inside of p begins at p's first address or behind it.
	i, _ := slices.BinarySearchFunc(behind.claims, p.Addr(), func(c claim, ip netip.Addr) int {
		return c.prefix.Addr().Compare(ip)
	})
	return i < len(behind.claims) && p.Contains(behind.claims[i].prefix.Addr())
}

// A reachable is what rules allow between two parties.
type reachable struct {
	all   bool               // everything
	ports map[string][]reach // by protocol: in order, none touches another
}

// A reach is a range of ports, both included.
type reach struct{ first, last int }

// has tells whether all of a service is allowed, perhaps by several rules together.
func (r *reachable) has(s Service) bool {
	if r == nil || r.all {
		return r != nil
	}
	ports := r.ports[s.Protocol]
	i := sort.Search(len(ports), func(i int) bool { return ports[i].last >= int(s.First) })
	return i < len(ports) && ports[i].first <= int(s.First) && int(s.Last) <= ports[i].last
}

// add allows a service.
func (r *reachable) add(s Service) {
	ports, next := r.ports[s.Protocol], reach{int(s.First), int(s.Last)}
	i := sort.Search(len(ports), func(i int) bool { return ports[i].last >= next.first-1 })
	j := i
	for ; j < len(ports) && ports[j].first <= next.last+1; j++ {
		next = reach{min(next.first, ports[j].first), max(next.last, ports[j].last)}
	}
	r.ports[s.Protocol] = slices.Replace(ports, i, j, next)
}

// covered tells whether earlier rules with the same parties allow all that a rule allows.
func covered(seen map[[2]Party]*reachable, a Allow) bool {
	for _, from := range a.From {
		for _, to := range a.To {
			r := seen[[2]Party{from, to}]
			lacks := func(s Service) bool { return !r.has(s) }
			if len(a.Services) == 0 && (r == nil || !r.all) || slices.ContainsFunc(a.Services, lacks) {
				return false
			}
		}
	}
	return true
}

// note remembers what a rule allows.
func note(seen map[[2]Party]*reachable, a Allow) {
	for _, from := range a.From {
		for _, to := range a.To {
			pair := [2]Party{from, to}
			if seen[pair] == nil {
				seen[pair] = &reachable{ports: map[string][]reach{}}
			}
			seen[pair].all = seen[pair].all || len(a.Services) == 0
			for _, s := range a.Services {
				seen[pair].add(s)
			}
			if len(seen) >= comparedPairs {
				return
			}
		}
	}
}
