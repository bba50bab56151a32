package filter

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"example.org/meshd/internal/nft"
)

// Rules become boxes, which the kernel looks up in sets. Boxes of one set must share no packet, and boxes of
// rules may: prefixes contain others, and services do. So
//
//	pair   a prefix of from, or a zone, with a prefix of to. The first rule in the file has what several
//	       allow, so that no two boxes of a pair and a kind share a packet
//	kind   of a box: one port, a range of ports, a protocol, everything. They decide in this order
//	group  the pairs whose prefixes are inside of equally many others. Prefixes of one such depth share no
//	       address, so all boxes of a group that are of one shape are a set
//
// The most exact group decides first: the deepest destination, then the deepest source, then "mesh", then
// "outside". All rules allow, so that order does not change what passes, only what is counted where. There
// are as many sets as depths and shapes, which are few, however many rules there are.

// A zone is where a packet comes from, as far as a rule says so.
type zone int

const (
	fromPrefix zone = iota
	fromMesh
	outside
)

// A kind is what a box says of services, the most exact one first.
type kind int

const (
	onePort kind = iota
	somePorts
	oneProtocol
	everything
)

// A group is boxes that share no packet.
type group struct {
	depth, source int // how many prefixes are around those of its boxes
	zone          zone
	kind          kind
	shape         nft.Shape
	name          string // of the set
	boxes         []nft.Box
}

// A pair is from where to where; from is invalid for a zone.
type pair struct {
	from, to netip.Prefix
	zone     zone
}

// groups returns the boxes of all rules, in the order in which they decide.
func (s *AllowSettings) groups(f nft.Family) (all []group) {
	pairs := s.pairs(f)
	sources, destinations := make([]netip.Prefix, 0, len(pairs)), make([]netip.Prefix, 0, len(pairs))
	for i := range pairs {
		destinations = append(destinations, pairs[i].to)
		if pairs[i].zone == fromPrefix {
			sources = append(sources, pairs[i].from)
		}
	}
	around, within := depths(sources), depths(destinations)
	type key struct {
		zone          zone
		kind          kind
		depth, source int
		from, to      int // lengths of prefixes
	}
	index := map[key]int{}
	for i := range pairs {
		p := &pairs[i]
		k := key{zone: p.zone, depth: within[p.to], source: around[p.from], to: p.to.Bits()}
		if p.zone == fromPrefix {
			k.from = p.from.Bits()
		}
		p.each(func(of kind, b nft.Box) {
			k := k
			if k.kind = of; of == somePorts {
				k.from, k.to = 0, 0
			}
			i, ok := index[k]
			if !ok {
				i, index[k] = len(all), len(all)
				all = append(all, group{depth: k.depth, source: k.source, zone: k.zone, kind: of,
					shape: nft.Shape{Ranges: of == somePorts, Sources: p.zone == fromPrefix, FromBits: k.from, ToBits: k.to,
						Protocol: of <= oneProtocol, Port: of <= somePorts}})
			}
			all[i].boxes = append(all[i].boxes, b)
		})
	}
	slices.SortFunc(all, func(a, b group) int {
		return cmp.Or(cmp.Compare(b.depth, a.depth), cmp.Compare(a.zone, b.zone), cmp.Compare(b.source, a.source),
			cmp.Compare(a.kind, b.kind), cmp.Compare(b.shape.ToBits, a.shape.ToBits),
			cmp.Compare(b.shape.FromBits, a.shape.FromBits))
	})
	giveNames(all)
	return all
}

// portsOf matches packets to the ports that boxes of ranges have, from the first to the last; all packets for
// other kinds of boxes. Looking for a range costs ten times as much, and most packets go elsewhere.
func (g group) portsOf(answer bool) nft.Exprs {
	if g.kind != somePorts {
		return nil
	}
	first, last := anyPort.last, anyPort.first
	for i := range g.boxes {
		first, last = min(first, g.boxes[i].Ports[0]), max(last, g.boxes[i].Ports[1])
	}
	return nft.PortBetween(first, last, answer)
}

// giveNames gives each set a name that says what its boxes are: "from_24_to_32_port" has one port each, of
// sources with a prefix of 24 bits and destinations of 32 bits.
func giveNames(all []group) {
	taken := map[string]int{}
	for i := range all {
		g := &all[i]
		name := [...]string{"from", "mesh", "outside"}[g.zone]
		if g.zone == fromPrefix && g.kind != somePorts {
			name += fmt.Sprintf("_%d", g.shape.FromBits)
		}
		if g.kind != somePorts {
			name += fmt.Sprintf("_to_%d", g.shape.ToBits)
		}
		name += [...]string{"_port", "_ports", "_protocol", ""}[g.kind]
		if taken[name]++; taken[name] > 1 { // the same at another depth
			name += fmt.Sprintf("_%d", taken[name])
		}
		g.name = name
	}
}

