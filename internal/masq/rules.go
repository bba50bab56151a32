package masq

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The rules of one family, as pure data. Their order is their meaning:
//
//	mesh      set: everything that the mesh carries, pods and networks behind nodes
//	local     set: the part of it that is behind this node
//	pods      set: the part of that which are pods and not a network of its own
//	exclude   set: outside networks that know the way back to pods
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
//	outside-to-remote-pod    the TUN's address, so that answers come back through the tunnel

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

// Names of the prefix sets.
const (
	setMesh    = "mesh"
	setLocal   = "local"
	setPods    = "pods"
	setExclude = "exclude"
)

// kubeProxyMark is the packet mark by which kube-proxy's rules choose what they
// masquerade (--iptables-masquerade-bit 14).
const kubeProxyMark = 0x4000

// A rule is one line of the chain.
type rule struct {
	name  string
	exprs []expr.Any
}

// family is what differs between IPv4 and IPv6.
type family struct {
	table     nftables.TableFamily
	v6        bool
	key       nftables.SetDatatype
	saddr     uint32 // offset of the source address in the IP header, bytes
	daddr     uint32
	length    uint32 // of an address, bytes
	multicast expr.Any
	group     []byte

	// In the table of both families only:
	guard  []expr.Any // matches packets of this one
	suffix string     // of its sets' names
}

var families = []family{
	{
		table: nftables.TableFamilyIPv4, key: nftables.TypeIPAddr, saddr: 12, daddr: 16, length: 4,
		// [ bitwise reg 1 = ( reg 1 & 0x000000f0 ) ^ 0x00000000 ]
		multicast: &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: []byte{0xf0, 0, 0, 0}, Xor: make([]byte, 4)},
		group:     []byte{224, 0, 0, 0},
	},
	{
		table: nftables.TableFamilyIPv6, v6: true, key: nftables.TypeIP6Addr, saddr: 8, daddr: 24, length: 16,
		// [ bitwise reg 1 = ( reg 1 & 0x000000ff 0x00000000 0x00000000 0x00000000 ) ^ 0x00000000 ... ]
		multicast: &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 16, Mask: append([]byte{0xff}, make([]byte, 15)...), Xor: make([]byte, 16)},
		group:     append([]byte{0xff}, make([]byte, 15)...),
	},
}

// rules returns the chain of one family.
func (f family) rules(fullyRandom bool) []rule {
	return []rule{
		{KubeProxyMark, f.join(markSet(kubeProxyMark), verdict(expr.VerdictReturn))},
		{MeshToMesh, f.join(f.in(f.saddr, setLocal), f.in(f.daddr, setMesh), f.notIn(f.daddr, setLocal), f.keepSource())},
		{MeshToMesh, f.join(f.in(f.saddr, setPods), f.in(f.daddr, setLocal), f.notIn(f.daddr, setPods), f.keepSource())},
		{MeshToMesh, f.join(f.in(f.saddr, setMesh), f.in(f.daddr, setMesh), verdict(expr.VerdictReturn))},
		{OutsideToLocalPod, f.join(f.in(f.daddr, setLocal), verdict(expr.VerdictReturn))},
		{Excluded, f.join(f.in(f.saddr, setPods), f.in(f.daddr, setExclude), f.keepSource())},
		{PodsToOutside, f.join(f.in(f.saddr, setPods), f.notMulticast(), masquerade(fullyRandom))},
		{OutsideToRemotePod, f.join(f.in(f.daddr, setMesh), masquerade(fullyRandom))},
	}
}

// in matches packets whose address at an offset of the IP header is in a set.
func (f family) in(offset uint32, set string) []expr.Any {
	return []expr.Any{
		// [ payload load 4b @ network header + 12 => reg 1 ]
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.length},
		// [ lookup reg 1 set mesh ]
		&expr.Lookup{SourceRegister: 1, SetName: set + f.suffix},
	}
}

