package filter

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"example.org/meshd/internal/nft"
)

// The maximum segment size that TCP connections through the mesh begin with is lowered to what fits the path
// of their peer. Without that, each connection over a narrow path would lose its first full segment and wait
// for ICMP, which firewalls of pods and hosts may drop.
//
//	to the mesh    by the peer behind the destination, behind all other chains (Last)
//	from the mesh  by the peer behind the source, in the chains of the Guard: its host may not clamp
//
// All packets of a host pass these chains, and pay for each chain, so there are none for this alone.

// ClampSettings is what fits which path.
type ClampSettings struct {
	Interfaces []string // by which packets come from the mesh and leave to it
	MTU        int      // of the interfaces, bytes; 0: nothing is lowered
	// Narrow are the prefixes behind peers whose path carries less than the interfaces, by what it carries.
	Narrow map[int][]netip.Prefix
}

// setMesh is the set of the interfaces of the mesh.
const setMesh = "mesh"

// goesOn has segments that open no connection pass, which nearly all packets are.
func goesOn() nft.Rule { return nft.Rule{Name: "goes on", Exprs: nft.Join(nft.GoesOn(), nft.Pass())} }

// addTo adds to a table the chain of a name that lowers segments, with its sets, unless nothing is lowered.
// The peer is the one behind the address that in looks for in a set. It returns what base chains have to
// begin with: the rules by which segments come to that chain, if they match which as well.
func (s ClampSettings) addTo(t *nft.Table, name string, in func(nft.Family, string) nft.Exprs,
	which nft.Exprs) []nft.Rule {
	if s.MTU == 0 {
		return []nft.Rule{goesOn()}
	}
	c := nft.Chain{Name: name}
	t.Sets = append(t.Sets, nft.Interfaces(setMesh, s.Interfaces))
	// The narrowest paths come first, though any order would do: each rule lowers, and none raises.
	narrow := grouped(s.Narrow)
	for _, f := range nft.Families {
		f = f.InBoth()
		for _, mtu := range slices.Sorted(maps.Keys(narrow)) {
			if len(f.PrefixesOf(narrow[mtu])) == 0 {
				continue
			}
			set := fmt.Sprintf("mtu%dv", mtu)
			t.Sets = append(t.Sets, f.Prefixes(set, narrow[mtu]))
			c.Rules = append(c.Rules, lowered(f, mtu, in(f, set)))
		}
		c.Rules = append(c.Rules, lowered(f, s.MTU, nil))
	}
	t.Chains = append(t.Chains, c)
	return []nft.Rule{goesOn(), {Name: "opens", Exprs: nft.Join(nft.TCP(), which, nft.Goto(name))}}
}

// lowered lowers the segments of packets of one family.
func lowered(f nft.Family, mtu int, which nft.Exprs) nft.Rule {
	return nft.Rule{Name: fmt.Sprintf("path of %d bytes", mtu),
		Exprs: nft.Join(f.Guard(), nft.Opens(), which, f.LowerMSS(mtu))}
}

// maxGroups bounds the rules, which each new connection passes.
const maxGroups = 32

// grouped returns the narrow paths in few groups: where they have many sizes, each size is rounded down.
func grouped(narrow map[int][]netip.Prefix) map[int][]netip.Prefix {
	groups := maps.Clone(narrow)
	for step := 4; len(groups) > maxGroups; step *= 4 {
		groups = map[int][]netip.Prefix{}
		for mtu, prefixes := range narrow {
			groups[mtu-mtu%step] = append(groups[mtu-mtu%step], prefixes...)
		}
	}
	return groups
}
