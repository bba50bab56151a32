package nft

import (
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// LastTable is the name of the table whose chain is behind all others of a host.
const LastTable = "meshd-last"

// Types of ICMP: echo requests and redirects (RFC 792; RFC 4443, section 4.1).
const (
	echoRequest4 = 8
	echoRequest6 = 128
	redirect4    = 5
)

// Redirect4 matches ICMP redirects of IPv4. The rule has to check the family.
func Redirect4() Exprs { return icmp(unix.IPPROTO_ICMP, redirect4) }

// icmp matches packets of a protocol and type.
func icmp(protocol, kind byte) Exprs {
	return Exprs{
		// [ meta load l4proto => reg 1 ]
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		// [ cmp eq reg 1 0x00000001 ]
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
		// [ payload load 1b @ transport header + 0 => reg 1 ]
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		// [ cmp eq reg 1 0x00000008 ]
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{kind}},
	}
}

// EchoWith matches ICMP echo requests of the family whose payload begins with some bytes, at most 16.
func (f Family) EchoWith(payload []byte) Exprs {
	protocol, request := byte(unix.IPPROTO_ICMP), byte(echoRequest4)
	if f.v6 {
		protocol, request = unix.IPPROTO_ICMPV6, echoRequest6
	}
	return Join(icmp(protocol, request), payloadBegins(payload))
}

// DatagramWith matches UDP datagrams to a port whose payload begins with some bytes, at most 16. The rule has
// to check the family.
func DatagramWith(port uint16, payload []byte) Exprs {
	return Join(Exprs{
		// [ meta load l4proto => reg 1 ]
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		// [ cmp eq reg 1 0x00000011 ]
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
		// [ payload load 2b @ transport header + 2 => reg 1 ]
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		// [ cmp eq reg 1 0x00005e20 ]
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
	}, payloadBegins(payload))
}

// payloadBegins matches how the payload of an echo or of a datagram begins: both have headers of 8 bytes.
func payloadBegins(payload []byte) Exprs {
	const header = 8
	return Exprs{
		// [ payload load 8b @ transport header + 8 => reg 1 ]
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: header,
			Len: uint32(len(payload))},
		// [ cmp eq reg 1 0x6873656d 0x0a010064 ]
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: payload},
	}
}

// EchoID matches ICMP echoes with an identifier. The rule has to check that the packet is an echo.
func EchoID(id uint16) Exprs {
	return Exprs{
		// [ payload load 2b @ transport header + 4 => reg 1 ]
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 4, Len: 2},
		// [ cmp eq reg 1 0x00003412 ]
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(id)},
	}
}
