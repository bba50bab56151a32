package kernel

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
)

// sendingMesh is a mesh for packets from the TUN. The kernel's trial run of a tc program takes
// the first 14 bytes for an Ethernet header (bpf_prog_test_run_skb in net/bpf/test_run.c), so
// the protocol for bytes 12 and 13: what is in the source address there has to be right, 0x0800
// in IPv4 and 0x86dd in IPv6.
func sendingMesh() mesh.Mesh { return sendingMeshOver(false) }

// sendingMeshOver is sendingMesh over an underlay of a family.
func sendingMeshOver(v6 bool) mesh.Mesh {
	m := meshOver(v6)
	for i := range m.Peers {
		m.Peers[i].Routes, m.Peers[i].Subnets = nil, []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("8.0.%d.0/24", i)),
			netip.MustParsePrefix(fmt.Sprintf("fd00:0:86dd:%x::/64", i)),
			netip.MustParsePrefix(fmt.Sprintf("8.0.%d.0/24", 16+i)),
			netip.MustParsePrefix(fmt.Sprintf("fd00:0:86dd:%x::/64", 16+i)),
		}
	}
	m.Peers[0].Routes = []netip.Prefix{netip.MustParsePrefix("8.0.128.0/20")}
	m.Peers[2].Routes = []netip.Prefix{
		netip.MustParsePrefix("8.0.130.0/24"), netip.MustParsePrefix("192.168.0.0/16"),
	}
	shareAmong(&m, "192.168.0.0/16", "b", "c")
	shareAmong(&m, "8.0.128.0/20", "c", "a") // ours, too: we send from it, and to nobody else in it
	return m
}

// sent returns a packet of a pod, honest or not, now and then with a few bits flipped.
func (g *generator) sent() []byte {
	tos, ttl, proto := byte(g.Uint32()), one(g, byte(0), 1, 2, 64, 64, 64), one(g, byte(1), 6, 17)
	payload := make([]byte, 20+g.IntN(100))
	var b []byte
	if g.IntN(2) == 0 {
		src := one(g, "8.0.0.2", "8.0.0.2", "8.0.0.2", "8.0.0.0", "8.0.16.9", "8.0.129.1", // ours
			"8.0.65.1", "8.0.81.1", "8.0.130.1", "8.0.1.2", "8.0.1.0", "8.0.18.1", "8.0.99.1", "8.0.255.255")
		dst := one(g, "8.0.1.2", "8.0.2.2", "192.168.1.1", "8.0.130.9", "8.0.17.1", "8.0.64.1", "8.0.80.1",
			"8.0.0.3", "8.0.99.9", "8.0.129.2", "224.0.0.22", "9.9.9.9")
		b = ip4(netip.MustParseAddr(src), netip.MustParseAddr(dst), tos, ttl, proto, payload)
	} else {
		src := one(g, "fd00:0:86dd::2", "fd00:0:86dd::2", "fd00:0:86dd::", "fd00:0:86dd:10::9", // ours
			"fd00:0:86dd:1::2", "fd00:0:86dd:1::", "fd00:0:86dd:99::1", "fe80:0:86dd::1", "::86dd:0:0:0:0:1")
		dst := one(g, "fd00:0:86dd:1::2", "fd00:0:86dd:12::2", "fd00:0:86dd::3", "fd00:0:86dd:99::3",
			"ff02::16", "ff05::1", "fe80::2", "2001:db8::1")
		b = ip6(netip.MustParseAddr(src), netip.MustParseAddr(dst), tos, ttl, proto, payload)
	}
	if g.IntN(4) == 0 {
		for range 1 + g.IntN(3) {
			b[g.IntN(len(b))] ^= 1 << g.IntN(8)
		}
	}
	return b
}

// An skContext is struct __sk_buff of linux/bpf.h, in words.
type skContext [48]uint32

