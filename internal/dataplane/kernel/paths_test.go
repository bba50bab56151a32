package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/peers"
)

// Packets go via the address that was learned, from the own one that the host's routes name, in headers of
// its family; and via the first that can be where the peer does not have it.
func TestPaths(t *testing.T) {
	c := newCrossroads(t)
	at := netip.MustParseAddrPort
	first, second, third := at("172.18.0.3:8285"), at("[fd10::3]:9003"), at("172.18.9.3:9103")
	const own, own6, other = "172.18.0.2:8285", "[fd10::2]:9002", "172.18.9.2:9102"
	only6 := func(w *dataplane.Wanted) { w.Binds = w.Binds[1:2] }
	for _, test := range []struct {
		name     string
		via      netip.AddrPort
		sources  map[netip.Addr]int
		change   func(*dataplane.Wanted)
		from, to string
	}{
		{"nothing is said", netip.AddrPort{}, nil, nil, own, first.String()},
		{"the first", first, nil, nil, own, first.String()},
		{"of the other family", second, nil, nil, own6, second.String()},
		{"the third", third, nil, nil, own, third.String()},
		{"as routes say", third, map[netip.Addr]int{third.Addr(): 2}, nil, other, third.String()},
		{"another one, as routes say", first, map[netip.Addr]int{first.Addr(): 2}, nil, other, first.String()},
		{"one that it does not have", at("172.18.0.4:8285"), nil, nil, own, first.String()},
		{"another port", at("172.18.0.3:9"), nil, nil, own, first.String()},
		{"a host of one family", netip.AddrPort{}, nil, only6, own6, second.String()},
		{"of a family that the host does not have", third, nil, only6, own6, second.String()},
	} {
		t.Run(test.name, func(t *testing.T) {
			c.t = t
			before := c.wanted
			defer func() { c.wanted = before }()
			c.wanted.Sources = test.sources
			if test.change != nil {
				test.change(&c.wanted)
			}
			if err := c.learn(test.via); err != nil {
				t.Fatal(err)
			}
			c.apply()
			c.send(1)
			if a, _ := c.next(); a.from.String() != test.from || a.to.String() != test.to {
				t.Errorf("from %s to %s, want %s to %s", a.from, a.to, test.from, test.to)
			}
		})
	}
}

// Under load packets go via one address, and then via another: none is lost, none comes twice, and none has
// headers of two paths or goes to another peer. Elements of other peers change meanwhile.
func TestPathsChangeUnderLoad(t *testing.T) {
	c := newCrossroads(t)
	all := c.wanted.Mesh.Peers[1].Addresses
	froms := map[netip.AddrPort]string{all[0].AddrPort: "172.18.0.2:8285", all[1].AddrPort: "[fd10::2]:9002",
		all[2].AddrPort: "172.18.0.2:8285"}
	if err := c.learn(all[0].AddrPort); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var changes atomic.Int64
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; !stop.Load(); i++ {
			others := c.wanted.Mesh.Peers[2].Addresses
			err := errors.Join(c.learn(all[i%len(all)].AddrPort),
				c.engine.Learn("c", peers.Directive{Via: others[i%len(others)].AddrPort}))
			if err != nil {
				t.Error(err)
				return
			}
			changes.Add(1)
		}
	})
	defer writer.Wait()
	defer stop.Store(true)
	const packets, window = 30000, 64
	seen, ways := map[uint64]bool{}, map[netip.AddrPort]int{}
	for sent := uint64(0); len(seen) < packets; {
		for ; sent < packets && sent < uint64(len(seen)+window); sent++ {
			c.send(sent)
		}
		if len(c.arrived) == 0 && uint64(len(seen))+c.engine.handed(t) == packets {
			break
		}
		a, number := c.next()
		if seen[number] || a.from.String() != froms[a.to] {
			t.Fatalf("packet %d came from %s to %s, before: %v", number, a.from, a.to, seen[number])
		}
		seen[number] = true
		ways[a.to]++
	}
	t.Logf("%d changes, packets by address: %v", changes.Load(), ways)
	if len(ways) != len(all) {
		t.Errorf("packets went by %v alone", ways)
	}
	// One whose path was replaced while it was looked at is left to user space, which this test has not.
	handed, err := c.engine.handle().handed()
	if err != nil || handed["unusual"] != c.engine.handed(t) || handed["unusual"] > packets/100 {
		t.Errorf("%v, handed over: %v", err, handed)
	}
	if r := c.engine.counters(t); r.Peers["b"].TxPackets+handed["unusual"] != packets {
		t.Errorf("%+v", r.Peers["b"])
	}
}

