package filter

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"example.org/meshd/internal/nft"
)

// ClampName is the name of the table about the size of TCP segments, which is of both families.
const ClampName = "meshd-mss"

// A Clamp lowers the maximum segment size that TCP connections through the mesh begin with to what fits the
// path of their peer. Without it, each connection over a narrow path would lose its first full segment and
// wait for ICMP, which firewalls of pods and hosts may drop.
//
//	postrouting  to the mesh      by the peer behind the destination
//	prerouting   from the mesh    by the peer behind the source: its host may not clamp
//
// Both run at priority mangle. Its methods may be called from any goroutine.
type Clamp struct{ rules *nft.Keeper }

// ClampSettings is what fits which path.
type ClampSettings struct {
	Interfaces []string // by which packets come from the mesh and leave to it
	MTU        int      // of the interfaces, bytes
	// Narrow are the prefixes behind peers whose path carries less than the interfaces, by what it carries.
	Narrow map[int][]netip.Prefix
}

// NewClamp returns a Clamp. It does not touch the kernel.
func NewClamp() *Clamp { return &Clamp{nft.NewKeeper(nft.Both(ClampName))} }

// Set makes the rules match s, in one transaction. If they match already, Set changes nothing and
// changed is false. It needs CAP_NET_ADMIN.
func (c *Clamp) Set(s ClampSettings) (changed bool, err error) {
	changed, err = c.rules.Set([]nft.Table{s.table()})
	if err != nil {
		return false, fmt.Errorf("set the largest TCP segments: %w", err)
	}
	return changed, nil
}

// table returns the wanted table. The narrowest paths come first, though any order would do: each rule
// lowers, and none raises.
func (s ClampSettings) table() nft.Table {
	t := nft.Table{ID: nft.Both(ClampName), Sets: []nft.Set{nft.Interfaces(setMesh, s.Interfaces)}}
	out := nft.Chain{Name: "postrouting", Type: nft.Filter, Hook: nft.Postrouting, Priority: nft.Mangle}
	in := nft.Chain{Name: "prerouting", Type: nft.Filter, Hook: nft.Prerouting, Priority: nft.Mangle}
	// All packets of this host come here. Nearly all end at the first rules, which cost less than a look into
	// a set: segments that open no connection, and what is none of TCP. Of that the first rule lets some pass,
	// by whatever stands in the place of flags.
	early := []nft.Rule{{Name: "goes on", Exprs: nft.Join(nft.GoesOn(), nft.Pass())},
		{Name: "not TCP", Exprs: nft.Join(nft.NotTCP(), nft.Pass())}}
	out.Rules = append(slices.Clone(early),
		nft.Rule{Name: "other", Exprs: nft.Join(nft.ToInterfaceNotIn(setMesh), nft.Pass())})
	in.Rules = append(early, nft.Rule{Name: "other", Exprs: nft.Join(nft.FromInterfaceNotIn(setMesh),
		nft.Pass())})
	narrow := grouped(s.Narrow)
	for _, f := range nft.Families {
		f = f.InBoth()
		for _, mtu := range slices.Sorted(maps.Keys(narrow)) {
			if len(f.PrefixesOf(narrow[mtu])) == 0 {
				continue
			}
			set := fmt.Sprintf("mtu%dv", mtu)
			t.Sets = append(t.Sets, f.Prefixes(set, narrow[mtu]))
			out.Rules = append(out.Rules, rule(f, mtu, f.DestinationIn(set)))
			in.Rules = append(in.Rules, rule(f, mtu, f.SourceIn(set)))
		}
		out.Rules = append(out.Rules, rule(f, s.MTU, nil))
		in.Rules = append(in.Rules, rule(f, s.MTU, nil))
	}
	t.Chains = []nft.Chain{out, in}
	return t
}

// setMesh is the set of the interfaces of the mesh.
const setMesh = "mesh"

// rule lowers the segments of packets of one family.
func rule(f nft.Family, mtu int, which nft.Exprs) nft.Rule {
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
