package nft

import (
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// This file has the words that rules are made of. The line above each expression is what
// `nft --debug=netlink` prints for it. A rule is evaluated from left to right: each word
// loads something into a register, compares it, and ends the rule if it does not match.

// SourceIn matches packets whose source address is in a set.
func (f Family) SourceIn(set string) Exprs { return f.in(f.saddr, set, false) }

// SourceNotIn matches packets whose source address is not in a set.
func (f Family) SourceNotIn(set string) Exprs { return f.in(f.saddr, set, true) }

// DestinationIn matches packets whose destination address is in a set.
func (f Family) DestinationIn(set string) Exprs { return f.in(f.daddr, set, false) }

// DestinationNotIn matches packets whose destination address is not in a set.
func (f Family) DestinationNotIn(set string) Exprs { return f.in(f.daddr, set, true) }

// in looks up the address at an offset of the IP header in a set.
func (f Family) in(offset uint32, set string, invert bool) Exprs {
	return Exprs{
		// [ payload load 4b @ network header + 12 => reg 1 ]
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.length},
		// [ lookup reg 1 set mesh ], with 0x1 at the end if inverted
		&expr.Lookup{SourceRegister: 1, SetName: set + f.Suffix(), Invert: invert},
	}
}

// EndpointIn matches UDP packets whose destination address and port are in a set of Endpoints.
// The key of the set is both together, so the port goes into the register behind the address.
func (f Family) EndpointIn(set string) Exprs {
	port := uint32(unix.NFT_REG32_01) // behind an address of 4 bytes
	if f.v6 {
		port = unix.NFT_REG_2 // behind an address of 16 bytes
	}
	return Exprs{
		// [ payload load 4b @ network header + 16 => reg 1 ]
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.daddr, Len: f.length},
		// [ payload load 2b @ transport header + 2 => reg 9 ]
		&expr.Payload{DestRegister: port, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		// [ lookup reg 1 set nodes4 ]
		&expr.Lookup{SourceRegister: 1, SetName: set + f.Suffix()},
	}
}

// SourceInside matches packets whose source address is in a prefix, in the form that
// iptables-nft uses for -s.
func (f Family) SourceInside(p netip.Prefix) Exprs { return f.inside(f.saddr, p) }

// DestinationInside matches packets whose destination address is in a prefix, in the form that
// iptables-nft uses for -d.
func (f Family) DestinationInside(p netip.Prefix) Exprs { return f.inside(f.daddr, p) }

// SourceOutside matches packets whose source address is in none of some prefixes of the family.
func (f Family) SourceOutside(ps []netip.Prefix) Exprs { return f.outside(f.saddr, ps) }

// DestinationOutside matches packets whose destination address is in none of some prefixes of the family.
func (f Family) DestinationOutside(ps []netip.Prefix) Exprs { return f.outside(f.daddr, ps) }

// outside compares the first bits of the address at an offset of the IP header with each prefix.
func (f Family) outside(offset uint32, ps []netip.Prefix) (e Exprs) {
	for _, p := range ps {
		e = append(e, f.inside(offset, p)...)
		e[len(e)-1].(*expr.Cmp).Op = expr.CmpOpNeq
	}
	return e
}

// inside compares the first bits of the address at an offset of the IP header.
func (f Family) inside(offset uint32, p netip.Prefix) Exprs {
	return Exprs{
		// [ payload load 4b @ network header + 12 => reg 1 ]
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.length},
		// [ bitwise reg 1 = ( reg 1 & 0x0000ffff ) ^ 0x00000000 ]
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: f.length, Mask: f.mask(p.Bits()),
			Xor: make([]byte, f.length)},
		// [ cmp eq reg 1 0x0000f40a ]
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Addr().AsSlice()},
	}
}

// NotMulticast matches packets whose destination is not a multicast group: outside of
// 224.0.0.0/4 (RFC 5771) and ff00::/8 (RFC 4291, section 2.7).
func (f Family) NotMulticast() Exprs {
	mask, group := make([]byte, f.length), make([]byte, f.length)
	mask[0], group[0] = 0xf0, 224
	if f.v6 {
		mask[0], group[0] = 0xff, 0xff
	}
	return Exprs{
		// [ payload load 4b @ network header + 16 => reg 1 ]
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.daddr, Len: f.length},
		// [ bitwise reg 1 = ( reg 1 & 0x000000f0 ) ^ 0x00000000 ]
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: f.length, Mask: mask, Xor: make([]byte, f.length)},
		// [ cmp neq reg 1 0x000000e0 ]
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: group},
	}
}