// A peer without an address that this host can send to is known by its prefixes: packets to it are left to
// user space, for a reason of their own, and packets of others go on. Once it has an address, all is well.
func TestPeerWithoutAddress(t *testing.T) {
	nstest.Require(t)
	whole := sendingMesh()
	to := ip4(netip.MustParseAddr("8.0.0.2"), netip.MustParseAddr("8.0.1.2"), 0, 64, 17, make([]byte, 40))
	for name, test := range map[string]struct {
		change func(*dataplane.Wanted)
		want   string
	}{
		"it has an address": {func(*dataplane.Wanted) {}, "no_underlay_route"},
		"its name is not resolved": {func(w *dataplane.Wanted) { w.Mesh.Peers[1].Addresses = nil },
			"no_address"},
		"no family in common": {func(w *dataplane.Wanted) {
			w.Mesh.Peers[1].Addresses = []mesh.Endpoint{endpoint("[fd10::3]:8285")}
		}, "no_address"},
		"this host's address is not there": {func(w *dataplane.Wanted) {
			w.Binds = []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:8285")}
		}, "no_address"},
	} {
		t.Run(name, func(t *testing.T) {
			m := whole
			m.Peers = slices.Clone(m.Peers)
			p := programsOf(t, m)
			if err := p.Learn("b", directive(true)); err != nil {
				t.Fatal(err)
			}
			w := wantedOver(m, "", dataplane.TCX)
			w.Mesh.Peers = slices.Clone(m.Peers)
			test.change(&w)
			for _, step := range []struct {
				dataplane.Wanted
				want string
			}{{w, test.want}, {wantedOver(whole, "", dataplane.TCX), "no_underlay_route"}, {w, test.want}} {
				if err := p.setMesh(step.Wanted); err != nil {
					t.Fatal(err)
				}
				for _, d := range []peers.Directive{{}, directive(true)} { // it is learned of meanwhile, too
					if err := p.Learn("b", d); err != nil {
						t.Fatal(err)
					}
				}
				if why := handedBy(t, p.handle(), func() { run(t, p.handle().Out, to, nil) }); why != step.want {
					t.Errorf("handed over as %q, want %q", why, step.want)
				}
			}
			if h := p.HeardBy("b")[0]; !h.Programs.IsZero() {
				t.Errorf("%+v", h)
			}
		})
	}
}

// Packets fit a path by the headers of its family, whichever the first of this node's addresses has.
func TestMTUOfPaths(t *testing.T) {
	nstest.Require(t)
	m := sendingMesh()
	m.Peers[0].Addresses = []mesh.Endpoint{endpoint("172.18.0.2:8285"), endpoint("[fd10::2]:8285")}
	m.Peers[1].Addresses = []mesh.Endpoint{endpoint("172.18.0.3:8285"), endpoint("[fd10::3]:8285")}
	a, b := netip.MustParseAddr("8.0.0.2"), netip.MustParseAddr("8.0.1.2")
	p := programsOf(t, m)
	for _, test := range []struct {
		name              string
		via               int
		inner, outer, mtu int
		want              int
	}{
		{"IPv4", 0, 1472, 1500, 0, 1472}, {"IPv6", 1, 1472, 1500, 0, 1452},
		{"IPv4, narrow interface", 0, 1400, 1500, 0, 1400}, {"IPv6, narrow interface", 1, 1400, 1500, 0, 1400},
		{"IPv6 first", 0, 1452, 1500, 0, 1452}, {"IPv6, probed", 1, 1472, 1500, 1300, 1300},
		{"IPv6, wider than the narrowest", 1, 1472, 1500, 1460, 1460},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := wantedOver(m, "", dataplane.TCX)
			w.Kernel.MTU, w.Kernel.Outer = test.inner, test.outer
			d := peers.Directive{Finishes: true, MTU: test.mtu, Via: m.Peers[1].Addresses[test.via].AddrPort}
			if err := errors.Join(p.configureFor(w), p.Learn("b", d)); err != nil {
				t.Fatal(err)
			}
			for size, want := range map[int]string{test.want: "no_underlay_route", test.want + 1: "too_big"} {
				packet := ip4(a, b, 0, 64, 17, make([]byte, size-20))
				why := handedBy(t, p.handle(), func() { run(t, p.handle().Out, packet, nil) })
				if why != want {
					t.Errorf("%d bytes are handed over as %q, want %q", size, why, want)
				}
			}
		})
	}
}

// The host's rules decide about what a peer sends, whichever of its addresses it sends from.
func TestInBySocketFromEachAddress(t *testing.T) {
	nstest.Require(t)
	m := meshOverBoth()
	p := programsOf(t, m)
	for _, by := range []bool{true, false} {
		if err := p.Learn("b", peers.Directive{Finishes: true, InBySocket: by}); err != nil {
			t.Fatal(err)
		}
		for _, from := range m.Peers[1].Addresses {
			for _, to := range m.Peers[0].Addresses {
				if from.Addr().Is4() != to.Addr().Is4() {
					continue
				}
				t.Run(fmt.Sprintf("%s to %s, %v", from, to, by), func(t *testing.T) {
					pod, ours := netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("10.244.0.2")
					inner := ip4(pod, ours, 0, 64, 17, make([]byte, 40))
					if from.Addr().Is6() {
						pod, ours = netip.MustParseAddr("fd00:0:0:1::2"), netip.MustParseAddr("fd00::2")
						inner = ip6(pod, ours, 0, 64, 17, make([]byte, 40))
					}
					frame := outerTo(from.AddrPort, to.AddrPort, 0, inner)
					var left bool
					why := handedBy(t, p.handle(), func() {
						_, left = p.decide(t, p.handle().In, frame, nil, true)
					})
					if left != by || by && why != "in_by_socket" {
						t.Errorf("left %v, handed over as %q", left, why)
					}
				})
			}
		}
	}
}

