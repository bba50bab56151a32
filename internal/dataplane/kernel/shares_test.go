package kernel

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/peers"
)

// shareAmong puts a prefix behind nodes of a mesh, in order of preference.
func shareAmong(m *mesh.Mesh, prefix string, names ...string) {
	s := mesh.Share{Prefix: netip.MustParsePrefix(prefix)}
	m.Peers = slices.Clone(m.Peers)
	for _, name := range names {
		i := slices.IndexFunc(m.Peers, func(p mesh.Peer) bool { return p.Name == name })
		if !slices.Contains(m.Peers[i].Routes, s.Prefix) {
			m.Peers[i].Routes = append(slices.Clone(m.Peers[i].Routes), s.Prefix)
		}
		s.Carriers = append(s.Carriers, mesh.Carrier{Peer: name, Metric: 100 * (1 + len(s.Carriers))})
	}
	m.Shares = append(slices.Clone(m.Shares), s)
}

// From a shared prefix packets come from each of its carriers and from no other node, and to one they come
// where this node is a carrier, whoever carries it now. A longer prefix inside belongs to its own node.
func TestSharesIn(t *testing.T) {
	nstest.Require(t)
	m := meshOver(false)
	m.Peers[1].Routes, m.Peers[2].Routes = nil, []netip.Prefix{netip.MustParsePrefix("192.168.7.128/25")}
	shareAmong(&m, "192.168.0.0/16", "a", "c")
	shareAmong(&m, "192.168.7.0/24", "b", "c")
	shareAmong(&m, "192.168.8.0/24", "b", "a")
	shareAmong(&m, "fd99::/32", "b", "a")
	shareAmong(&m, "fd99:0:1::/48", "c", "b")
	p := programsOf(t, m)
	const delivered, spoofed, wrong = "", "spoofed_source", "wrong_destination"
	for _, test := range []struct{ from, source, destination, want string }{
		{"b", "192.168.7.1", "10.244.0.2", delivered},
		{"c", "192.168.7.1", "10.244.0.2", delivered},
		{"c", "192.168.7.129", "10.244.0.2", delivered},
		{"b", "192.168.7.129", "10.244.0.2", spoofed}, // in a prefix of c alone
		{"c", "192.168.9.1", "10.244.0.2", delivered},
		{"b", "192.168.9.1", "10.244.0.2", spoofed},
		{"c", "192.168.8.1", "10.244.0.2", spoofed}, // a carrier of the prefix around it alone
		{"b", "10.244.1.2", "192.168.8.1", delivered},
		{"b", "10.244.1.2", "192.168.9.1", delivered},
		{"b", "10.244.1.2", "192.168.7.1", wrong}, // this node is a carrier of the prefix around it alone
		{"b", "10.244.1.2", "192.168.7.129", wrong},
		{"c", "192.168.9.1", "192.168.9.2", delivered},
		{"b", "fd99::1", "fd00::2", delivered},
		{"c", "fd99::1", "fd00::2", spoofed},
		{"c", "fd99:0:1::1", "fd00::2", delivered},
		{"b", "fd99:0:1::1", "fd00::2", delivered},
		{"b", "fd00:0:0:1::2", "fd99::1", delivered},
		{"b", "fd00:0:0:1::2", "fd99:0:1::1", wrong},
	} {
		for _, carrier := range []string{"", "a", "b", "c"} {
			for _, s := range m.Shares {
				if err := p.Carry(s.Prefix, carrier); err != nil {
					t.Fatal(err)
				}
			}
			name := fmt.Sprintf("%s from %s to %s, carried by %q", test.from, test.source, test.destination, carrier)
			t.Run(name, func(t *testing.T) {
				if got := p.fate(t, test.from, test.source, test.destination); got != test.want {
					t.Errorf("%q, want %q", got, test.want)
				}
			})
		}
	}
}

// fate has XDP decide, which does not care for families, about a packet that a peer sent: empty if it is
// delivered, or why it is dropped.
func (p *Engine) fate(t *testing.T, from, source, destination string) string {
	t.Helper()
	src, dst := netip.MustParseAddr(source), netip.MustParseAddr(destination)
	inner := ip6
	if src.Is4() {
		inner = ip4
	}
	peer, _ := p.inMaps.peer(from)
	frame := outerTo(peer.Underlay().AddrPort, p.inMaps.Binds[0], 0, inner(src, dst, 0, 64, 17, make([]byte,
		40)))
	xdp, err := p.handle().loadXDP()
	if err != nil {
		t.Fatal(err)
	}
	v, left := p.decide(t, xdp, frame, nil, true)
	if left || (v.delivered == "") == (v.drop == "") {
		t.Fatalf("left %v, %+v", left, v)
	}
	if v.drop == "" {
		return ""
	}
	return v.drop[len(from)+1:]
}

