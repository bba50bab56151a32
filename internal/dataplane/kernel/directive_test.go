package kernel

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"testing"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/peers"
)

// What a directive, or a rule of the host, leaves to user space the programs leave there, whatever
// was learned before and after, and they tell when.
func TestLeftToTheHost(t *testing.T) {
	nstest.Require(t)
	m := sendingMesh()
	a, b := netip.MustParseAddr("8.0.0.2"), netip.MustParseAddr("8.0.1.2")
	g := &generator{Rand: rand.New(rand.NewPCG(1, 0)), mesh: m}
	from := g.outer(m.Peers[1].Underlay().AddrPort, 0, ip4(b, a, 0, 64, 17, make([]byte, 40)))
	to := ip4(a, b, 0, 64, 17, make([]byte, 40))
	known, none := peers.Directive{Finishes: true}, dataplane.Policed{}
	bothWays := peers.Directive{Finishes: true, OutByUser: true, InBySocket: true}
	for _, c := range []struct {
		name    string
		learned []peers.Directive
		policed dataplane.Policed
		in, out bool // packets from and to the peer are left to user space
	}{
		{"nothing", []peers.Directive{known}, none, false, false},
		{"out", []peers.Directive{{Finishes: true, OutByUser: true}}, none, false, true},
		{"in", []peers.Directive{{Finishes: true, InBySocket: true}}, none, true, false},
		{"a peer that is not meshd", []peers.Directive{{OutByUser: true}}, none, false, true},
		{"no more", []peers.Directive{bothWays, known}, none, false, false},
		{"a policy", nil, dataplane.Policed{Out: true, In: true}, true, true},
		{"a rule on the way out", nil, dataplane.Policed{Out: true}, false, true},
		{"a policy, whatever is learned", []peers.Directive{bothWays, known},
			dataplane.Policed{Out: true, In: true}, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := programsOf(t, m)
			w := wantedOver(m, "", dataplane.TCX)
			w.Kernel.Policed = map[string]dataplane.Policed{"b": c.policed}
			if err := p.setMesh(w); err != nil {
				t.Fatal(err)
			}
			for _, d := range c.learned {
				if err := p.Learn("b", d); err != nil {
					t.Fatal(err)
				}
			}
			h := p.handle()
			in := handedBy(t, h, func() { run(t, h.In, from, nil) })
			out := handedBy(t, h, func() { run(t, h.Out, to, nil) })
			if (in == "in_by_socket") != c.in || (out == "out_by_user") != c.out {
				t.Errorf("in: handed as %q, out: %q", in, out)
			}
			heard := p.HeardBy("b")[0]
			if heard.Programs.IsZero() != c.in || heard.Left.IsZero() == c.in {
				t.Errorf("%+v", heard)
			}
		})
	}
}

// Packets are handed over from the size on that probes have found, and where nothing was found, from that
// of the narrowest interface on.
func TestMTUOfAPeer(t *testing.T) {
	nstest.Require(t)
	m := sendingMesh()
	a, b := netip.MustParseAddr("8.0.0.2"), netip.MustParseAddr("8.0.1.2")
	p := programsOf(t, m)
	if err := p.set(m); err != nil {
		t.Fatal(err)
	}
	for _, mtu := range []int{600, 1000, 0} {
		if err := p.Learn("b", peers.Directive{Finishes: true, MTU: mtu}); err != nil {
			t.Fatal(err)
		}
		limit := cmp.Or(mtu, int(p.settings.Mtu))
		for size, want := range map[int]bool{limit: false, limit + 1: true} {
			packet := ip4(a, b, 0, 64, 17, make([]byte, size-20))
			why := handedBy(t, p.handle(), func() { run(t, p.handle().Out, packet, nil) })
			if got := why == "too_big"; got != want {
				t.Errorf("limit %d: %d bytes are handed over as %q", limit, size, why)
			}
		}
	}
}

// handedBy returns the reason for which a program handed a packet over; empty if it did not.
func handedBy(t *testing.T, h *handle, f func()) (why string) {
	t.Helper()
	before, err := h.handed()
	if err != nil {
		t.Fatal(err)
	}
	f()
	after, err := h.handed()
	if err != nil {
		t.Fatal(err)
	}
	for reason := range after {
		if after[reason] != before[reason] {
			why = reason
		}
	}
	return why
}
