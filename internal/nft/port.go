package nft

import (
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// checksumAt is where the checksum of a UDP header is.
const checksumAt = 6

// SourcePortIsNot matches UDP packets from other ports. The rule has to check the protocol.
func SourcePortIsNot(port uint16) Exprs {
	return Exprs{
		// [ payload load 2b @ transport header + 0 => reg 1 ]
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2},
		// [ cmp neq reg 1 0x00005d20 ]
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
	}
}

// Unsummed matches UDP packets without a checksum. The rule has to check the protocol.
func Unsummed() Exprs {
	return Exprs{
		// [ payload load 2b @ transport header + 6 => reg 1 ]
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: checksumAt, Len: 2},
		// [ cmp eq reg 1 0x00000000 ]
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0, 0}},
	}
}

// SourcePortBecomes writes another source port into UDP packets, and has the checksum follow if they have
// one: the kernel would make one of none (nft_payload_csum_inet). Connection tracking has to come later, or
// answers would not belong to them.
func SourcePortBecomes(port uint16, summed bool) Exprs {
	write := &expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: unix.NFT_REG_1,
		Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2}
	if summed {
		write.CsumType, write.CsumOffset = expr.CsumTypeInet, checksumAt
	}
	return Exprs{
		// [ immediate reg 1 0x00005d20 ]
		&expr.Immediate{Register: unix.NFT_REG_1, Data: binaryutil.BigEndian.PutUint16(port)},
		// [ payload write reg 1 => 2b @ transport header + 0 csum_type 1 csum_off 6 csum_flags 0x0 ]
		write,
	}
}