// context returns what the kernel, rules and other programs have noted of a packet: nothing, now and then, or
// anything in those fields that a trial run may set (convert___skb_to_skb in net/bpf/test_run.c). A VLAN is
// not among them, and a TUN has none.
func (g *generator) context() (c skContext) {
	const mark, priority, cb, timestamp = 2, 8, 12, 38
	if g.IntN(4) == 0 {
		return c
	}
	for _, field := range []int{mark, priority, cb, cb + 1, cb + 2, cb + 3, cb + 4, timestamp} {
		c[field] = one(g, 0, 1, 0x4000, g.Uint32())
	}
	return c
}

// What the program for sending leaves to user space for a reason is dropped there for the same
// one, and nothing else is: a foreign source above all.
func TestSentVerdicts(t *testing.T) {
	nstest.Require(t)
	m := sendingMesh()
	shareAmong(&m, "8.0.64.0/20", "b", "a") // of a, too, which carries it
	shareAmong(&m, "8.0.80.0/20", "b", "c")
	p, u := programsOf(t, m), newUserEngine(t, m)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0)), mesh: m}
	fates := map[string]int{}
	for range 20000 {
		b := g.sent()
		before, err := p.handle().handed()
		if err != nil {
			t.Fatal(err)
		}
		code, err := p.handle().Out.Run(&ebpf.RunOptions{Data: b, Context: g.context()})
		if err != nil {
			t.Fatal(err)
		}
		after, err := p.handle().handed()
		if err != nil {
			t.Fatal(err)
		}
		why := ""
		for reason := range after {
			if after[reason] != before[reason] {
				why = reason
			}
		}
		// No peer is known to be meshd: what would leave by the underlay is left for that.
		got := map[string]string{"plain_peer": "sent"}[why]
		if got == "" {
			got = why
		}
		want := u.send(b)
		if want == "" { // the kernel's own greetings, which are not counted
			want = "no_route"
		}
		// User space tells what a peer sent, and what this host has routed back, from other foreign sources.
		if got == "foreign_source" && want == "no_route" {
			got, why = want, "returned"
		}
		fates[why]++
		if code != 0xffffffff || got != want && got != "unusual" {
			t.Fatalf("code %d, handed as %q, but user space: %q: % x", code, why, want, b)
		}
	}
	t.Log(fates)
	for _, fate := range []string{"plain_peer", "foreign_source", "returned", "no_route", "ttl_expired",
		"unusual"} {
		if fates[fate] < 100 {
			t.Errorf("%d of %q: this tests little", fates[fate], fate)
		}
	}
}

// Without a subnet of a family no address of it is ours, not even one of zeros or ones.
func TestNoHome(t *testing.T) {
	nstest.Require(t)
	to4, to6 := netip.MustParseAddr("8.0.1.2"), netip.MustParseAddr("fd00:0:86dd:1::2")
	for _, family := range []int{0, 1} {
		m := sendingMesh()
		m.Peers[0].Subnets, m.Peers[0].Routes = m.Peers[0].Subnets[family:family+1], nil
		p := programsOf(t, m)
		before, err := p.handle().handed()
		if err != nil {
			t.Fatal(err)
		}
		packets := [][]byte{
			ip6(netip.MustParseAddr("::86dd:0:0:0:0:0"), to6, 0, 64, 17, make([]byte, 20)),
			ip6(netip.MustParseAddr("fd00:0:86dd:1::2"), to6, 0, 64, 17, make([]byte, 20)),
		}
		if family == 1 {
			packets = [][]byte{
				ip4(netip.MustParseAddr("8.0.0.0"), to4, 0, 64, 17, make([]byte, 40)),
				ip4(netip.MustParseAddr("8.0.255.255"), to4, 0, 64, 17, make([]byte, 40)),
			}
		}
		for _, b := range packets {
			if _, err := p.handle().Out.Run(&ebpf.RunOptions{Data: b}); err != nil {
				t.Fatal(err)
			}
		}
		after, err := p.handle().handed()
		if err != nil || after["foreign_source"]-before["foreign_source"] != uint64(len(packets)) {
			t.Errorf("%v, before %v, after %v", err, before, after)
		}
	}
}
