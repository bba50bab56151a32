package packet

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// The internet checksum (RFC 1071) is a ones' complement sum of 16-bit numbers. It is the same
// whatever the width of the additions (section 2 C), and the byte order matters only at the end
// (section 2 B). So sums run in 64 bits and in little-endian order, which needs no swap on the
// usual machines; Fold swaps once.

// Sum adds b to a running sum, which begins as 0. If b is a piece of more, every piece but the
// last must have an even length.
//
// An addition with carry waits for the one before, so two chains of them run side by side.
func Sum(b []byte, sum uint64) uint64 {
	var other, carry uint64
	for len(b) >= 128 {
		p := (*[128]byte)(b)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(p[:]), 0)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(p[8:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(p[16:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(p[24:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(p[32:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(p[40:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(p[48:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(p[56:]), carry)
		sum, carry = bits.Add64(sum, 0, carry)
		sum += carry
		other, carry = bits.Add64(other, binary.LittleEndian.Uint64(p[64:]), 0)
		other, carry = bits.Add64(other, binary.LittleEndian.Uint64(p[72:]), carry)
		other, carry = bits.Add64(other, binary.LittleEndian.Uint64(p[80:]), carry)
		other, carry = bits.Add64(other, binary.LittleEndian.Uint64(p[88:]), carry)
		other, carry = bits.Add64(other, binary.LittleEndian.Uint64(p[96:]), carry)
		other, carry = bits.Add64(other, binary.LittleEndian.Uint64(p[104:]), carry)
		other, carry = bits.Add64(other, binary.LittleEndian.Uint64(p[112:]), carry)
		other, carry = bits.Add64(other, binary.LittleEndian.Uint64(p[120:]), carry)
		other, carry = bits.Add64(other, 0, carry)
		other += carry
		b = b[128:]
	}
	for len(b) >= 32 {
		p := (*[32]byte)(b)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(p[:]), 0)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(p[8:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(p[16:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(p[24:]), carry)
		sum, carry = bits.Add64(sum, 0, carry)
		sum += carry
		b = b[32:]
	}
	sum, carry = bits.Add64(sum, other, 0)
	return sumRest(b, sum+carry) // cannot overflow: after a carry the sum is below its maximum
}

// sumRest is Sum for less than 32 bytes: a header, or the end of more.
func sumRest(b []byte, sum uint64) uint64 {
	var last, carry uint64
	for len(b) >= 8 {
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b), 0)
		sum += carry
		b = b[8:]
	}
	for i := len(b) - 1; i >= 0; i-- {
		last = last<<8 | uint64(b[i])
	}
	sum, carry = bits.Add64(sum, last, 0)
	return sum + carry
}

// Fold returns a running sum in 16 bits, as the number that is on the wire. It is 0xffff for data
// that contains its own right checksum.
func Fold(sum uint64) uint16 {
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return bits.ReverseBytes16(uint16(sum))
}

// SumNumber adds a 16-bit number to a running sum.
func SumNumber(n uint16, sum uint64) uint64 {
	sum, carry := bits.Add64(sum, uint64(bits.ReverseBytes16(n)), 0)
	return sum + carry
}

// Checksum returns the internet checksum of b, starting from the folded sum initial. It is 0 for
// data that contains its own right checksum.
func Checksum(b []byte, initial uint16) uint16 {
	return ^Fold(Sum(b, SumNumber(initial, 0)))
}

// PseudoSum returns the running sum of the pseudo-header of TCP, UDP and ICMPv6 for a payload of n
// bytes (RFC 9293, section 3.1; RFC 8200, section 8.1). addresses are source and destination as
// they are in the IP header.
func PseudoSum(addresses []byte, proto uint8, n int) uint64 {
	return SumNumber(uint16(n), SumNumber(uint16(proto), Sum(addresses, 0)))
}

// pseudoSum is PseudoSum for two IPv6 addresses, folded.
func pseudoSum(src, dst netip.Addr, proto uint8, n int) uint16 {
	var b [32]byte
	s, d := src.As16(), dst.As16()
	copy(b[0:], s[:])
	copy(b[16:], d[:])
	return Fold(PseudoSum(b[:], proto, n))
}