// MarkHas matches packets whose mark has a bit set; bit is the mask.
func MarkHas(bit uint32) Exprs {
	mask := binaryutil.NativeEndian.PutUint32(bit)
	return Exprs{
		// [ meta load mark => reg 1 ]
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		// [ bitwise reg 1 = ( reg 1 & 0x00004000 ) ^ 0x00000000 ]
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		// [ cmp eq reg 1 0x00004000 ]
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: mask},
	}
}

// MarkIsNot matches packets with another mark than this one.
func MarkIsNot(mark uint32) Exprs {
	return Exprs{
		// [ meta load mark => reg 1 ]
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		// [ cmp neq reg 1 0x00001000 ]
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(mark)},
	}
}

// NotUDP matches packets of other protocols than UDP.
func NotUDP() Exprs { return protocolIs(expr.CmpOpNeq, unix.IPPROTO_UDP) }

// TCP matches packets of TCP.
func TCP() Exprs { return protocolIs(expr.CmpOpEq, unix.IPPROTO_TCP) }

// protocolIs compares the protocol. For IPv6 the kernel takes the one behind the extension headers
// (nft_set_pktinfo_ipv6).
func protocolIs(op expr.CmpOp, number byte) Exprs {
	return Exprs{
		// [ meta load l4proto => reg 1 ]
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		// [ cmp neq reg 1 0x00000011 ]
		&expr.Cmp{Op: op, Register: 1, Data: []byte{number}},
	}
}

// PortIs matches UDP or TCP packets to a port. The rule has to check the protocol.
func PortIs(port uint16) Exprs {
	return Exprs{
		// [ payload load 2b @ transport header + 2 => reg 1 ]
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		// [ cmp eq reg 1 0x00005d20 ]
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
	}
}

// UDPToOtherPort matches UDP packets to any port but one.
func UDPToOtherPort(port uint16) Exprs {
	e := Join(protocolIs(expr.CmpOpEq, unix.IPPROTO_UDP), PortIs(port))
	e[len(e)-1].(*expr.Cmp).Op = expr.CmpOpNeq
	return e
}

// FromInterface matches packets that came in by an interface.
func FromInterface(name string) Exprs { return interfaceIs(expr.MetaKeyIIFNAME, name) }

// ToInterface matches packets that go out by an interface.
func ToInterface(name string) Exprs { return interfaceIs(expr.MetaKeyOIFNAME, name) }

// interfaceIs compares the name of the incoming or outgoing interface.
func interfaceIs(key expr.MetaKey, name string) Exprs {
	return Exprs{
		// [ meta load iifname => reg 1 ]
		&expr.Meta{Key: key, Register: 1},
		// [ cmp eq reg 1 "mesh0" ], with the terminating zero: "mesh01" is another interface
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte(name), 0)},
	}
}

// FromInterfaceIn matches packets that came in by an interface whose name is in a set of
// Interfaces.
func FromInterfaceIn(set string) Exprs { return interfaceIn(expr.MetaKeyIIFNAME, set, false) }

// FromInterfaceNotIn matches packets that came in by an interface whose name is not in a set of
// Interfaces.
func FromInterfaceNotIn(set string) Exprs { return interfaceIn(expr.MetaKeyIIFNAME, set, true) }

// ToInterfaceIn matches packets that go out by an interface whose name is in a set of
// Interfaces.
func ToInterfaceIn(set string) Exprs { return interfaceIn(expr.MetaKeyOIFNAME, set, false) }

// ToOtherInterface matches packets that go out by none of a few interfaces, at least one: that costs less
// than a set of them.
func ToOtherInterface(names ...string) Exprs {
	e := Exprs{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}}
	for _, name := range names {
		// [ cmp neq reg 1 "mesh0" ]
		e = append(e, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: append([]byte(name), 0)})
	}
	return e
}

// NotWithinInterfaceIn matches packets whose incoming and outgoing interfaces are not a pair in
// a set of SameInterfaces: packets that go from one interface to another, and those within an
// interface that the set does not list.
func NotWithinInterfaceIn(set string) Exprs {
	return Exprs{
		// [ meta load iifname => reg 1 ]
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: unix.NFT_REG_1},
		// [ meta load oifname => reg 2 ]
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: unix.NFT_REG_2},
		// [ lookup reg 1 set bridged4 0x1 ]
		&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: set, Invert: true},
	}
}

// interfaceIn looks up the name of the incoming or outgoing interface in a set.
func interfaceIn(key expr.MetaKey, set string, invert bool) Exprs {
	return Exprs{
		// [ meta load iifname => reg 1 ]
		&expr.Meta{Key: key, Register: 1},
		// [ lookup reg 1 set inside ]
		&expr.Lookup{SourceRegister: 1, SetName: set, Invert: invert},
	}
}

// Bits of a connection's status (enum ip_conntrack_status).
const (
	statusSourceNAT = 1 << 4
	statusDestNAT   = 1 << 5
)