// notIn matches packets whose address is not in a set.
func (f family) notIn(offset uint32, set string) []expr.Any {
	exprs := f.in(offset, set)
	// [ lookup reg 1 set local 0x1 ]
	exprs[len(exprs)-1].(*expr.Lookup).Invert = true
	return exprs
}

// keepSource translates a source address to itself. That is a decision, where return is
// none: a connection is translated once, so the masquerading of Docker and Podman, whose
// chains come later, does not hide a pod from the pods of other hosts any more.
func (f family) keepSource() []expr.Any {
	return []expr.Any{
		// [ counter pkts 0 bytes 0 ]
		&expr.Counter{},
		// [ payload load 4b @ network header + 12 => reg 1 ]
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.saddr, Len: f.length},
		// [ nat snat ip addr_min reg 1 ]
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: f.protocol(), RegAddrMin: 1},
	}
}

// protocol returns the family of the addresses, also in the table of both.
func (f family) protocol() uint32 {
	if f.v6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

func (f family) notMulticast() []expr.Any {
	return []expr.Any{
		// [ payload load 4b @ network header + 16 => reg 1 ]
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.daddr, Len: f.length},
		f.multicast,
		// [ cmp neq reg 1 0x000000e0 ]
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: f.group},
	}
}

// markSet matches packets whose mark has a bit set.
func markSet(bit uint32) []expr.Any {
	mask := binaryutil.NativeEndian.PutUint32(bit)
	return []expr.Any{
		// [ meta load mark => reg 1 ]
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		// [ bitwise reg 1 = ( reg 1 & 0x00004000 ) ^ 0x00000000 ]
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		// [ cmp eq reg 1 0x00004000 ]
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: mask},
	}
}

// runningConnections matches packets of connections whose source is translated
// already, and does nothing with them: its use is that conntrack stays on.
func runningConnections() []expr.Any {
	sourceNAT := binaryutil.NativeEndian.PutUint32(1 << 4) // IPS_SRC_NAT
	return join([]expr.Any{
		// [ ct load status => reg 1 ]
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		// [ bitwise reg 1 = ( reg 1 & 0x00000010 ) ^ 0x00000000 ]
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: sourceNAT, Xor: make([]byte, 4)},
		// [ cmp neq reg 1 0x00000000 ]
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}, verdict(expr.VerdictReturn))
}

func verdict(kind expr.VerdictKind) []expr.Any {
	return []expr.Any{
		// [ counter pkts 0 bytes 0 ]
		&expr.Counter{},
		// [ immediate reg 0 return ]
		&expr.Verdict{Kind: kind},
	}
}

func masquerade(fullyRandom bool) []expr.Any {
	return []expr.Any{
		// [ counter pkts 0 bytes 0 ]
		&expr.Counter{},
		// [ masq flags 0x10 ], the flag being NF_NAT_RANGE_PROTO_RANDOM_FULLY
		&expr.Masq{FullyRandom: fullyRandom},
	}
}

// join puts the parts of a rule of this family together.
func (f family) join(parts ...[]expr.Any) []expr.Any {
	return append(slices.Clone(f.guard), join(parts...)...)
}

func join(parts ...[]expr.Any) (all []expr.Any) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// prefixesOf returns the prefixes of one family.
func (f family) prefixesOf(ps []netip.Prefix) (own []netip.Prefix) {
	for _, p := range ps {
		if p.Addr().Is6() == f.v6 {
			own = append(own, p)
		}
	}
	return own
}

// chain returns the base chain of a table. Whoever translates first decides, and return
// leaves the decision to the rest: it comes just before the others, iptables' among them.
func (f family) chain(table *nftables.Table) *nftables.Chain {
	return &nftables.Chain{
		Table: table, Name: chainName, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityNATSource - 1),
	}
}

// tableName is the name of our tables, one in each family.
const (
	tableName = "meshd"
	chainName = "postrouting"
)

// maxElements keeps a message with set elements below the 64 KiB that a netlink
// attribute can hold.
const maxElements = 500

// Explain names the rule that a pod's packet of this host to an address meets, or
// says "multicast", which meets none.
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
