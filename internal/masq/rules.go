package masq

import (
	"net/netip"
	"slices"

	"example.org/meshd/internal/nft"
)

// This file has the rules of one family as pure data. The first rule that matches decides, so
// their order matters:
//
//	mesh       set: everything that the mesh carries, pods and networks behind nodes
//	local      set: the part of mesh that is behind this node
//	pods       set: the part of local that is pods, without further networks of the node
//	pod-links  set: the interfaces by which pods of this node send
//	links      set: meshd's interfaces
//	exclude    set: outside networks that have a route back to pods
//
//	kube-proxy-mark          kube-proxy asks for the packet to be masqueraded. Towards another node it
//	                         gets the TUN's address, which masquerading would take from the interface
//	kube-proxy-mark          elsewhere kube-proxy does it itself: do not do it twice
//	mesh-to-mesh             pods of other hosts see the sender's own address, whatever other
//	                         programs masquerade
//	mesh-to-mesh             so do networks behind this node
//	mesh-to-mesh             within this node other programs may masquerade: a pod that asks its
//	                         own published port needs that
//	outside-to-local-pod     clients keep their address
//	excluded                 the pod keeps its address
//	pods-to-outside          gets the host's address, to which answers can return
//	outside-to-remote-pod    gets the TUN's address, so that answers return through the tunnel.
//	                         Not for a pod of this node that sends with a foreign address: it
//	                         would arrive as this host. The engine drops it (foreign_source)
//	outside-to-remote-pod    what leaves by another interface, or without such an address, gets that
//	                         of the interface
//
// The TUN's address is written into its rules: masquerading would take the same from the interface, and end
// each connection whose packets leave by the other one of meshd's interfaces later on (nf_nat_oif_changed in
// include/net/netfilter/nf_nat.h).

// Names of the rules in their comments, in status and in metrics.
const (
	KubeProxyMark      = "kube-proxy-mark"
	MeshToMesh         = "mesh-to-mesh"
	OutsideToLocalPod  = "outside-to-local-pod"
	Excluded           = "excluded"
	PodsToOutside      = "pods-to-outside"
	OutsideToRemotePod = "outside-to-remote-pod"
)

// RuleNames lists the names in the order of the rules, each once.
func RuleNames() []string {
	return []string{KubeProxyMark, MeshToMesh, OutsideToLocalPod, Excluded, PodsToOutside, OutsideToRemotePod}
}

// Names of the sets.
const (
	setMesh     = "mesh"
	setLocal    = "local"
	setPods     = "pods"
	setPodLinks = "pod-links"
	setLinks    = "links"
	setExclude  = "exclude"
)

// kubeProxyMark is the bit of the packet mark by which kube-proxy's rules choose packets to
// masquerade (--iptables-masquerade-bit, 14 by default).
const kubeProxyMark = 0x4000

// TableName is the name of the tables, one in each family, and of the standby table of both.
const TableName = "meshd"

// tables returns the wanted tables: one for each family that the mesh carries.
func (s Settings) tables() (wanted []nft.Table) {
	for _, f := range nft.Families {
		if len(f.PrefixesOf(s.Mesh)) > 0 {
			wanted = append(wanted, nft.Table{
				ID: f.Table(TableName), Sets: s.sets(f), Chains: []nft.Chain{chain(rules(f, s))},
			})
		}
	}
	return wanted
}

// standbyTable returns one table with the rules of both families. Its chain comes after the
// ordinary ones, so it decides only if they are missing.
func (s Settings) standbyTable() nft.Table {
	table := nft.Table{ID: nft.Both(TableName)}
	c := chain(nil)
	c.Priority = nft.SourceNAT + 1
	for _, f := range nft.Families {
		if f = f.InBoth(); len(f.PrefixesOf(s.Mesh)) > 0 {
			table.Sets = append(table.Sets, s.prefixSets(f)...)
			c.Rules = append(c.Rules, rules(f, s)...)
		}
	}
	table.Sets = append(table.Sets, s.interfaceSets()...)
	table.Chains = []nft.Chain{c}
	return table
}

