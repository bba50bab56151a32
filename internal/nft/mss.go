package nft

import (
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// Opens matches TCP segments that open a connection (RFC 9293 section 3.1): with SYN, without RST.
func Opens() Exprs { return Join(TCP(), opens(expr.CmpOpEq)) }

// GoesOn matches TCP segments that open no connection.
func GoesOn() Exprs { return Join(TCP(), opens(expr.CmpOpNeq)) }

// opens compares the flags of a segment with those that open a connection.
func opens(op expr.CmpOp) Exprs {
	const syn, rst = 0x02, 0x04
	return Exprs{
		// [ payload load 1b @ transport header + 13 => reg 1 ]
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		// [ bitwise reg 1 = ( reg 1 & 0x00000006 ) ^ 0x00000000 ]
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{syn | rst}, Xor: []byte{0}},
		// [ cmp eq reg 1 0x00000002 ]
		&expr.Cmp{Op: op, Register: 1, Data: []byte{syn}},
	}
}

// LowerMSS gives a segment that opens a connection the maximum segment size that fits packets of mtu
// bytes, unless it has a lower one or none (RFC 9293 section 3.7.1): the kernel never raises it
// (nft_exthdr_tcp_set_eval).
func (f Family) LowerMSS(mtu int) Exprs {
	const option, tcpHeader, ip4Header, ip6Header = 2, 20, 20, 40
	size := mtu - tcpHeader - ip4Header
	if f.v6 {
		size = mtu - tcpHeader - ip6Header
	}
	return Exprs{
		// [ immediate reg 1 0x0000bc04 ]
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(uint16(size))},
		// [ exthdr write tcpopt reg 1 => 2b @ 2 + 2 ]
		&expr.Exthdr{SourceRegister: 1, Type: option, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt},
	}
}
