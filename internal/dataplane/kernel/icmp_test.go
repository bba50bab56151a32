package kernel

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/nstest"
)

// A report is an ICMP error that a router sends to this node about a datagram.
type report struct {
	kind     byte // of ICMP or ICMPv6
	to       netip.Addr
	from     netip.AddrPort // of the quoted datagram
	about    netip.AddrPort // its destination
	check    uint16         // its UDP checksum
	protocol byte
	quoted   int // bytes behind the quoted IP header
}

// frame returns the report as it comes from the underlay.
func (r report) frame() []byte {
	udp := binary.BigEndian.AppendUint16(nil, r.from.Port())
	udp = binary.BigEndian.AppendUint16(udp, r.about.Port())
	udp = binary.BigEndian.AppendUint16(udp, 1400)
	udp = append(binary.BigEndian.AppendUint16(udp, r.check), bytes.Repeat([]byte{0xa5}, 1392)...)
	eth := []byte{0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2}
	icmp := []byte{r.kind, 4, 0, 0, 0, 0, 0x05, 0x78}
	if r.to.Is4() {
		router := netip.MustParseAddr("172.18.0.99")
		icmp = append(icmp, ip4(r.from.Addr(), r.about.Addr(), 0, 64, r.protocol, udp)[:20+r.quoted]...)
		binary.BigEndian.PutUint16(icmp[2:], packet.Checksum(icmp, 0))
		return append(append(eth, 8, 0), ip4(router, r.to, 0, 64, 1, icmp)...)
	}
	router := netip.MustParseAddr("fd10::99")
	icmp = append(icmp, ip6(r.from.Addr(), r.about.Addr(), 0, 64, r.protocol, udp)[:40+r.quoted]...)
	b := ip6(router, r.to, 0, 64, 58, icmp)
	binary.BigEndian.PutUint16(b[42:], ^packet.Fold(packet.Sum(b[40:], pseudoSum(b))))
	return append(append(eth, 0x86, 0xdd), b...)
}

// pseudoSum is the sum of the pseudo-header of an IPv6 packet (RFC 8200, section 8.1).
func pseudoSum(ip []byte) uint64 {
	sum := packet.Sum(ip[8:40], 0)
	return packet.SumNumber(uint16(ip[6]), packet.SumNumber(binary.BigEndian.Uint16(ip[4:]), sum))
}

// quotedPort returns the quoted source port of a frame, and whether ICMP's checksum is right.
func quotedPort(frame []byte) (port uint16, right bool) {
	ip := frame[14:]
	if ip[0]>>4 == 4 {
		return binary.BigEndian.Uint16(ip[20+8+20:]), packet.Fold(packet.Sum(ip[20:], 0)) == 0xffff
	}
	return binary.BigEndian.Uint16(ip[40+8+40:]), packet.Fold(packet.Sum(ip[40:], pseudoSum(ip))) == 0xffff
}

