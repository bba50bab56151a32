package user

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"example.org/meshd/internal/budget"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/mesh"
)

// withPorts gives a packet two ports.
func withPorts(b []byte, from, to uint16) []byte {
	at := packet.HeaderLen4
	if b[0]>>4 == 6 {
		at = packet.HeaderLen6
	}
	binary.BigEndian.PutUint16(b[at:], from)
	binary.BigEndian.PutUint16(b[at+2:], to)
	return b
}

// flowsOf returns the flows that an engine has counted.
func flowsOf(t *testing.T, u *Engine) map[mesh.Flow]mesh.FlowCount {
	t.Helper()
	r, err := u.Flows()
	if err != nil || !r.Sampled || r.Sealed {
		t.Fatalf("%+v, %v", r, err)
	}
	return r.Counts
}

// Packets of small batches are counted exactly, in both directions and for one flow, while it is asked for.
func TestFlowsOfSmallBatches(t *testing.T) {
	for _, c := range []struct {
		name          string
		local, remote string
		packet        func(src, dst string) []byte
	}{
		{"IPv4", "10.244.0.2", "10.244.1.2", func(src, dst string) []byte { return udp4(src, dst, 63, 0) }},
		{"IPv6", "fd00:0:0:a::2", "fd00:0:0:b::2", func(src, dst string) []byte { return udp6(src, dst, 63) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			pass := func() (bytes uint64) {
				out := withPorts(c.packet(c.local, c.remote), 4000, 53)
				in := withPorts(c.packet(c.remote, c.local), 53, 4000)
				r.send(out)
				r.receive("172.18.0.3:8285", 0, in)
				return uint64(len(out))
			}
			if pass(); len(flowsOf(t, r.Engine)) != 0 {
				t.Error("flows are counted that nobody asked for")
			}
			if err := r.CountFlows(true); err != nil {
				t.Fatal(err)
			}
			size := pass()
			pass()
			want := mesh.FlowCount{RxPackets: 2, RxBytes: 2 * size, TxPackets: 2, TxBytes: 2 * size}
			flow := mesh.Flow{Peer: "b", Local: netip.MustParseAddr(c.local), Remote: netip.MustParseAddr(c.remote),
				LocalPort: 4000, RemotePort: 53, Protocol: 17}
			if got := flowsOf(t, r.Engine); len(got) != 1 || got[flow] != want {
				t.Errorf("%+v, want %+v of %+v", got, want, flow)
			}
			if err := r.CountFlows(false); err != nil {
				t.Fatal(err)
			}
			if pass(); len(flowsOf(t, r.Engine)) != 0 {
				t.Error("flows are counted still")
			}
		})
	}
}

// What is dropped is no flow, and fragments have no ports.
func TestFlowsOfPacketsThatPass(t *testing.T) {
	r := newRig(t)
	if err := r.CountFlows(true); err != nil {
		t.Fatal(err)
	}
	r.send(udp4("10.244.0.2", "10.244.9.2", 63, 0))                          // no route
	r.send(udp4("10.244.0.2", "10.244.1.2", 1, 0))                           // expired
	r.receive("172.18.0.3:8285", 0, udp4("10.244.2.2", "10.244.0.2", 62, 0)) // spoofed
	r.receive("172.18.0.9:8285", 0, udp4("10.244.1.2", "10.244.0.2", 62, 0)) // a stranger
	if got := flowsOf(t, r.Engine); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	fragment := withPorts(udp4("10.244.0.2", "10.244.1.2", 63, 0), 4000, 53)
	fragment[6] = 0x20 // more fragments
	fragment[10], fragment[11] = 0, 0
	binary.BigEndian.PutUint16(fragment[10:], packet.Checksum(fragment[:20], 0))
	r.send(fragment)
	for flow := range flowsOf(t, r.Engine) {
		if flow.LocalPort != 0 || flow.RemotePort != 0 || flow.Protocol != 17 {
			t.Errorf("%+v", flow)
		}
	}
}

// Of large batches some packets alone are looked at. The sum is exact, and each of some flows that take turns
// gets about what it sent.
func TestFlowsAreSampled(t *testing.T) {
	s := sketches{{}}
	s[0].Store(newSketch())
	const batches, units, flows, size = 2000, 64, 4, 1000
	b := make([][]byte, flows)
	for i := range b {
		b[i] = withPorts(udp4("10.244.0.2", "10.244.1.2", 63, 0), uint16(i), 80)
	}
	for range batches {
		one := s.begin(0, units)
		for i := range units {
			one.sent(b[i%flows], 1, size)
		}
		one.end()
	}
	counts := countsOf(s[0].Load())
	var sum uint64
	for i := range flows {
		got := counts[uint16(i)].TxBytes
		sum += got
		const each = batches * units * size / flows
		if got < each*9/10 || got > each*11/10 {
			t.Errorf("flow %d has %d bytes of %d", i, got, each)
		}
	}
	if sum != batches*units*size {
		t.Errorf("%d bytes of %d", sum, batches*units*size)
	}
}

