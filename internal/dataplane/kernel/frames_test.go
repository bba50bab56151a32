package kernel

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/mesh"
)

// meshOver is a mesh with both families, whose underlay is IPv6 or IPv4.
func meshOver(v6 bool) mesh.Mesh {
	if v6 {
		return meshAt([]string{"[fd10::2]:8285"}, []string{"[fd10::3]:8285"}, []string{"[fd10::4]:9000"})
	}
	return meshAt([]string{"172.18.0.2:8285"}, []string{"172.18.0.3:8285"}, []string{"172.18.0.4:9000"})
}

// meshOverBoth is such a mesh whose nodes have several addresses, of both families and with other ports.
func meshOverBoth() mesh.Mesh {
	return meshAt([]string{"172.18.0.2:8285", "[fd10::2]:9002", "172.18.9.2:9102"},
		[]string{"172.18.0.3:8285", "[fd10::3]:9003", "172.18.9.3:9103"},
		[]string{"[fd10::4]:9000", "172.18.0.4:8285"})
}

// meshAt is such a mesh whose nodes have some addresses.
func meshAt(nodes ...[]string) mesh.Mesh {
	var m mesh.Mesh
	for i, addresses := range nodes {
		var all []mesh.Endpoint
		for _, a := range addresses {
			all = append(all, endpoint(a))
		}
		m.Peers = append(m.Peers, mesh.Peer{Name: string(rune('a' + i)), Addresses: all,
			Subnets: []netip.Prefix{
				netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i)),
				netip.MustParsePrefix(fmt.Sprintf("fd00:0:0:%x::/64", i)),
			}})
	}
	m.Self = "a"
	m.Peers[1].Routes = []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16")}
	m.Peers[2].Routes = []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")}
	return m
}

// generator makes frames as they come from an underlay: good ones, hostile ones, broken ones.
type generator struct {
	*rand.Rand
	mesh mesh.Mesh
}

// one returns one of several values.
func one[T any](g *generator, values ...T) T { return values[g.IntN(len(values))] }

// shortest is what the kernel's trial run of a tc program takes: an IPv6 header.
const shortest = 14 + 40

// frame returns a frame, and whether it is one that the programs should take.
func (g *generator) frame() (b []byte, plain bool) {
	hostile := g.IntN(3) == 0
	inner := g.inner(hostile)
	sender := one(g, g.mesh.Peers[1].Addresses...).AddrPort
	tos := one(g, byte(0), 0, 0xb8)
	to := g.own(sender)
	if hostile {
		sender = one(g, sender, sender, one(g, g.mesh.Peers[2].Addresses...).AddrPort,
			g.mesh.Peers[0].Underlay().AddrPort, netip.AddrPortFrom(sender.Addr().Next().Next(), 1),
			// This begins as 172.18.0.3 does, and goes on with zeros.
			netip.AddrPortFrom(one(g, sender.Addr(), netip.MustParseAddr("ac12:3::")), 1))
		tos = one(g, 3, byte(g.Uint32()))
		if to = g.own(sender); g.IntN(8) == 0 { // another port
			to = netip.AddrPortFrom(to.Addr(), one(g, 0, 9102, one(g, g.mesh.Peers[0].Addresses...).Port()))
		}
	}
	b = outerTo(sender, to, tos, inner)
	switch g.IntN(5) {
	case 0: // to another host, or to all; to a VLAN
		switch g.IntN(3) {
		case 0:
			copy(b, one(g, "\xff\xff\xff\xff\xff\xff", "\x01\x00\x5e\x00\x00\x01", "\x33\x33\x00\x00\x00\x01"))
		case 1:
			b[g.IntN(6)] ^= 2 << g.IntN(7)
		case 2:
			b = slices.Insert(b, 12, 0x81, 0x00, 0x00, 0x07)
		}
		return b, false
	case 1: // a few bits
		for range 1 + g.IntN(3) {
			b[g.IntN(len(b))] ^= 1 << g.IntN(8)
		}
		return b, false
	case 2: // cut, or longer
		if g.IntN(2) == 0 {
			return b[:max(shortest, len(b)-1-g.IntN(40))], false
		}
		return append(b, make([]byte, g.IntN(30))...), false
	}
	return b, !hostile
}

