package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
)

// ported returns what follows an IP header: two ports, and zeros up to a size.
func ported(from, to uint16, size int) []byte {
	b := make([]byte, size)
	binary.BigEndian.PutUint16(b, from)
	binary.BigEndian.PutUint16(b[2:], to)
	return b
}

// countFlows has an engine count flows, or not any more.
func countFlows(t testing.TB, p *Engine, on bool) {
	t.Helper()
	p.flowsOf = 1 // each packet
	if err := p.CountFlows(on); err != nil {
		t.Fatal(err)
	}
}

// flows are those that an engine has counted.
func flows(t testing.TB, p *Engine) map[mesh.Flow]mesh.FlowCount {
	t.Helper()
	counts, err := p.Flows()
	if err != nil {
		t.Fatal(err)
	}
	return counts
}

// What comes in is counted for its flow by each program that takes it, with the ports of protocols that have
// some, and without those of fragments.
func TestFlowsIn(t *testing.T) {
	nstest.Require(t)
	for _, family := range []string{"IPv4", "IPv6"} {
		t.Run(family, func(t *testing.T) { testFlowsIn(t, family == "IPv6") })
	}
}

func testFlowsIn(t *testing.T, outer6 bool) {
	m := meshOver(outer6)
	p := programsOf(t, m)
	xdp, err := p.handle().loadXDP()
	if err != nil {
		t.Fatal(err)
	}
	from4, to4 := netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("10.244.0.2")
	from6, to6 := netip.MustParseAddr("fd00:0:0:1::2"), netip.MustParseAddr("fd00::2")
	fragment := ip4(from4, to4, 0, 64, 17, ported(5, 6, 60))
	fragment[6] = 0x20 // more fragments
	fragment[10], fragment[11] = 0, 0
	sum := ip4Checksum(fragment)
	binary.BigEndian.PutUint16(fragment[10:], sum)
	for _, c := range []struct {
		name   string
		inner  []byte
		local  uint16
		remote uint16
	}{
		{"TCP", ip4(from4, to4, 0, 64, 6, ported(443, 40000, 60)), 40000, 443},
		{"UDP", ip4(from4, to4, 0, 64, 17, ported(53, 4000, 60)), 4000, 53},
		{"SCTP over IPv6", ip6(from6, to6, 0, 64, 132, ported(7, 8, 40)), 8, 7},
		{"TCP over IPv6", ip6(from6, to6, 0, 64, 6, ported(80, 41000, 40)), 41000, 80},
		{"ICMP", ip4(from4, to4, 0, 64, 1, ported(8, 9, 60)), 0, 0},
		{"a fragment", fragment, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			v6 := c.inner[0]>>4 == 6
			frame := outerTo(m.Peers[1].Underlay().AddrPort, m.Peers[0].Underlay().AddrPort, 0, c.inner)
			want := mesh.Flow{Peer: "b", Local: to4, Remote: from4, LocalPort: c.local, RemotePort: c.remote,
				Protocol: c.inner[9]}
			if v6 {
				want.Local, want.Remote, want.Protocol = to6, from6, c.inner[6]
			}
			if run(t, p.handle().In, frame, nil); len(flows(t, p)) != 0 {
				t.Fatal("flows are counted that nobody asked for")
			}
			countFlows(t, p, true)
			defer countFlows(t, p, false)
			run(t, xdp, frame, nil)
			packets := uint64(1)
			if v6 == outer6 { // else the tc program may not change the family, and user space counts
				run(t, p.handle().In, frame, nil)
				packets++
			}
			count := mesh.FlowCount{RxPackets: packets, RxBytes: packets * uint64(len(c.inner))}
			if got := flows(t, p); len(got) != 1 || got[want] != count {
				t.Errorf("%+v, want %+v of %+v", got, count, want)
			}
		})
	}
}

// Of packets that come alone some are noted, and stand for the others: sums are about right, whatever the
// packets' order is. A superpacket is noted in any case (TestFlowsOut).
func TestFlowsSampled(t *testing.T) {
	nstest.Require(t)
	m := meshOver(false)
	p := programsOf(t, m)
	from, to := netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("10.244.0.2")
	if err := p.CountFlows(true); err != nil {
		t.Fatal(err)
	}
	const packets = 800
	ports := [2]uint16{1000, 1001} // in turn
	var inner []byte
	sender, us := m.Peers[1].Underlay().AddrPort, m.Peers[0].Underlay().AddrPort
	for i := range packets {
		inner = ip4(from, to, 0, 64, 6, ported(ports[i%2], 80, 60))
		run(t, p.handle().In, outerTo(sender, us, 0, inner), nil)
	}
	got := flows(t, p)
	for _, port := range ports {
		c := got[mesh.Flow{Peer: "b", Local: to, Remote: from, LocalPort: 80, RemotePort: port, Protocol: 6}]
		// 400 packets, with a standard deviation of 35.
		if c.RxPackets < 150 || c.RxPackets > 650 || c.RxPackets%flowsOf != 0 ||
			c.RxBytes != c.RxPackets*uint64(len(inner)) {
			t.Errorf("port %d: %+v", port, c)
		}
	}
}

// ip4Checksum returns the checksum of a header whose own is zero.
func ip4Checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum&0xffff + sum>>16
	return ^uint16(sum + sum>>16)
}

