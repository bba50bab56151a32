package masq

import (
	"net/netip"
	"slices"

	"example.org/meshd/internal/nft"
)

// The rules of one family, as pure data. Their order is their meaning:
//
//	mesh       set: everything that the mesh carries, pods and networks behind nodes
//	local      set: the part of it that is behind this node
//	pods       set: the part of that which are pods and not a network of its own
//	pod-links  set: the interfaces that pods of this node send by
//	exclude    set: outside networks that know the way back to pods
//
//	kube-proxy-mark          marked for masquerading elsewhere: not twice
//	mesh-to-mesh             pods see those of other hosts with their addresses, whoever
//	                         else masquerades
//	mesh-to-mesh             so do networks behind this node
//	mesh-to-mesh             and pods of this node, unless somebody masquerades: a published
//	                         port that its own pod asks needs that
//	outside-to-local-pod     clients keep their address
//	excluded                 the pod keeps its address
//	pods-to-outside          the host's address, so that answers find back
//	outside-to-remote-pod    the TUN's address, so that answers come back through the tunnel.
//	                         Not for a pod of this node that sends with a foreign address: it
//	                         would arrive as this host. The engine drops it (foreign_source)

// Names of the rules, as they stand in the rules' comments, status and metrics.
const (
	KubeProxyMark      = "kube-proxy-mark"
	MeshToMesh         = "mesh-to-mesh"
	OutsideToLocalPod  = "outside-to-local-pod"
	Excluded           = "excluded"
	PodsToOutside      = "pods-to-outside"
	OutsideToRemotePod = "outside-to-remote-pod"
)

// RuleNames lists the names in the order of the rules. Rules may share one.
func RuleNames() []string {
	return []string{KubeProxyMark, MeshToMesh, OutsideToLocalPod, Excluded, PodsToOutside, OutsideToRemotePod}
}

// Names of the sets.
const (
	setMesh     = "mesh"
	setLocal    = "local"
	setPods     = "pods"
	setPodLinks = "pod-links"
	setExclude  = "exclude"
)

// kubeProxyMark is the packet mark by which kube-proxy's rules choose what they masquerade
// (--iptables-masquerade-bit 14).
const kubeProxyMark = 0x4000

// TableName is the name of our tables, one in each family.
const TableName = "meshd"

// rules returns the chain of one family.
func rules(f nft.Family, s Settings) []nft.Rule {
	rule := func(name string, parts ...nft.Exprs) nft.Rule {
		return nft.Rule{Name: name, Exprs: append(f.Guard(), nft.Join(parts...)...)}
	}
	return []nft.Rule{
		rule(KubeProxyMark, nft.MarkHas(kubeProxyMark), nft.Return()),
		rule(MeshToMesh, f.SourceIn(setLocal), f.DestinationIn(setMesh), f.DestinationNotIn(setLocal), f.KeepSource()),
		rule(MeshToMesh, f.SourceIn(setPods), f.DestinationIn(setLocal), f.DestinationNotIn(setPods), f.KeepSource()),
		rule(MeshToMesh, f.SourceIn(setMesh), f.DestinationIn(setMesh), nft.Return()),
		rule(OutsideToLocalPod, f.DestinationIn(setLocal), nft.Return()),
		rule(Excluded, f.SourceIn(setPods), f.DestinationIn(setExclude), f.KeepSource()),
		rule(PodsToOutside, f.SourceIn(setPods), f.NotMulticast(), nft.Masquerade(s.FullyRandom)),
		rule(OutsideToRemotePod, f.DestinationIn(setMesh), nft.FromInterfaceNotIn(setPodLinks), nft.Masquerade(s.FullyRandom)),
	}
}

// sets returns the sets of the rules of one family.
func (s Settings) sets(f nft.Family) []nft.Set {
	return append(s.prefixSets(f), nft.Interfaces(setPodLinks, s.PodLinks))
}

func (s Settings) prefixSets(f nft.Family) []nft.Set {
	return []nft.Set{
		f.Prefixes(setMesh, s.Mesh), f.Prefixes(setLocal, s.Local), f.Prefixes(setPods, s.Pods), f.Prefixes(setExclude, s.Exclude),
	}
}

// chain is the base chain. Whoever translates first decides, and return leaves the decision to the
// rest: it comes just before the others, iptables' among them.
func chain(rules []nft.Rule) nft.Chain {
	return nft.Chain{Name: "postrouting", Type: nft.NAT, Hook: nft.Postrouting, Priority: nft.SourceNAT - 1, Rules: rules}
}

// runningConnections is a table with a rule that matches packets of connections whose source is
// translated already, and does nothing with them: its use is that conntrack stays on.
func runningConnections(id nft.ID) nft.Table {
	exprs := nft.Join(nft.SourceTranslated(), nft.Return())
	return nft.Table{ID: id, Chains: []nft.Chain{chain([]nft.Rule{{Name: "running-connections", Exprs: exprs}})}}
}

// Explain names the rule that a pod's packet of this host to an address meets, or says "multicast",
// which meets none.
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