// rules returns the rules of one family, for a table of that family or of both.
func rules(f nft.Family, s Settings) []nft.Rule {
	rule := func(name string, parts ...nft.Exprs) nft.Rule {
		return nft.Rule{Name: name, Exprs: append(f.Guard(), nft.Join(parts...)...)}
	}
	from, to, notTo := f.SourceIn, f.DestinationIn, f.DestinationNotIn
	masquerade := nft.Masquerade(s.FullyRandom)
	var marked, outside []nft.Rule // from the TUN's address
	for _, ip := range s.Sources {
		if ip.Is6() == f.V6() {
			becomes := nft.Join(nft.ToInterfaceIn(setLinks), f.SourceBecomes(ip, s.FullyRandom))
			marked = append(marked, rule(KubeProxyMark, nft.MarkHas(kubeProxyMark), to(setMesh), becomes))
			outside = append(outside, rule(OutsideToRemotePod, to(setMesh), nft.FromInterfaceNotIn(setPodLinks),
				becomes))
		}
	}
	all := append(marked,
		rule(KubeProxyMark, nft.MarkHas(kubeProxyMark), nft.Return()),
		rule(MeshToMesh, from(setLocal), to(setMesh), notTo(setLocal), f.KeepSource()),
		rule(MeshToMesh, from(setPods), to(setLocal), notTo(setPods), f.KeepSource()),
		rule(MeshToMesh, from(setMesh), to(setMesh), nft.Return()),
		rule(OutsideToLocalPod, to(setLocal), nft.Return()),
		rule(Excluded, from(setPods), to(setExclude), f.KeepSource()),
		rule(PodsToOutside, from(setPods), f.NotMulticast(), masquerade))
	all = append(all, outside...)
	return append(all, rule(OutsideToRemotePod, to(setMesh), nft.FromInterfaceNotIn(setPodLinks), masquerade))
}

// sets returns the sets that the rules of one family use.
func (s Settings) sets(f nft.Family) []nft.Set {
	return append(s.prefixSets(f), s.interfaceSets()...)
}

// interfaceSets returns the sets that the families share.
func (s Settings) interfaceSets() []nft.Set {
	return []nft.Set{nft.Interfaces(setPodLinks, s.PodLinks), nft.Interfaces(setLinks, s.Links)}
}

// prefixSets returns the sets that differ between the families.
func (s Settings) prefixSets(f nft.Family) []nft.Set {
	return []nft.Set{
		f.Prefixes(setMesh, s.Mesh), f.Prefixes(setLocal, s.Local), f.Prefixes(setPods, s.Pods),
		f.Prefixes(setExclude, s.Exclude),
	}
}

// chain returns the base chain. The kernel translates a connection once, and the first chain
// decides, so this one comes right before those of other programs, iptables' included. Return
// leaves the decision to them.
func chain(rules []nft.Rule) nft.Chain {
	return nft.Chain{
		Name: "postrouting", Type: nft.NAT, Hook: nft.Postrouting, Priority: nft.SourceNAT - 1, Rules: rules,
	}
}

// runningConnections returns a table with one rule that matches packets of translated connections
// and does nothing with them. The rule keeps connection tracking and translation switched on.
func runningConnections(id nft.ID) nft.Table {
	exprs := nft.Join(nft.SourceTranslated(), nft.Return())
	return nft.Table{ID: id, Chains: []nft.Chain{chain([]nft.Rule{{Name: "running-connections", Exprs: exprs}})}}
}

// Explain returns the name of the rule that matches packets from a pod of this host to an address.
// It is "multicast" if no rule does.
func Explain(s Settings, to netip.Addr) string {
	in := func(prefixes []netip.Prefix) bool {
		return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(to) })
	}
	switch {
	case in(s.Mesh):
		return MeshToMesh
	case in(s.Exclude):
		return Excluded
	case to.IsMulticast():
		return "multicast"
	}
	return PodsToOutside
}
