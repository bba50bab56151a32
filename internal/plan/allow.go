package plan

import (
	"fmt"
	"net/netip"
	"slices"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/filter"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/probe"
)

// This file says who may reach what is behind this node, and which rule decides about a packet.

// planAllow hands on the rules about destinations behind this node.
func (p *Plan) planAllow() {
	c := p.Config
	if len(c.Allow) == 0 {
		return
	}
	s := &filter.AllowSettings{Pods: p.Self.Subnets, Links: interfacesOf(c), TUN: p.Link.Addresses,
		Probe: []byte(probe.Magic), ProbePort: p.ProbePort()}
	at := peopleOf(c)
	own, zones := p.Self.Reach(), false
	for _, a := range c.Allow {
		r := filter.AllowRule{Name: a.Name}
		for _, to := range a.To {
			r.To = append(r.To, shared(at.prefixes(to), own)...)
		}
		if len(r.To) == 0 {
			continue
		}
		for _, from := range a.From {
			switch from.Name {
			case config.WholeMesh:
				r.Mesh, zones = true, true
			case config.Outside:
				r.Outside, zones = true, true
			default:
				r.From = append(r.From, at.prefixes(from)...)
			}
		}
		for _, of := range a.Services {
			numbers := config.Protocols[of.Protocol]
			r.Services = append(r.Services, filter.Service{Protocol4: numbers[0], Protocol6: numbers[1],
				First: of.First, Last: of.Last})
		}
		s.Rules, s.Closed = append(s.Rules, r), append(s.Closed, r.To...)
	}
	if len(s.Rules) == 0 {
		return
	}
	if zones {
		s.Mesh = at.everybody
	}
	p.Rules.Allow = s
}

// people are the parties of rules.
type people struct {
	nodes     map[string][]netip.Prefix
	everybody []netip.Prefix // behind all nodes
}

func peopleOf(c *config.Config) people {
	all := people{nodes: make(map[string][]netip.Prefix, len(c.Nodes))}
	for _, n := range c.Nodes {
		all.nodes[n.Name] = n.Reach()
		all.everybody = append(all.everybody, all.nodes[n.Name]...)
	}
	slices.SortFunc(all.everybody, netip.Prefix.Compare)
	all.everybody = slices.Compact(all.everybody) // several nodes may have a route
	return all
}

// prefixes returns what a party stands for; nothing for config.Outside, which is all the rest.
func (p people) prefixes(of config.Party) []netip.Prefix {
	switch of.Name {
	case "":
		return []netip.Prefix{of.Prefix}
	case config.WholeMesh:
		return p.everybody
	}
	return p.nodes[of.Name]
}

// shared returns what some prefixes have in common with others. A node has few of these.
func shared(some, others []netip.Prefix) (all []netip.Prefix) {
	for _, o := range others {
		for _, p := range some {
			switch {
			case !p.Overlaps(o):
			case p.Bits() < o.Bits():
				all = append(all, o)
			default:
				all = append(all, p)
			}
		}
	}
	return all
}

// A Decision is what the rules say of packets that open a connection.
type Decision struct {
	Allowed bool
	Rule    string // the one that allows it; empty: no rule names the destination, or none allows it
	Named   bool   // a rule names the destination
	Local   string // the node that has both ends: no rule is about packets that stay on a host
	Outside bool   // no node has the destination: no rule is about it
	TUN     bool   // it is the address of a node's TUN: no rule is about it
	// About are the rules that name the destination, in the order of the file, and whether they name the source.
	About []About
}

// An About is a rule about a destination.
type About struct {
	config.Allow
	Source bool // it names the source, too
}

// String returns the rule for people.
func (a About) String() string { return fmt.Sprintf("%q: %s", a.Name, allowWords(a.Allow)) }