// Errors about datagrams to any address of a node, from any of ours, find the socket that has that address.
func TestErrorsOfPaths(t *testing.T) {
	nstest.Require(t)
	m := meshOverBoth()
	p := programsOf(t, m)
	w := wantedOver(m, "", dataplane.TCX)
	w.Spread = true
	if err := p.configureFor(w); err != nil {
		t.Fatal(err)
	}
	for _, own := range m.Peers[0].Addresses {
		for _, about := range slices.Concat(m.Peers[1].Addresses, m.Peers[2].Addresses) {
			if own.Addr().Is4() != about.Addr().Is4() {
				continue
			}
			t.Run(own.String()+" to "+about.String(), func(t *testing.T) {
				r := report{kind: 3, to: own.Addr(), from: netip.AddrPortFrom(own.Addr(), 0xc123),
					about: about.AddrPort, protocol: 17, quoted: 8}
				if own.Addr().Is6() {
					r.kind = 2
				}
				mended := func() uint16 {
					t.Helper()
					_, _, came := run(t, p.handle().In, r.frame(), nil)
					port, right := quotedPort(came)
					if !right {
						t.Error("the checksum is wrong")
					}
					return port
				}
				if port := mended(); port != own.Port() {
					t.Errorf("quotes port %d, want %d", port, own.Port())
				}
				// The address may be ours, and the error about the datagram of another one.
				other := cmp.Or(map[bool]string{true: "172.18.9.9", false: "fd10::99"}[own.Addr().Is4()])
				r.from = netip.AddrPortFrom(netip.MustParseAddr(other), 0xc123)
				if port := mended(); port != 0xc123 {
					t.Errorf("of another host: quotes port %d", port)
				}
			})
		}
	}
}

// The next meshd has packets go on by the path that was learned, and by the carrier that was said, until it
// is told otherwise.
func TestTakeOverOfPaths(t *testing.T) {
	onHost(t, func(t *testing.T, w dataplane.Wanted) {
		m := meshOverBoth()
		shared := netip.MustParsePrefix("192.168.99.0/24")
		for i := range m.Peers {
			m.Peers[i].Routes = append(m.Peers[i].Routes, shared)
		}
		m.Shares = []mesh.Share{{Prefix: shared, Carriers: []mesh.Carrier{{Peer: "a"}, {Peer: "b"}, {Peer: "c"}}}}
		next := wantedOver(m, w.Interface, dataplane.TCX, w.Kernel.Underlay...)
		second := m.Peers[1].Addresses[1].AddrPort
		first := quiet()
		first.does(t, next)
		noErrors(t, first.Learn("b", peers.Directive{Finishes: true, Via: second, InBySocket: true, MTU: 1300}))
		noErrors(t, first.Carry(shared, "c"))
		before := first.held(t)
		other := quiet()
		noErrors(t, other.Learn("c", directive(true))) // before there are tables
		other.does(t, next)
		number := other.tables.numbers["b"]
		if got, want := other.held(t).nodes[number], before.nodes[number]; got != want || got.Path.via() != second {
			t.Errorf("%+v, before %+v", got, want)
		}
		for _, a := range m.Peers[1].Addresses {
			if s := other.held(t).senders[sourceOf(a.Addr())]; s.BySocket == 0 || s.Number != number {
				t.Errorf("from %s: %+v", a, s)
			}
		}
		key := prefix4Of(shared)
		if got := other.held(t).prefixes4[key]; got != leadsTo(shared, other.tables.numbers["c"]) {
			t.Errorf("%s leads to %#x", shared, got)
		}
		if node := other.tables.nodes[other.tables.numbers["c"]]; node.Path.Finishes == 0 {
			t.Errorf("forgot what was learned before: %+v", node)
		}
		noErrors(t, other.Learn("b", directive(true)))
		noErrors(t, other.Carry(shared, ""))
		if got := other.held(t).nodes[number].Path.via(); got != m.Peers[1].Addresses[0].AddrPort {
			t.Errorf("told otherwise, it goes via %s", got)
		}
		if got := other.held(t).prefixes4[key]; got != leadsTo(shared, self) {
			t.Errorf("told otherwise, %s leads to %#x", shared, got)
		}
		noErrors(t, other.Remove(t.Context()))
		nothingIsLeft(t)
	})
}