// metadata returns what an XDP program of somebody else put in front of a frame: nothing, most
// of the time, or marks, also those that only we know.
func (g *generator) metadata(p *Engine) []byte {
	if g.IntN(3) != 0 {
		return nil
	}
	var b []byte
	for _, word := range append(p.settings.Mark.Words[:], p.settings.Mark.Words[:]...) {
		b = binary.NativeEndian.AppendUint32(b, word)
	}
	switch g.IntN(3) {
	case 0:
		clear(b)
	case 1:
		binary.NativeEndian.PutUint32(b, 0x6d657368)
	}
	return b[:4*(1+g.IntN(8))]
}

// own returns an address of this node of a sender's family; the preferred one if there is none.
func (g *generator) own(sender netip.AddrPort) netip.AddrPort {
	self := g.mesh.Peers[0]
	for _, i := range g.Perm(len(self.Addresses)) {
		if self.Addresses[i].Addr().Is4() == sender.Addr().Is4() {
			return self.Addresses[i].AddrPort
		}
	}
	return self.Underlay().AddrPort
}

// outer puts outer headers in front of an inner packet to this node.
func (g *generator) outer(from netip.AddrPort, tos byte, inner []byte) []byte {
	return outerTo(from, g.own(from), tos, inner)
}

// outerTo puts outer headers in front of an inner packet.
func outerTo(from, to netip.AddrPort, tos byte, inner []byte) []byte {
	udp := binary.BigEndian.AppendUint16(nil, from.Port())
	udp = binary.BigEndian.AppendUint16(udp, to.Port())
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(inner)))
	udp = append(append(udp, 0, 0), inner...)
	eth := []byte{0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2}
	if to.Addr().Is4() {
		src := from.Addr()
		if src.Is6() {
			src = netip.AddrFrom4([4]byte(src.AsSlice())) // a stranger
		}
		return append(append(eth, 8, 0), ip4(src, to.Addr(), tos, 64, 17, udp)...)
	}
	return append(append(eth, 0x86, 0xdd), ip6(from.Addr(), to.Addr(), tos, 64, 17, udp)...)
}

// inner returns a packet from a pod of peer b to one of ours, or nearly.
func (g *generator) inner(hostile bool) []byte {
	src, dst := one(g, "10.244.1.2", "192.168.1.1"), "10.244.0.2"
	src6, dst6 := "fd00:0:0:1::2", "fd00::2"
	ttl := byte(2 + g.IntN(250))
	if hostile {
		src = one(g, src, src, "10.244.2.2", "192.168.7.1", "10.244.0.2", "8.8.8.8", "0.0.0.0")
		dst = one(g, dst, dst, "10.244.0.0", "192.168.7.2", "10.244.2.2", "10.244.1.1", "8.8.8.8",
			"255.255.255.255")
		src6 = one(g, src6, src6, "fd00:0:0:2::2", "::1", "fe80::1")
		dst6 = one(g, dst6, dst6, "fd00::", "fd00:0:0:2::2", "ff02::1")
		ttl = one(g, byte(0), 1, 2, 64)
	}
	payload := make([]byte, g.IntN(200))
	for i := range payload {
		payload[i] = byte(g.Uint32())
	}
	proto, tos := one(g, byte(1), 6, 17, 132), one(g, 0xb8, byte(g.Uint32()))
	if g.IntN(2) == 0 {
		return ip6(netip.MustParseAddr(src6), netip.MustParseAddr(dst6), tos, ttl, proto, payload)
	}
	return ip4(netip.MustParseAddr(src), netip.MustParseAddr(dst), tos, ttl, proto, payload)
}

func ip4(src, dst netip.Addr, tos, ttl, proto byte, payload []byte) []byte {
	b := make([]byte, 20, 20+len(payload))
	b[0], b[1], b[8], b[9] = 0x45, tos, ttl, proto
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], packet.Checksum(b, 0))
	return append(b, payload...)
}

func ip6(src, dst netip.Addr, tos, hops, proto byte, payload []byte) []byte {
	b := make([]byte, 40, 40+len(payload))
	b[0], b[1], b[6], b[7] = 0x60|tos>>4, tos<<4, proto, hops
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return append(b, payload...)
}