// SourceTranslated matches packets of connections whose source address is translated.
func SourceTranslated() Exprs { return connection(expr.CtKeySTATUS, statusSourceNAT) }

// Published matches packets of connections whose destination was translated: connections to a
// published port.
func Published() Exprs { return connection(expr.CtKeySTATUS, statusDestNAT) }

// Established matches packets of established connections, and of connections that are related
// to one, such as ICMP errors.
func Established() Exprs {
	return connection(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
}

// connection matches packets whose connection has one of the bits set. Packets without a
// connection do not match.
func connection(key expr.CtKey, bits uint32) Exprs {
	mask := binaryutil.NativeEndian.PutUint32(bits)
	return Exprs{
		// [ ct load status => reg 1 ]
		&expr.Ct{Key: key, Register: 1},
		// [ bitwise reg 1 = ( reg 1 & 0x00000010 ) ^ 0x00000000 ]
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		// [ cmp neq reg 1 0x00000000 ]
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// Bits of xt_conntrack's states (XT_CONNTRACK_STATE_BIT, XT_CONNTRACK_STATE_DNAT).
const (
	xtEstablished = 1<<1 | 1<<2 // and related
	xtPublished   = 1 << 7
)

// IPTables is Established or Published in the form that iptables-nft uses (-m conntrack
// --ctstate): iptables-nft refuses to work on a table with expressions that it does not know.
func IPTables(published bool) Exprs {
	info := &xt.ConntrackMtinfo3{}
	info.MatchFlags, info.StateMask = uint16(xt.ConntrackState), xtEstablished
	if published {
		info.StateMask = xtPublished
	}
	// [ match name conntrack rev 3 ]
	return Exprs{&expr.Match{Name: "conntrack", Rev: 3, Info: info}}
}

// KeepSource counts a packet and translates its source address to itself. The kernel translates
// a connection once, so chains that come later, such as those of Docker and Podman, cannot
// masquerade it any more. Return would leave the decision to them, and pods of other hosts
// would see the host's address.
func (f Family) KeepSource() Exprs {
	return Exprs{
		// [ counter pkts 0 bytes 0 ]
		&expr.Counter{},
		// [ payload load 4b @ network header + 12 => reg 1 ]
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.saddr, Len: f.length},
		// [ nat snat ip addr_min reg 1 ]
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: f.protocol(), RegAddrMin: 1},
	}
}

// SourceBecomes counts a packet and translates its source address to this one, which is of the family. With
// fullyRandom the kernel chooses source ports at random. Unlike masquerading, it does not end a connection
// whose packets leave by another interface from now on (nf_nat_oif_changed in nf_nat.h).
func (f Family) SourceBecomes(ip netip.Addr, fullyRandom bool) Exprs {
	return Exprs{
		// [ counter pkts 0 bytes 0 ]
		&expr.Counter{},
		// [ immediate reg 1 0x0002f40a ]
		&expr.Immediate{Register: 1, Data: ip.AsSlice()},
		// [ nat snat ip addr_min reg 1 flags 0x10 ]: NF_NAT_RANGE_PROTO_RANDOM_FULLY
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: f.protocol(), RegAddrMin: 1, FullyRandom: fullyRandom},
	}
}

// Masquerade counts a packet and gives it the address of the interface by which it leaves.
// With fullyRandom the kernel chooses source ports at random.
func Masquerade(fullyRandom bool) Exprs {
	return Exprs{
		// [ counter pkts 0 bytes 0 ]
		&expr.Counter{},
		// [ masq flags 0x10 ]: NF_NAT_RANGE_PROTO_RANDOM_FULLY
		&expr.Masq{FullyRandom: fullyRandom},
	}
}

// Return counts a packet and ends this chain; in a base chain the policy decides.
func Return() Exprs { return counted(expr.VerdictReturn) }

// Accept counts a packet and accepts it for this chain. Later chains at the hook can still
// drop it.
func Accept() Exprs { return counted(expr.VerdictAccept) }

// Drop counts a packet and drops it.
func Drop() Exprs { return counted(expr.VerdictDrop) }

// Pass is Accept without a counter, for rules that nearly all packets match: a counter is a
// write for each packet.
func Pass() Exprs { return Exprs{&expr.Verdict{Kind: expr.VerdictAccept}} }

// Goto sends a packet to another chain of the table, which does not return.
func Goto(chain string) Exprs {
	// [ immediate reg 0 goto -> answers ]
	return Exprs{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
}

// counted is a verdict behind a counter.
func counted(kind expr.VerdictKind) Exprs {
	return Exprs{
		// [ counter pkts 0 bytes 0 ]
		&expr.Counter{},
		// [ immediate reg 0 return ]
		&expr.Verdict{Kind: kind},
	}
}
