package nft

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// This file has a UDP datagram of which only a part is known: its protocol, its ports, and perhaps where
// it goes. Rules are evaluated for it as the kernel would, and "maybe" is one of the answers.

// A finding is what is known of a condition.
type finding uint8

const (
	never finding = iota // the condition does not hold
	maybe                // it depends on what is not known
	always
)

// not returns what is known of the opposite.
func (f finding) not() finding { return always - f }

// A known is some bytes of which some bits are known.
type known struct {
	value, bits []byte // of equal length; a bit of value counts where the same bit of bits is set
	port        bool   // bytes of a port of the datagram are among them
}

// unknownBytes returns bytes of which nothing is known.
func unknownBytes(n int) known { return known{value: make([]byte, n), bits: make([]byte, n)} }

// exactly returns bytes that are known.
func exactly(b ...byte) known { return known{value: b, bits: bytes.Repeat([]byte{0xff}, len(b))} }

// equal compares with bytes of the same length; what is longer on one side counts as unknown.
func (k known) equal(b []byte) finding {
	f := always
	for i := range k.value {
		switch {
		case i >= len(b):
			return f
		case (k.value[i]^b[i])&k.bits[i] != 0:
			return never
		case k.bits[i] != 0xff:
			f = maybe
		}
	}
	return f
}

// within tells whether the bytes, as a number of network order, lie between two others, both included.
func (k known) within(from, to []byte) finding {
	n := len(k.value)
	if len(from) != n || len(to) != n {
		return maybe
	}
	least, most := make([]byte, n), make([]byte, n)
	for i := range n {
		least[i], most[i] = k.value[i]&k.bits[i], k.value[i]|^k.bits[i]
	}
	switch {
	case bytes.Compare(most, from) < 0, bytes.Compare(least, to) > 0:
		return never
	case bytes.Compare(least, from) >= 0 && bytes.Compare(most, to) <= 0:
		return always
	}
	return maybe
}

// A datagram is one from the mesh port of this host.
type datagram struct {
	v6      bool
	network known // header of IP
	udp     known // header of UDP
}

// Headers, as far as rules look at what is known (RFC 791, 8200, 768).
const (
	header4  = 20
	header6  = 40
	protocol = 9 // offset of the protocol in a header of IPv4
	next     = 6 // of the next header in one of IPv6
	headerU  = 8
	ports    = 4 // length of both ports, which begin the header of UDP
)

// newDatagram returns a datagram between two ports; to may be the zero address, which is not known, and
// its port may be 0, which is not known either. Where it comes from is not known: a host behind NAT has
// another address than its peers use.
func newDatagram(v6 bool, from uint16, to netip.AddrPort) datagram {
	d := datagram{v6: v6, network: unknownBytes(header4), udp: unknownBytes(headerU)}
	family, at := IPv4, protocol
	if v6 {
		d.network, family, at = unknownBytes(header6), IPv6, next
	}
	d.network.set(at, unix.IPPROTO_UDP)
	if to.Addr().IsValid() {
		d.network.set(int(family.daddr), to.Addr().AsSlice()...)
	}
	d.udp.set(0, binary.BigEndian.AppendUint16(nil, from)...)
	if to.Port() != 0 {
		d.udp.set(2, binary.BigEndian.AppendUint16(nil, to.Port())...)
	}
	return d
}

// set makes some bytes known.
func (k *known) set(at int, b ...byte) {
	copy(k.value[at:], b)
	copy(k.bits[at:], bytes.Repeat([]byte{0xff}, len(b)))
}

// part returns bytes of a header of the datagram.
func (d *datagram) part(base expr.PayloadBase, offset, length uint32) known {
	header := known{}
	switch base {
	case expr.PayloadBaseNetworkHeader:
		header = d.network
	case expr.PayloadBaseTransportHeader:
		header = d.udp
	}
	if length > registerBytes {
		return unknownBytes(0)
	}
	k := unknownBytes(int(length))
	if n := uint32(len(header.value)); offset < n {
		copy(k.value, header.value[offset:])
		copy(k.bits, header.bits[offset:])
		k.port = base == expr.PayloadBaseTransportHeader && offset < ports
	}
	return k
}

// meta returns what is known of the datagram besides its bytes.
func (d *datagram) meta(key expr.MetaKey) known {
	switch {
	case key == expr.MetaKeyL4PROTO:
		return exactly(unix.IPPROTO_UDP)
	case key == expr.MetaKeyNFPROTO && d.v6:
		return exactly(unix.NFPROTO_IPV6)
	case key == expr.MetaKeyNFPROTO:
		return exactly(unix.NFPROTO_IPV4)
	case key == expr.MetaKeyPROTOCOL && d.v6:
		return exactly(binary.BigEndian.AppendUint16(nil, unix.ETH_P_IPV6)...)
	case key == expr.MetaKeyPROTOCOL:
		return exactly(binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP)...)
	}
	return unknownBytes(unix.IFNAMSIZ) // the longest that there is
}

// Registers of the kernel: four of 16 bytes, which sixteen of 4 bytes overlay (linux/netfilter/nf_tables.h).
const (
	registerBytes = 64
	largeRegister = 16
	smallRegister = 4
)

// registers are what a rule has loaded so far.
type registers struct {
	value, bits [registerBytes]byte
	port        [registerBytes]bool
}

// offset returns where a register begins; -1: there is no such one, or it is that of verdicts.
func offset(register uint32) int {
	switch {
	case register >= unix.NFT_REG_1 && register <= unix.NFT_REG_4:
		return int(register-unix.NFT_REG_1) * largeRegister
	case register >= unix.NFT_REG32_00 && register <= unix.NFT_REG32_15:
		return int(register-unix.NFT_REG32_00) * smallRegister
	}
	return -1
}

// load puts bytes into a register and what is behind it. The rest of the last small register becomes
// zero, as the kernel leaves it.
func (r *registers) load(register uint32, k known) {
	at := offset(register)
	if at < 0 {
		return
	}
	end := min(at+len(k.value), registerBytes)
	padded := min((end+smallRegister-1)/smallRegister*smallRegister, registerBytes)
	for i := at; i < padded; i++ {
		r.value[i], r.bits[i], r.port[i] = 0, 0xff, false
	}
	for i := at; i < end; i++ {
		r.value[i], r.bits[i], r.port[i] = k.value[i-at], k.bits[i-at], k.port
	}
}

// read returns bytes from a register on.
func (r *registers) read(register uint32, length int) known {
	at := offset(register)
	if at < 0 || length < 0 || at+length > registerBytes {
		return unknownBytes(min(max(length, 0), registerBytes))
	}
	k := known{value: bytes.Clone(r.value[at : at+length]), bits: bytes.Clone(r.bits[at : at+length])}
	for _, port := range r.port[at : at+length] {
		k.port = k.port || port
	}
	return k
}