// sentTo tells to which node programs send a packet from a pod of this node: they hand it over for a reason
// that was made for each of them.
func (p *Engine) sentTo(t *testing.T, source, destination string) string {
	t.Helper()
	packet := ip4(netip.MustParseAddr(source), netip.MustParseAddr(destination), 0, 64, 17, make([]byte, 40))
	why := handedBy(t, p.handle(), func() { run(t, p.handle().Out, packet, nil) })
	if name, known := map[string]string{"no_route": "a", "out_by_user": "b", "plain_peer": "c"}[why]; known {
		return name
	}
	return why
}

// Packets to a shared prefix go to the carrier that was said, or else to this node, or else to the first;
// so they do when it is said before there are shares, and when shares come and go.
func TestSharesOut(t *testing.T) {
	nstest.Require(t)
	plain := sendingMesh()
	plain.Peers[1].Routes, plain.Peers[2].Routes, plain.Shares = nil, nil, nil
	m := plain
	shareAmong(&m, "192.168.7.0/24", "c", "b")
	shareAmong(&m, "8.0.64.0/20", "b", "a", "c")
	seven, own := m.Shares[0].Prefix, m.Shares[1].Prefix
	p := programsOf(t, plain)
	carry := func(prefix mesh.Prefix, peer string) {
		t.Helper()
		if err := p.Carry(prefix, peer); err != nil {
			t.Fatal(err)
		}
	}
	goes := func(what, toSeven, toOwn string) {
		t.Helper()
		got := []string{p.sentTo(t, "8.0.0.2", "192.168.7.1"), p.sentTo(t, "8.0.0.2", "8.0.65.1")}
		if !slices.Equal(got, []string{toSeven, toOwn}) {
			t.Errorf("%s: packets go to %q, want %q and %q", what, got, toSeven, toOwn)
		}
	}
	set := func(m mesh.Mesh) {
		t.Helper()
		if err := p.set(m); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Learn("b", peers.Directive{OutByUser: true}); err != nil {
		t.Fatal(err)
	}
	goes("without shares", "a", "a")
	carry(seven, "b")
	set(m)
	goes("said before", "b", "a")
	carry(seven, "c")
	carry(own, "b")
	goes("said", "c", "b")
	if got := p.sentTo(t, "8.0.65.1", "8.0.2.2"); got != "c" {
		t.Errorf("a source in a shared prefix of this node, which b carries: %q", got)
	}
	if got := p.sentTo(t, "8.0.66.1", "8.0.2.2"); got != "c" {
		t.Errorf("another one: %q", got)
	}
	carry(own, "a")
	goes("this node again", "c", "a")
	carry(seven, "a")
	carry(own, "other")
	goes("no carriers of them", "c", "a")
	carry(seven, "b")
	set(plain)
	goes("the shares are gone", "a", "a")
	set(m)
	goes("they are back", "b", "a")
	one := plain
	one.Peers = slices.Clone(plain.Peers)
	one.Peers[1].Routes = []mesh.Prefix{seven}
	set(one)
	goes("one node has it alone", "b", "a")
	if p.fate(t, "b", "192.168.7.1", "8.0.0.2") != "" || p.fate(t, "c", "192.168.7.1",
		"8.0.0.2") != "spoofed_source" {
		t.Error("packets from it do not come from its node alone")
	}
	if len(p.held(t).carriers) != 0 {
		t.Errorf("%+v", p.held(t).carriers)
	}
}

// behind tells which nodes have the longest prefix of an address, by a look at every prefix: the oracle of
// the tries.
func behind(m mesh.Mesh, address netip.Addr) (names []string) {
	bits := -1
	for _, p := range m.Peers {
		for _, prefix := range slices.Concat(p.Subnets, p.Routes) {
			switch {
			case !prefix.Contains(address) || prefix.Bits() < bits:
			case prefix.Bits() > bits:
				bits, names = prefix.Bits(), []string{p.Name}
			default:
				names = append(names, p.Name)
			}
		}
	}
	return names
}

// nested returns a mesh whose prefixes are in each other, and often behind several nodes.
func nested(r *rand.Rand) mesh.Mesh {
	m := meshAt([]string{"172.18.0.2:8285"}, []string{"172.18.0.3:8285"}, []string{"172.18.0.4:9000"},
		[]string{"172.18.0.5:8285"})
	names := []string{"a", "b", "c", "d"}
	for i := range m.Peers {
		m.Peers[i].Routes = nil
	}
	for _, base := range []string{"192.168.7.0", "fd99:0:1::"} {
		address := netip.MustParseAddr(base)
		for _, bits := range []int{0, 8, 17, 20, 24, 29} {
			prefix := netip.PrefixFrom(address, address.BitLen()/32*bits).Masked()
			r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
			switch n := r.IntN(len(names)); n {
			case 0: // none has it
			case 1:
				i := slices.IndexFunc(m.Peers, func(p mesh.Peer) bool { return p.Name == names[0] })
				m.Peers[i].Routes = append(m.Peers[i].Routes, prefix)
			default:
				shareAmong(&m, prefix.String(), names[:n]...)
			}
		}
	}
	return m
}

// Whatever nodes share, the programs decide as a slow look at every prefix does, also while shares change.
func TestSharesAtRandom(t *testing.T) {
	nstest.Require(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	p := programsOf(t, nested(r))
	fates := map[string]int{}
	for range 100 {
		m := nested(r)
		if err := p.set(m); err != nil {
			t.Fatal(err)
		}
		for range 40 {
			if len(m.Shares) > 0 {
				s := m.Shares[r.IntN(len(m.Shares))]
				if err := p.Carry(s.Prefix, s.Carriers[r.IntN(len(s.Carriers))].Peer); err != nil {
					t.Fatal(err)
				}
			}
			from, source, destination := []string{"b", "c", "d"}[r.IntN(3)], randomAddress(r), randomAddress(r)
			if source.Is4() != destination.Is4() {
				continue
			}
			sources, destinations := behind(m, source), behind(m, destination)
			want := ""
			if !slices.Contains(sources, from) {
				want = "spoofed_source"
			} else if !slices.Contains(destinations, "a") {
				want = "wrong_destination"
			}
			got := p.fate(t, from, source.String(), destination.String())
			if fates[got]++; got != want {
				t.Fatalf("from %s, %s to %s: %q, want %q: sources %v, destinations %v\n%+v",
					from, source, destination, got, want, sources, destinations, m)
			}
		}
	}
	t.Log(fates)
	for _, fate := range []string{"", "spoofed_source", "wrong_destination"} {
		if fates[fate] < 50 {
			t.Errorf("%d of %q: this tests little", fates[fate], fate)
		}
	}
}

// randomAddress returns an address in or near the nested prefixes.
func randomAddress(r *rand.Rand) netip.Addr {
	if r.IntN(2) == 0 {
		b := netip.MustParseAddr("192.168.7.0").As4()
		b[r.IntN(4)] ^= 1 << r.IntN(8)
		b[3] ^= byte(r.IntN(2))
		return netip.AddrFrom4(b)
	}
	b := netip.MustParseAddr("fd99:0:1::").As16()
	b[r.IntN(16)] ^= 1 << r.IntN(8)
	return netip.AddrFrom16(b)
}

// A share that nothing but its carriers' order has changed of, and one of ten thousand nodes that joins one,
// cost their own writes.
func TestSharesAreCheap(t *testing.T) {
	m := large(10_000)
	shareAmong(&m, "192.168.7.0/24", "n7", "n8")
	shareAmong(&m, "192.168.8.0/24", "n7", "n8", "n9")
	before := contentsOf(dataplane.Wanted{Mesh: m, Binds: []netip.AddrPort{m.Peers[0].Underlay().AddrPort}}, nil)
	held := newTables()
	numbers := held.numbersFor(m)
	held.changeTo(before, numbers, nil, learned{}).do(&held)
	next := m
	next.Shares = next.Shares[:1]
	shareAmong(&next, "192.168.8.0/24", "n7", "n8", "n9", "n5000") // others have it already
	for i := range next.Peers {
		if next.Peers[i].Name != "n5000" {
			next.Peers[i].Routes = m.Peers[i].Routes
		}
	}
	w := before.Wanted
	w.Mesh = next
	c := held.changeTo(contentsOf(w, before), held.numbersFor(next), before, learned{})
	if len(c.carriers.put) != 1 || len(c.carriers.drop)+len(c.prefixes4.drop)+len(c.prefixes6.drop) != 0 ||
		len(c.prefixes4.put)+len(c.prefixes6.put)+len(c.nodes.put)+len(c.senders.put)+len(c.owns.put) != 0 {
		t.Errorf("%+v", c)
	}
}
