package nft

import (
	"bytes"
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// The words that rules are made of. Above each expression stands the line that `nft --debug=netlink`
// prints for it.

// SourceIn matches packets whose source address is in a set.
func (f Family) SourceIn(set string) Exprs { return f.in(f.saddr, set, false) }

// SourceNotIn matches packets whose source address is not in a set.
func (f Family) SourceNotIn(set string) Exprs { return f.in(f.saddr, set, true) }

// DestinationIn matches packets whose destination address is in a set.
func (f Family) DestinationIn(set string) Exprs { return f.in(f.daddr, set, false) }

// DestinationNotIn matches packets whose destination address is not in a set.
func (f Family) DestinationNotIn(set string) Exprs { return f.in(f.daddr, set, true) }

func (f Family) in(offset uint32, set string, invert bool) Exprs {
	return Exprs{
		// [ payload load 4b @ network header + 12 => reg 1 ]
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.length},
		// [ lookup reg 1 set mesh ], and 0x1 behind it where inverted
		&expr.Lookup{SourceRegister: 1, SetName: set + f.Suffix(), Invert: invert},
	}
}

// EndpointIn matches packets of UDP whose destination address and port are in a set of Endpoints.
func (f Family) EndpointIn(set string) Exprs {
	port := uint32(unix.NFT_REG32_01) // behind an address of 4 bytes
	if f.v6 {
		port = unix.NFT_REG_2 // behind one of 16, by the name that the kernel has for it
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

// SourceInside matches packets whose source address lies in one prefix, as iptables-nft spells -s.
func (f Family) SourceInside(p netip.Prefix) Exprs { return f.inside(f.saddr, p) }

// DestinationInside matches packets whose destination address lies in one prefix, as iptables-nft
// spells -d.
func (f Family) DestinationInside(p netip.Prefix) Exprs { return f.inside(f.daddr, p) }

func (f Family) inside(offset uint32, p netip.Prefix) Exprs {
	mask := bytes.Repeat([]byte{0xff}, int(f.length))
	for bit := p.Bits(); bit < len(mask)*8; bit++ {
		mask[bit/8] &^= 0x80 >> (bit % 8)
	}
	return Exprs{
		// [ payload load 4b @ network header + 12 => reg 1 ]
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.length},
		// [ bitwise reg 1 = ( reg 1 & 0x0000ffff ) ^ 0x00000000 ]
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: f.length, Mask: mask, Xor: make([]byte, f.length)},
		// [ cmp eq reg 1 0x0000f40a ]
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Addr().AsSlice()},
	}
}

// NotMulticast matches packets whose destination is not a multicast group.
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

// MarkHas matches packets whose mark has a bit set.
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

// MarkIsNot matches packets with any other mark.
func MarkIsNot(mark uint32) Exprs {
	return Exprs{
		// [ meta load mark => reg 1 ]
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		// [ cmp neq reg 1 0x00001000 ]
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(mark)},
	}
}

// NotUDP matches packets of any other protocol than UDP. In IPv6 that is the one behind extension
// headers.
func NotUDP() Exprs {
	return Exprs{
		// [ meta load l4proto => reg 1 ]
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		// [ cmp neq reg 1 0x00000011 ]
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
	}
}

// PortIs matches packets of UDP or TCP to a port.
func PortIs(port uint16) Exprs {
	return Exprs{
		// [ payload load 2b @ transport header + 2 => reg 1 ]
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		// [ cmp eq reg 1 0x00005d20 ]
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
	}
}

// FromInterface matches packets that came in by an interface.
func FromInterface(name string) Exprs { return interfaceIs(expr.MetaKeyIIFNAME, name) }

// ToInterface matches packets that go out by an interface.
func ToInterface(name string) Exprs { return interfaceIs(expr.MetaKeyOIFNAME, name) }

func interfaceIs(key expr.MetaKey, name string) Exprs {
	return Exprs{
		// [ meta load iifname => reg 1 ]
		&expr.Meta{Key: key, Register: 1},
		// [ cmp eq reg 1 "mesh0" ], compared up to the terminating zero
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte(name), 0)},
	}
}