// countsOf returns what a sketch holds, by the local port.
func countsOf(s *sketch) map[uint16]mesh.FlowCount {
	counts := map[uint16]mesh.FlowCount{}
	for i := range s.buckets {
		for _, place := range s.buckets[i] {
			if place.count != (mesh.FlowCount{}) {
				counts[place.key.flow().LocalPort] = place.count
			}
		}
	}
	return counts
}

// 100,000 flows have the places that there are, and those with most of the bytes are among them. What was
// busy before and is not any more makes room.
func TestSketchIsBounded(t *testing.T) {
	r := newRig(t)
	s := newSketch()
	packetOf := func(port, to int) []byte {
		return withPorts(udp4("10.244.0.2", "10.244.1.2", 63, 0), uint16(port), uint16(to))
	}
	for _, age := range []int{1, 2} {
		const elephants, mice, share = 20, 100_000, 50
		for i := range mice {
			s.add(keyOf(packetOf(i%50_000, 1000+i/50_000), false), mesh.FlowCount{TxPackets: 1, TxBytes: 100})
			if i%share == 0 {
				port := rand.IntN(elephants)
				s.add(keyOf(packetOf(port, age), false), mesh.FlowCount{TxPackets: 1, TxBytes: 60_000})
			}
		}
		counts := map[mesh.Flow]mesh.FlowCount{}
		s.read(r.mesh.Load(), counts)
		if len(counts) > flowBuckets*flowPlaces {
			t.Errorf("%d flows have %d places", len(counts), flowBuckets*flowPlaces)
		}
		for port := range elephants {
			flow := mesh.Flow{Peer: "b", Local: netip.MustParseAddr("10.244.0.2"),
				Remote: netip.MustParseAddr("10.244.1.2"), LocalPort: uint16(port), RemotePort: uint16(age), Protocol: 17}
			const each = mice / share / elephants * 60_000
			if got := counts[flow].TxBytes; got < each/2 || got > each*2 {
				t.Errorf("elephant %d of age %d has %d bytes of about %d", port, age, got, each)
			}
		}
	}
}

// Counting flows does not make the packet path allocate, and a reader that holds the table does not have a
// loop wait: what it has counted meanwhile follows.
func TestFlowsDoNotStopPackets(t *testing.T) {
	s := sketches{{}}
	one := newSketch()
	s[0].Store(one)
	b := withPorts(udp4("10.244.0.2", "10.244.1.2", 63, 0), 1, 2)
	if n := testing.AllocsPerRun(100, func() {
		batch := s.begin(0, 64)
		for range 64 {
			batch.sent(b, 1, len(b))
		}
		batch.end()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	before := countsOf(one)[1].TxPackets
	pass := func() {
		batch := s.begin(0, 1)
		batch.sent(b, 1, len(b))
		batch.end()
	}
	one.mu.Lock()
	for range 10 {
		pass()
	}
	one.mu.Unlock()
	pass()
	if got := countsOf(one)[1].TxPackets; got != before+11 {
		t.Errorf("%d packets, want %d", got, before+11)
	}
}

// FuzzKeyOf: whatever passes packet.Parse has a flow, and both directions have the same one.
func FuzzKeyOf(f *testing.F) {
	f.Add(withPorts(udp4("10.244.0.2", "10.244.1.2", 63, 0), 4000, 53))
	f.Add(withPorts(udp6("fd00:0:0:a::2", "fd00:0:0:b::2", 63), 4000, 53))
	f.Add(udp4("10.244.0.2", "10.244.1.2", 63, 0)[:20])
	f.Fuzz(func(t *testing.T, b []byte) {
		defer budget.Of(t)()
		h, ok := packet.Parse(b)
		if !ok {
			return
		}
		out, in := keyOf(b, false).flow(), keyOf(b, true).flow()
		if out.Local != h.Src || out.Remote != h.Dst || in.Local != h.Dst || in.Remote != h.Src ||
			out.LocalPort != in.RemotePort || out.RemotePort != in.LocalPort || out.Protocol != in.Protocol {
			t.Errorf("%+v and %+v of %+v", out, in, h)
		}
	})
}

// BenchmarkPathWithFlows is BenchmarkPath while flows are counted.
func BenchmarkPathWithFlows(b *testing.B) {
	for name, offloads := range map[string][]string{"plain": nil, "offload": allOffloads} {
		for _, counted := range []bool{false, true} {
			out, in := pathCounting(b, counted, offloads...)
			for direction, f := range map[string]func(){"out": out, "in": in} {
				b.Run(name+"/"+direction+map[bool]string{true: "/counted", false: "/off"}[counted], func(b *testing.B) {
					for b.Loop() {
						f()
					}
				})
			}
		}
	}
}
