package kernel

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/peers"
)

// skbContext is struct __sk_buff of linux/bpf.h as far as a test run takes it.
type skbContext struct {
	_       [41]uint32
	GSOSegs uint32
	_       [2]uint32 // a pointer
	GSOSize uint32
}

// burstFor is BURST_FOR of bpf/bursts.h.
const burstFor = time.Second

// datagramOf returns UDP from a port, 200 bytes of it.
func datagramOf(port uint16) []byte {
	b := binary.BigEndian.AppendUint16(make([]byte, 0, 200), port)
	return binary.BigEndian.AppendUint16(b, 443)[:200]
}

// Single datagrams go where superpackets of their flow have gone a moment before, and others do not: not
// those of another flow, of another protocol, or of a second later. Those that
// leave are larger than the path here: user space would cut them further.
func TestSinglesFollowSuperpackets(t *testing.T) {
	nstest.Require(t)
	m := sendingMesh()
	g := &generator{Rand: rand.New(rand.NewPCG(1, 0)), mesh: m}
	from := func(inner []byte) []byte { return g.outer(m.Peers[1].Underlay().AddrPort, 0, inner) }
	a4, b4 := netip.MustParseAddr("8.0.0.2"), netip.MustParseAddr("8.0.1.2")
	a6, b6 := netip.MustParseAddr("fd00:0:86dd::2"), netip.MustParseAddr("fd00:0:86dd:1::2")
	for name, way := range map[string]struct {
		program func(h *handle) *ebpf.Program
		packet  func(proto byte, payload []byte) []byte
	}{
		"out": {func(h *handle) *ebpf.Program { return h.Out },
			func(proto byte, b []byte) []byte { return ip4(a4, b4, 0, 64, proto, b) }},
		"out, IPv6": {func(h *handle) *ebpf.Program { return h.Out },
			func(proto byte, b []byte) []byte { return ip6(a6, b6, 0, 64, proto, b) }},
		"in": {func(h *handle) *ebpf.Program { return h.In },
			func(proto byte, b []byte) []byte { return from(ip4(b4, a4, 0, 64, proto, b)) }},
	} {
		t.Run(name, func(t *testing.T) {
			p := programsOf(t, m)
			if err := p.Learn("b", peers.Directive{Finishes: true}); err != nil {
				t.Fatal(err)
			}
			h := p.handle()
			send := func(proto byte, port uint16, context any) (why string) {
				t.Helper()
				return handedBy(t, h, func() {
					if _, err := way.program(h).Run(&ebpf.RunOptions{
						Data: way.packet(proto, datagramOf(port)), DataOut: make([]byte, 512), Context: context,
					}); err != nil {
						t.Fatal(err)
					}
				})
			}
			const follows = "unusual"
			if send(17, 1000, nil) == follows {
				t.Error("a datagram is left to user space before any superpacket")
			}
			if send(17, 1000, skbContext{GSOSegs: 2, GSOSize: 2000}) == "" {
				t.Error("the superpacket is not left to user space")
			}
			for range 3 { // each keeps the next one from overtaking it
				if send(17, 1000, nil) != follows {
					t.Error("a datagram overtakes a superpacket")
				}
				h.age(t, burstFor*3/5)
			}
			if send(17, 1001, nil) == follows || send(6, 1000, nil) == follows {
				t.Error("a packet of another flow is left to user space")
			}
			h.age(t, burstFor)
			if send(17, 1000, nil) == follows {
				t.Error("a datagram is left to user space long after the superpacket")
			}
		})
	}
}

// age has all superpackets been longer ago.
func (h *handle) age(t *testing.T, by time.Duration) {
	t.Helper()
	var last uint64
	if err := h.LastBurst.Lookup(uint32(0), &last); err != nil || last == 0 {
		t.Fatalf("%d, %v", last, err)
	}
	var flow [36]byte
	var then uint64
	for all := h.Bursts.Iterate(); all.Next(&flow, &then); {
		if err := h.Bursts.Put(flow, then-uint64(by)); err != nil {
			t.Fatal(err)
		}
	}
}