// Decide says what the rules of a file say of a packet between two addresses of a family. The most exact rule
// decides: by the longest prefix of to, then by that of from, "mesh" before "outside"; of equal ones, the
// first in the file. The zero Service stands for any packet that some rule allows.
func Decide(c *config.Config, from, to netip.Addr, s config.Service) (d Decision) {
	at := peopleOf(c)
	inMesh := holds(at.everybody, from) >= 0
	behind := []netip.Prefix{}
	for _, n := range c.Nodes {
		if holds(n.Reach(), to) < 0 {
			continue
		}
		behind = append(behind, n.Reach()...)
		d.TUN = d.TUN || to == (mesh.Peer{Subnets: n.Subnets}).TUNAddress(to.Is6())
		if holds(n.Subnets, from) >= 0 {
			d.Local, d.Allowed = n.Name, true
		}
	}
	if d.Outside = len(behind) == 0; d.Outside || d.Local != "" || d.TUN {
		d.Allowed = true
		return d
	}
	var best [3]int // bits of to, zone, bits of from
	for _, a := range c.Allow {
		rank := [3]int{-1, -1, -1}
		for _, party := range a.To {
			rank[0] = max(rank[0], holds(shared(at.prefixes(party), behind), to))
		}
		if rank[0] < 0 {
			continue
		}
		d.Named = true
		for _, party := range a.From {
			bits := holds(at.prefixes(party), from)
			switch {
			case party.Name == config.WholeMesh && inMesh:
				rank[1] = max(rank[1], 1)
			case party.Name == config.Outside && !inMesh:
				rank[1] = max(rank[1], 0)
			case party.Name != config.WholeMesh && bits >= 0:
				rank[1], rank[2] = 2, max(rank[2], bits)
			}
		}
		d.About = append(d.About, About{a, rank[1] >= 0})
		if rank[1] >= 0 && allows(a, s) && (!d.Allowed || slices.Compare(rank[:], best[:]) > 0) {
			d.Allowed, d.Rule, best = true, a.Name, rank
		}
	}
	d.Allowed = d.Allowed || !d.Named
	return d
}

// holds returns the length of the longest prefix that contains an address; -1 if none does.
func holds(ps []netip.Prefix, ip netip.Addr) int {
	bits := -1
	for _, p := range ps {
		if p.Contains(ip) {
			bits = max(bits, p.Bits())
		}
	}
	return bits
}

// allows tells whether a rule is about a service.
func allows(a config.Allow, s config.Service) bool {
	return len(a.Services) == 0 || s == (config.Service{}) || slices.ContainsFunc(a.Services,
		func(o config.Service) bool { return o.Protocol == s.Protocol && o.First <= s.First && s.Last <= o.Last })
}

// allow compares the rules of two files, by their names.
func (d *differences) allow(old, next []config.Allow) {
	before, after := make(map[string]config.Allow, len(old)), make(map[string]bool, len(next))
	for _, a := range old {
		before[a.Name] = a
	}
	for _, a := range next {
		after[a.Name] = true
		was, known := before[a.Name]
		switch {
		case !known:
			d.list = append(d.list, mesh.Change{Op: mesh.Added, Kind: mesh.ChangedAllow, Subject: a.Name,
				New: allowWords(a)})
		case !slices.Equal(was.From, a.From) || !slices.Equal(was.To, a.To) ||
			!slices.Equal(was.Services, a.Services):
			d.list = append(d.list, mesh.Change{Op: mesh.Replaced, Kind: mesh.ChangedAllow, Subject: a.Name,
				Old: allowWords(was), New: allowWords(a)})
		}
	}
	for _, a := range old {
		if !after[a.Name] {
			d.list = append(d.list, mesh.Change{Op: mesh.Removed, Kind: mesh.ChangedAllow, Subject: a.Name,
				Old: allowWords(a)})
		}
	}
}

// allowWords writes a rule for people.
func allowWords(a config.Allow) string {
	services := "everything"
	if len(a.Services) > 0 {
		services = list(a.Services)
	}
	return fmt.Sprintf("from %s to %s: %s", few(a.From), few(a.To), services)
}

// few writes the first parties of a rule, and how many there are besides.
func few(all []config.Party) string {
	const enough = 8
	if more := len(all) - enough; more > 0 {
		return fmt.Sprintf("%s and %d more", list(all[:enough]), more)
	}
	return list(all)
}