// pairs returns what passes between each pair, in the order of the file.
func (s *AllowSettings) pairs(f nft.Family) (all []allowed) {
	all = make([]allowed, 0, len(s.Rules))
	index := make(map[pair]int, len(s.Rules))
	for i := range s.Rules {
		r := &s.Rules[i]
		services := boxesOf(f, r.Services)
		one := func(p pair) {
			at, ok := index[p]
			if !ok {
				at, index[p] = len(all), len(all)
				all = append(all, allowed{pair: p})
			}
			for _, s := range services {
				all[at].add(s, r.Name)
			}
		}
		sources := f.PrefixesOf(r.From)
		for _, to := range f.PrefixesOf(r.To) {
			for _, from := range sources {
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
	return all
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

// An allowed is services of a pair.
type allowed struct {
	pair
	all   string // the rule that allows what no other does; empty: none
	taken []protocol
}

// A protocol is what a pair allows of one.
type protocol struct {
	number uint8
	all    string  // the rule that allows the ports that no other does; empty: none
	ports  []named // in the order of their ports; none has a port of another
}

// A named is ports that a rule allows.
type named struct {
	ports
	rule string
}

// add adds the part of a service that no earlier rule has.
func (a *allowed) add(s service, rule string) {
	switch {
	case a.all != "":
		return
	case s.all:
		a.all = rule
		return
	}
	i := slices.IndexFunc(a.taken, func(p protocol) bool { return p.number == s.protocol })
	if i < 0 {
		i = len(a.taken)
		a.taken = append(a.taken, protocol{number: s.protocol})
	}
	switch p := &a.taken[i]; {
	case p.all != "":
	case s.ports == anyPort:
		p.all = rule
	default:
		p.ports = fill(p.ports, s.ports, rule)
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

// each calls do for each box of a pair.
func (a *allowed) each(do func(of kind, b nft.Box)) {
	one := func(of kind, number uint8, p ports, rule string) {
		do(of, nft.Box{From: a.from, To: a.to, Protocols: [2]uint8{number, number},
			Ports: [2]uint16{p.first, p.last}, Name: rule})
	}
	for _, p := range a.taken {
		for _, n := range p.ports {
			of := onePort
			if n.first != n.last {
				of = somePorts
			}
			one(of, p.number, n.ports, n.rule)
		}
		if p.all != "" {
			one(oneProtocol, p.number, anyPort, p.all)
		}
	}
	if a.all != "" {
		one(everything, 0, anyPort, a.all)
	}
}

// few is how many prefixes are compared one by one: more of them are faster in a set.
const few = 4

// places are prefixes of a family that rules compare addresses with.
type places struct {
	f        nft.Family
	name     string
	prefixes []netip.Prefix // merged
}

// set returns the set of the prefixes; none if they are compared one by one.
func (p places) set() []nft.Set {
	if len(p.prefixes) <= few {
		return nil
	}
	return []nft.Set{p.f.Prefixes(p.name, p.prefixes)}
}

// has returns what matches packets whose address is in the prefixes, each way for some of them: the source,
// or the destination.
func (p places) has(source bool) (all []nft.Exprs) {
	in, inside := p.f.DestinationIn, p.f.DestinationInside
	if source {
		in, inside = p.f.SourceIn, p.f.SourceInside
	}
	if len(p.prefixes) > few {
		return []nft.Exprs{in(p.name)}
	}
	for _, one := range p.prefixes {
		all = append(all, inside(one))
	}
	return all
}

// hasNot returns what matches packets whose source, or destination, is in none of the prefixes.
func (p places) hasNot(source bool) nft.Exprs {
	notIn, outside := p.f.DestinationNotIn, p.f.DestinationOutside
	if source {
		notIn, outside = p.f.SourceNotIn, p.f.SourceOutside
	}
	if len(p.prefixes) > few {
		return notIn(p.name)
	}
	return outside(p.prefixes)
}

// placesOf returns prefixes of a family, as few as have the same addresses.
func placesOf(f nft.Family, name string, ps []netip.Prefix) places {
	sorted := slices.SortedFunc(slices.Values(f.PrefixesOf(ps)), netip.Prefix.Compare)
	merged := []netip.Prefix{}
	for _, p := range sorted {
		if n := len(merged); n > 0 && merged[n-1].Contains(p.Addr()) {
			continue
		}
		merged = append(merged, p)
		for n := len(merged); n > 1 && areHalves(merged[n-2], merged[n-1]); n-- {
			merged[n-2] = netip.PrefixFrom(merged[n-2].Addr(), merged[n-2].Bits()-1)
			merged = merged[:n-1]
		}
	}
	return places{f, name, merged}
}

// areHalves tells whether two prefixes, in order, are what a shorter one consists of.
func areHalves(a, b netip.Prefix) bool {
	return a.Bits() == b.Bits() && a.Bits() > 0 && a != b &&
		netip.PrefixFrom(b.Addr(), b.Bits()-1).Masked().Addr() == a.Addr()
}
