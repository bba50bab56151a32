package filter

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"example.org/meshd/internal/nft"
)

// Rules become boxes, which the kernel looks up in sets. Boxes of one set must share no packet, and boxes of
// rules may: prefixes contain others, and services do. So
//
//	pair   a prefix of from, or a zone, with a prefix of to. Its services are cut so that none shares a port
//	       with another; the first rule in the file has what several allow
//	group  the pairs whose prefixes are inside of equally many others. Prefixes of one such depth share no
//	       address, so all boxes of a group are a set
//
// The most exact group decides first: the deepest destination, then the deepest source, then "mesh", then
// "outside". All rules allow, so that order does not change what passes, only what is counted where. There
// are as many sets as depths, which are few, however many rules there are.

// A zone is where a packet comes from, as far as a rule says so.
type zone int

const (
	fromPrefix zone = iota
	fromMesh
	outside
)

// A group is boxes that share no packet.
type group struct {
	depth, source int // how many prefixes are around those of its boxes
	zone          zone
	boxes         []nft.Box
}

// name returns that of the set.
func (g group) name() string {
	return [...]string{fmt.Sprintf("from_prefix_%d_%d", g.depth, g.source), fmt.Sprintf("from_mesh_%d", g.depth),
		fmt.Sprintf("from_outside_%d", g.depth)}[g.zone]
}

// A pair is from where to where; from is invalid for a zone.
type pair struct {
	from, to netip.Prefix
	zone     zone
}

// groups returns the boxes of all rules, in the order in which they decide.
func (s *AllowSettings) groups(f nft.Family) (all []group) {
	pairs, order := s.pairs(f)
	var sources, destinations []netip.Prefix
	for _, p := range order {
		destinations = append(destinations, p.to)
		if p.zone == fromPrefix {
			sources = append(sources, p.from)
		}
	}
	around, within := depths(sources), depths(destinations)
	type key struct {
		zone          zone
		depth, source int
	}
	index := map[key]int{}
	for _, p := range order {
		k := key{p.zone, within[p.to], around[p.from]}
		i, ok := index[k]
		if !ok {
			i, index[k] = len(all), len(all)
			all = append(all, group{depth: k.depth, source: k.source, zone: k.zone})
		}
		all[i].boxes = pairs[p].appendTo(all[i].boxes, p)
	}
	slices.SortFunc(all, func(a, b group) int {
		return cmp.Or(cmp.Compare(b.depth, a.depth), cmp.Compare(a.zone, b.zone), cmp.Compare(b.source, a.source))
	})
	return all
}

// pairs returns what passes between each pair, and the pairs in the order of the file.
func (s *AllowSettings) pairs(f nft.Family) (pairs map[pair]*cut, order []pair) {
	pairs = map[pair]*cut{}
	for _, r := range s.Rules {
		services := boxesOf(f, r.Services)
		one := func(p pair) {
			c := pairs[p]
			if c == nil {
				c = &cut{}
				pairs[p], order = c, append(order, p)
			}
			for _, s := range services {
				c.add(s, r.Name)
			}
		}
		for _, to := range f.PrefixesOf(r.To) {
			for _, from := range f.PrefixesOf(r.From) {
				one(pair{from: from, to: to})
			}
			if r.Mesh {
				one(pair{to: to, zone: fromMesh})
			}
			if r.Outside {
				one(pair{to: to, zone: outside})
			}
		}
	}
	return pairs, order
}

// depths returns how many of some prefixes contain each of them. Of two prefixes one contains the other, or
// they share nothing.
func depths(ps []netip.Prefix) map[netip.Prefix]int {
	ps = slices.Clone(ps)
	slices.SortFunc(ps, netip.Prefix.Compare) // by address, then the shorter ones first
	all, open := make(map[netip.Prefix]int, len(ps)), []netip.Prefix{}
	for _, p := range slices.Compact(ps) {
		for len(open) > 0 && !open[len(open)-1].Contains(p.Addr()) {
			open = open[:len(open)-1]
		}
		all[p] = len(open)
		open = append(open, p)
	}
	return all
}

// anyPort are the ports of a service without any.
var anyPort = ports{0, 65535}

// ports are a range, both ends included.
type ports struct{ first, last uint16 }

// A service is one protocol, or all of them.
type service struct {
	all      bool
	protocol uint8
	ports
}

// boxesOf returns services in a family.
func boxesOf(f nft.Family, services []Service) (all []service) {
	if len(services) == 0 {
		return []service{{all: true, ports: anyPort}}
	}
	for _, s := range services {
		protocol := s.Protocol4
		if f.V6() {
			protocol = s.Protocol6
		}
		all = append(all, service{protocol: protocol, ports: ports{s.First, s.Last}})
	}
	return all
}

// A cut is services of a pair that share no port.
type cut struct {
	whole string // the rule that allows what no other does; empty: none
	taken map[uint8][]named
}

// A named is ports that a rule allows.
type named struct {
	ports
	rule string
}

// add adds the part of a service that no earlier rule has.
func (c *cut) add(s service, rule string) {
	switch {
	case c.whole != "":
	case s.all:
		c.whole = rule
	default:
		if c.taken == nil {
			c.taken = map[uint8][]named{}
		}
		c.taken[s.protocol] = fill(c.taken[s.protocol], s.ports, rule)
	}
}

// fill adds to ranges, in the order of their ports, the parts of another one that none of them has.
func fill(ranges []named, p ports, rule string) []named {
	at, _ := slices.BinarySearchFunc(ranges, p.first, func(n named, first uint16) int {
		return cmp.Compare(n.last, first)
	})
	next := int(p.first) // the first port that is not decided; above 65535 there is none
	for ; next <= int(p.last); at++ {
		end := int(p.last)
		if at < len(ranges) {
			end = min(end, int(ranges[at].first)-1)
		}
		if next <= end {
			ranges = slices.Insert(ranges, at, named{ports{uint16(next), uint16(end)}, rule})
		}
		next = int(ranges[at].last) + 1
	}
	return ranges
}

// appendTo appends the boxes of a pair.
func (c *cut) appendTo(all []nft.Box, p pair) []nft.Box {
	one := func(first, last uint8, of ports, rule string) {
		all = append(all, nft.Box{From: p.from, To: p.to, Protocols: [2]uint8{first, last},
			Ports: [2]uint16{of.first, of.last}, Name: rule})
	}
	next := 0 // the first protocol that is not decided
	for _, protocol := range slices.Sorted(maps.Keys(c.taken)) {
		ranges := c.taken[protocol]
		if c.whole != "" {
			if next < int(protocol) {
				one(uint8(next), protocol-1, anyPort, c.whole)
			}
			ranges = fill(slices.Clone(ranges), anyPort, c.whole)
		}
		for _, n := range ranges {
			one(protocol, protocol, n.ports, n.rule)
		}
		next = int(protocol) + 1
	}
	if c.whole != "" {
		one(uint8(next), 255, anyPort, c.whole)
	}
	return all
}