// What leaves is counted for its flow, while it is asked for.
func TestFlowsOut(t *testing.T) {
	c := newCrossroads(t)
	if err := c.learn(c.wanted.Mesh.Peers[1].Addresses[0].AddrPort); err != nil {
		t.Fatal(err)
	}
	send := func(packets int) (bytes uint64) {
		for i := range packets {
			c.send(uint64(i))
		}
		for range packets {
			bytes += uint64(len((<-c.arrived).payload))
		}
		return bytes
	}
	if send(10); len(flows(t, c.engine)) != 0 {
		t.Error("flows are counted that nobody asked for")
	}
	countFlows(t, c.engine, true)
	bytes := send(30)
	countFlows(t, c.engine, true) // counts go on
	bytes += send(30)
	local := netip.MustParseAddrPort(c.pod.LocalAddr().String())
	flow := mesh.Flow{Peer: "b", Local: local.Addr(), LocalPort: local.Port(),
		Remote: netip.MustParseAddr("10.244.1.1"), RemotePort: 7, Protocol: 17}
	want := mesh.FlowCount{TxPackets: 60, TxBytes: bytes}
	if got := flows(t, c.engine); len(got) != 1 || got[flow] != want {
		t.Errorf("%+v, want %+v of %+v", got, want, flow)
	}
	countFlows(t, c.engine, false)
	if send(10); len(flows(t, c.engine)) != 0 || c.engine.handle().flows.Load() != nil {
		t.Error("flows are counted still")
	}
	countFlows(t, c.engine, true)
	bytes = send(1)
	if got := flows(t, c.engine)[flow]; got != (mesh.FlowCount{TxPackets: 1, TxBytes: bytes}) {
		t.Errorf("counts do not begin anew: %+v", got)
	}
}

// 100,000 flows need no more memory than the table has from the beginning, and a busy flow stays in it.
func TestFlowsAreBounded(t *testing.T) {
	nstest.Require(t)
	m := meshOver(false)
	p := programsOf(t, m)
	countFlows(t, p, true)
	table := p.handle().flows.Load()
	memory := func() uint64 {
		info, err := table.Info()
		if err != nil {
			t.Fatal(err)
		}
		n, known := info.Memlock()
		if !known {
			t.Fatal("the kernel does not tell the memory of a map")
		}
		return n
	}
	before := memory()
	to := netip.MustParseAddr("10.244.0.2")
	frame := func(address string, port uint16) []byte {
		inner := ip4(netip.MustParseAddr(address), to, 0, 64, 6, ported(port, 80, 40))
		return outerTo(m.Peers[1].Underlay().AddrPort, m.Peers[0].Underlay().AddrPort, 0, inner)
	}
	busy, sent := frame("10.244.1.2", 7777), uint64(0)
	for i := range 100_000 {
		if i%16 == 0 {
			run(t, p.handle().In, busy, nil)
			sent++
		}
		f := frame(fmt.Sprintf("10.244.1.%d", 3+i/50_000), uint16(i%50_000))
		if _, err := p.handle().In.Run(&ebpf.RunOptions{Data: f}); err != nil {
			t.Fatal(err)
		}
	}
	got := flows(t, p)
	want := mesh.Flow{Peer: "b", Local: to, Remote: netip.MustParseAddr("10.244.1.2"), LocalPort: 80,
		RemotePort: 7777, Protocol: 6}
	if got[want].RxPackets != sent {
		t.Errorf("the busy flow has %+v of %d packets", got[want], sent)
	}
	const room = 8192 // FLOWS in bpf/maps.h
	if len(got) > room || len(got) < room/2 || memory() != before {
		t.Errorf("%d flows in %d bytes, before: %d", len(got), memory(), before)
	}
}

// A meshd that was killed leaves a table, and programs that count. The next one ends both.
func TestFlowsEndWithTakeover(t *testing.T) {
	nstest.Require(t)
	p := programsOf(t, meshOver(false))
	countFlows(t, p, true)
	h := p.handle()
	if err := h.endFlows(); err != nil {
		t.Fatal(err)
	}
	var id uint32
	if err := h.Flowing.Lookup(uint32(0), &id); err == nil {
		t.Error("the table is there still")
	}
	if err := h.endFlows(); err != nil {
		t.Errorf("without a table: %v", err)
	}
	countFlows(t, p, true)
	if err := h.Flowing.Lookup(uint32(0), &id); err != nil {
		t.Errorf("the table has not come again: %v", err)
	}
}

// BenchmarkFlows is what counting a flow costs the program for datagrams, beside BenchmarkPrograms.
func BenchmarkFlows(b *testing.B) {
	nstest.Require(b)
	m := meshOver(false)
	from, to := netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("10.244.0.2")
	inner := ip4(from, to, 0, 64, 6, ported(1, 2, 60))
	frame := outerTo(m.Peers[1].Underlay().AddrPort, m.Peers[0].Underlay().AddrPort, 0, inner)
	for _, on := range []bool{false, true} {
		b.Run(fmt.Sprintf("counted=%v", on), func(b *testing.B) {
			p := programsOf(b, m)
			countFlows(b, p, on)
			var spent time.Duration
			for b.Loop() {
				_, took, err := p.handle().In.Benchmark(frame, 1, nil)
				if err != nil {
					b.Fatal(err)
				}
				spent += took
			}
			b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N), "ns/packet")
		})
	}
}