// FromInterfaceIn matches packets that came in by an interface whose name is in a set of Interfaces.
func FromInterfaceIn(set string) Exprs { return interfaceIn(expr.MetaKeyIIFNAME, set, false) }

// FromInterfaceNotIn matches all others.
func FromInterfaceNotIn(set string) Exprs { return interfaceIn(expr.MetaKeyIIFNAME, set, true) }

// ToInterfaceIn matches packets that go out by an interface whose name is in a set of Interfaces.
func ToInterfaceIn(set string) Exprs { return interfaceIn(expr.MetaKeyOIFNAME, set, false) }

// NotWithinInterfaceIn matches packets that go out by another interface than they came in by, or by
// one that is not in a set of SameInterfaces.
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

func interfaceIn(key expr.MetaKey, set string, invert bool) Exprs {
	return Exprs{
		// [ meta load iifname => reg 1 ]
		&expr.Meta{Key: key, Register: 1},
		// [ lookup reg 1 set inside ]
		&expr.Lookup{SourceRegister: 1, SetName: set, Invert: invert},
	}
}

// Bits of a connection's status (enum ip_conntrack_status) and state (NF_CT_STATE_BIT).
const (
	statusSourceNAT = 1 << 4
	statusDestNAT   = 1 << 5
)

// SourceTranslated matches packets of connections whose source is translated.
func SourceTranslated() Exprs { return connection(expr.CtKeySTATUS, statusSourceNAT) }

// Published matches packets of connections whose destination was translated: those to a published
// port.
func Published() Exprs { return connection(expr.CtKeySTATUS, statusDestNAT) }

// Established matches packets of connections that are established, or related to one.
func Established() Exprs {
	return connection(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
}

func connection(key expr.CtKey, bits uint32) Exprs {
	return Exprs{
		// [ ct load status => reg 1 ]
		&expr.Ct{Key: key, Register: 1},
		// [ bitwise reg 1 = ( reg 1 & 0x00000010 ) ^ 0x00000000 ]
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		// [ cmp neq reg 1 0x00000000 ]
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// Bits of xt_conntrack's states (XT_CONNTRACK_STATE_BIT, XT_CONNTRACK_STATE_DNAT).
const (
	xtEstablished = 1<<1 | 1<<2 // and related
	xtPublished   = 1 << 7
)

// IPTables spells Established or Published as iptables-nft does (-m conntrack --ctstate), which
// refuses to work on a table with any other spelling in it.
func IPTables(published bool) Exprs {
	info := &xt.ConntrackMtinfo3{}
	info.MatchFlags, info.StateMask = uint16(xt.ConntrackState), xtEstablished
	if published {
		info.StateMask = xtPublished
	}
	// [ match name conntrack rev 3 ]
	return Exprs{&expr.Match{Name: "conntrack", Rev: 3, Info: info}}
}

// KeepSource counts a packet and translates its source address to itself. That is a decision, where
// Return is none: a connection is translated once, so the masquerading of Docker and Podman, whose
// chains come later, cannot hide a pod from the pods of other hosts any more.
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

// Masquerade counts a packet and gives it the address of the interface that it leaves by.
func Masquerade(fullyRandom bool) Exprs {
	return Exprs{
		// [ counter pkts 0 bytes 0 ]
		&expr.Counter{},
		// [ masq flags 0x10 ], the flag being NF_NAT_RANGE_PROTO_RANDOM_FULLY
		&expr.Masq{FullyRandom: fullyRandom},
	}
}

// Return counts a packet and leaves the decision to other chains.
func Return() Exprs { return counted(expr.VerdictReturn) }

// Accept counts a packet and lets it pass, as far as this chain is concerned.
func Accept() Exprs { return counted(expr.VerdictAccept) }

// Drop counts a packet and ends its way.
func Drop() Exprs { return counted(expr.VerdictDrop) }

// Pass is Accept without a counter, for what nearly all packets meet.
func Pass() Exprs { return Exprs{&expr.Verdict{Kind: expr.VerdictAccept}} }

func counted(kind expr.VerdictKind) Exprs {
	return Exprs{
		// [ counter pkts 0 bytes 0 ]
		&expr.Counter{},
		// [ immediate reg 0 return ]
		&expr.Verdict{Kind: kind},
	}
}
