package nft

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// A machine is the oracle of rules: it evaluates their expressions for a packet, slowly and without
// a kernel, as nft_do_chain in net/netfilter/nf_tables_core.c does.
type machine struct {
	registers [80]byte // the verdict, then four registers of 16 bytes (NFT_REG_1 to NFT_REG_4)
	sets      map[string]Set
}

// A packet is what rules can look at.
type packet struct {
	network, transport []byte // headers
	proto              byte   // of the transport header
	mark               uint32
	in, out            string // interfaces
	tracked            bool   // has a connection
	status, state      uint32 // of it
}

// udp4 returns a UDP packet of IPv4.
func udp4(from, to string, port uint16) packet {
	p := packet{network: make([]byte, 20), transport: make([]byte, 8), proto: unix.IPPROTO_UDP}
	p.network[0] = 0x45
	copy(p.network[12:], netip.MustParseAddr(from).AsSlice())
	copy(p.network[16:], netip.MustParseAddr(to).AsSlice())
	binary.BigEndian.PutUint16(p.transport[2:], port)
	return p
}

// udp6 returns a UDP packet of IPv6.
func udp6(from, to string, port uint16) packet {
	p := packet{network: make([]byte, 40), transport: make([]byte, 8), proto: unix.IPPROTO_UDP}
	p.network[0] = 0x60
	copy(p.network[8:], netip.MustParseAddr(from).AsSlice())
	copy(p.network[24:], netip.MustParseAddr(to).AsSlice())
	binary.BigEndian.PutUint16(p.transport[2:], port)
	return p
}

// with returns a packet with changes.
func (p packet) with(change func(*packet)) packet {
	change(&p)
	return p
}

// matches tells whether a packet passes all words of a rule.
func matches(t *testing.T, exprs Exprs, p packet, sets ...Set) bool {
	t.Helper()
	m := machine{sets: map[string]Set{}}
	for _, s := range sets {
		m.sets[s.name] = s
	}
	for _, e := range exprs {
		if !m.step(t, e, p) {
			return false
		}
	}
	return true
}

// at returns the memory of a register: 1 to 4 have 16 bytes, 8 to 23 (NFT_REG32_00 on) have 4.
func (m *machine) at(register uint32) []byte {
	if register >= unix.NFT_REG32_00 {
		return m.registers[16+4*(register-unix.NFT_REG32_00):]
	}
	return m.registers[16*register:]
}

// load writes to a register; the rest of its last 4 bytes becomes zero.
func (m *machine) load(register uint32, data []byte) {
	r := m.at(register)
	clear(r[:(len(data)+3)/4*4])
	copy(r, data)
}

// step evaluates one expression; false ends the rule.
func (m *machine) step(t *testing.T, e expr.Any, p packet) bool {
	t.Helper()
	switch e := e.(type) {
	case *expr.Payload:
		header := p.network
		if e.Base == expr.PayloadBaseTransportHeader {
			header = p.transport
		}
		if int(e.Offset+e.Len) > len(header) {
			return false
		}
		m.load(e.DestRegister, header[e.Offset:e.Offset+e.Len])
	case *expr.Bitwise:
		result := make([]byte, e.Len)
		for i, b := range m.at(e.SourceRegister)[:e.Len] {
			result[i] = b&e.Mask[i] ^ e.Xor[i]
		}
		m.load(e.DestRegister, result)
	case *expr.Cmp:
		equal := bytes.Equal(m.at(e.Register)[:len(e.Data)], e.Data)
		return equal == (e.Op == expr.CmpOpEq)
	case *expr.Lookup:
		return m.sets[e.SetName].has(m.at(e.SourceRegister)) != e.Invert
	case *expr.Meta:
		m.load(e.Register, p.meta(t, e.Key))
	case *expr.Ct:
		value := p.status
		if e.Key == expr.CtKeySTATE {
			value = p.state
		}
		m.load(e.Register, binary.NativeEndian.AppendUint32(nil, value))
		return p.tracked
	case *expr.Match:
		mask := uint32(e.Info.(*xt.ConntrackMtinfo3).StateMask)
		return p.tracked && (p.state&mask != 0 || mask == xtPublished && p.status&statusDestNAT != 0)
	case *expr.Counter, *expr.Verdict, *expr.NAT, *expr.Masq:
	default:
		t.Fatalf("an expression that the oracle does not know: %T", e)
	}
	return true
}

// meta returns what a packet has besides its bytes.
func (p packet) meta(t *testing.T, key expr.MetaKey) []byte {
	t.Helper()
	name := func(s string) []byte { return append([]byte(s), make([]byte, unix.IFNAMSIZ-len(s))...) }
	switch key {
	case expr.MetaKeyNFPROTO:
		if p.network[0]>>4 == 6 {
			return []byte{unix.NFPROTO_IPV6}
		}
		return []byte{unix.NFPROTO_IPV4}
	case expr.MetaKeyL4PROTO:
		return []byte{p.proto}
	case expr.MetaKeyMARK:
		return binary.NativeEndian.AppendUint32(nil, p.mark)
	case expr.MetaKeyIIFNAME:
		return name(p.in)
	case expr.MetaKeyOIFNAME:
		return name(p.out)
	}
	t.Fatalf("a key that the oracle does not know: %v", key)
	return nil
}

// has tells whether a set has the key that stands at the beginning of some bytes.
func (s Set) has(data []byte) (found bool) {
	for _, e := range s.elements {
		switch c := bytes.Compare(e.key[:s.key.Bytes], data[:s.key.Bytes]); {
		case !s.interval && c == 0:
			return true
		case s.interval && c <= 0: // sorted: the last one that is not behind the key decides
			found = !e.end
		}
	}
	return found
}