// An ICMP error about a datagram that a program sent for a flow quotes the mesh's port, so that the
// kernel finds our socket. No other one is touched.
func TestErrorsFindTheSocket(t *testing.T) {
	nstest.Require(t)
	const flow = 0xc123
	for _, v6 := range []bool{false, true} {
		m := meshOver(v6)
		self, b, c := m.Peers[0].Underlay(), m.Peers[1].Underlay(), m.Peers[2].Underlay()
		tooBig, unreachable, information := byte(3), byte(3), byte(0)
		stranger := netip.MustParseAddr("172.18.0.77")
		name := "ipv4 "
		if v6 {
			tooBig, unreachable, information, name = 2, 1, 129, "ipv6 "
			stranger = netip.MustParseAddr("fd10::77")
		}
		p := programsOf(t, m)
		w := wantedOver(m, "", dataplane.TCX)
		spread := func(on bool) {
			t.Helper()
			w.Spread = on
			if err := p.configureFor(w); err != nil {
				t.Fatal(err)
			}
		}
		most := 128
		if v6 {
			most = 1232 - 40
		}
		for _, test := range []struct {
			name   string
			change func(*report)
			mended bool
			single bool // spread is off
		}{
			{"as routers quote at least", func(*report) {}, true, false},
			{"as much as routers quote", func(r *report) { r.quoted = most }, true, false},
			{"odd length", func(r *report) { r.quoted = 77 }, true, false},
			{"another node's port", func(r *report) { r.about = c.AddrPort }, true, false},
			{"unreachable", func(r *report) { r.kind = unreachable }, true, false},
			{"first port of flows", func(r *report) { r.from = netip.AddrPortFrom(self.Addr(), 0xc000) }, true, false},
			{"last port of flows", func(r *report) { r.from = netip.AddrPortFrom(self.Addr(), 0xffff) }, true, false},
			{"without spread", func(*report) {}, false, true},
			{"from the socket", func(r *report) { r.from = self.AddrPort }, false, false},
			{"port below those of flows",
				func(r *report) { r.from = netip.AddrPortFrom(self.Addr(), 0xbfff) }, false, false},
			{"with a checksum", func(r *report) { r.check = 0x1234 }, false, false},
			{"to a port of no node", func(r *report) { r.about = netip.AddrPortFrom(b.Addr(), 53) }, false, false},
			{"to the port of another node", func(r *report) {
				r.about = netip.AddrPortFrom(b.Addr(), c.Port())
			}, false, false},
			{"to a stranger", func(r *report) { r.about = netip.AddrPortFrom(stranger, b.Port()) }, false, false},
			{"to this node", func(r *report) { r.about = self.AddrPort }, false, false},
			{"sent by another host", func(r *report) { r.from = netip.AddrPortFrom(stranger, flow) }, false, false},
			{"for another host", func(r *report) { r.to = stranger }, false, false},
			{"no error", func(r *report) { r.kind = information }, false, false},
			{"no UDP", func(r *report) { r.protocol = 6 }, false, false},
			{"too little quoted", func(r *report) { r.quoted = 7 }, false, false},
		} {
			t.Run(name+test.name, func(t *testing.T) {
				r := report{kind: tooBig, to: self.Addr(), from: netip.AddrPortFrom(self.Addr(), flow),
					about: b.AddrPort, protocol: 17, quoted: 8}
				test.change(&r)
				spread(!test.single)
				sent := r.frame()
				code, _, came := run(t, p.handle().In, sent, nil)
				came = came[:len(sent)]
				if code != 0xffffffff { // TC_ACT_UNSPEC
					t.Errorf("code %d", code)
				}
				if !test.mended {
					if !bytes.Equal(came, sent) {
						t.Errorf("changed:\n% x\n% x", sent, came)
					}
					return
				}
				port, right := quotedPort(came)
				if port != self.Port() || !right {
					t.Errorf("quotes port %d, right checksum %v", port, right)
				}
				at := len(sent) - r.quoted
				icmp := 14 + 20
				if v6 {
					icmp = 14 + 40
				}
				copy(came[at:at+2], sent[at:])
				copy(came[icmp+2:icmp+4], sent[icmp+2:])
				if !bytes.Equal(came, sent) {
					t.Errorf("something else has changed:\n% x\n% x", sent, came)
				}
			})
		}
	}
}

// Whatever comes as ICMP, nothing but the quoted port and the checksum changes, and a wrong checksum
// does not become a right one.
func TestErrorsAtRandom(t *testing.T) {
	nstest.Require(t)
	g := &generator{Rand: rand.New(rand.NewPCG(7, 7))}
	for _, v6 := range []bool{false, true} {
		g.mesh = meshOver(v6)
		p := programsOf(t, g.mesh)
		w := wantedOver(g.mesh, "", dataplane.TCX)
		w.Spread = true
		if err := p.configureFor(w); err != nil {
			t.Fatal(err)
		}
		mended := 0
		for range 3000 {
			sent := g.report().frame()
			for range g.IntN(4) {
				sent[14+g.IntN(len(sent)-14)] ^= 1 << g.IntN(8)
			}
			sent = sent[:len(sent)-g.IntN(2)*g.IntN(len(sent)-14-40)]
			_, _, came := run(t, p.handle().In, sent, nil)
			came = came[:len(sent)]
			if bytes.Equal(came, sent) {
				continue
			}
			mended++
			_, before := quotedPort(sent)
			port, after := quotedPort(came)
			if port != g.mesh.Peers[0].Underlay().Port() || before != after {
				t.Fatalf("port %d, checksum right before %v, after %v\n% x\n% x", port, before, after, sent, came)
			}
		}
		if mended == 0 {
			t.Error("no report was mended")
		}
	}
}

// report returns an error about a datagram of this node, or nearly.
func (g *generator) report() report {
	self, peer := g.mesh.Peers[0].Underlay(), one(g, g.mesh.Peers...).Underlay()
	kinds := []byte{0, 3, 3, 3, 5, 8, 11, 12}
	if self.Addr().Is6() {
		kinds = []byte{1, 2, 2, 3, 4, 128, 129, 137}
	}
	ports := []uint16{0xc000, 0xd234, 0xffff, self.Port(), 0xbfff}
	return report{kind: one(g, kinds...), to: self.Addr(),
		from: netip.AddrPortFrom(self.Addr(), one(g, ports...)), about: peer.AddrPort,
		check: one(g, uint16(0), 0, 0, 1), protocol: one(g, byte(17), 17, 17, 6), quoted: 8 + g.IntN(120)}
}
