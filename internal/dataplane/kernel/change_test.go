package kernel

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/peers"
)

// randomMesh returns a mesh of some of eight nodes, whose addresses and prefixes move among them.
func randomMesh(r *rand.Rand) mesh.Mesh {
	names := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	m := mesh.Mesh{Self: names[r.IntN(2)]}
	addresses, prefixes := r.Perm(20), r.Perm(40)
	take := func() (p mesh.Prefix) {
		p = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(prefixes[0]), 0}), 24)
		if prefixes[0]%2 == 1 {
			p = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 1: byte(prefixes[0])}), 64)
		}
		prefixes = prefixes[1:]
		return p
	}
	for _, name := range names {
		if name != m.Self && r.IntN(3) == 0 {
			continue
		}
		p := mesh.Peer{Name: name, Addresses: []mesh.Endpoint{endpoint(fmt.Sprintf("172.18.0.%d:8285", addresses[0]))}}
		addresses = addresses[1:]
		for range 1 + r.IntN(2) {
			p.Subnets = append(p.Subnets, take())
		}
		for range r.IntN(3) {
			p.Routes = append(p.Routes, take())
		}
		m.Peers = append(m.Peers, p)
	}
	r.Shuffle(len(m.Peers), func(i, j int) { m.Peers[i], m.Peers[j] = m.Peers[j], m.Peers[i] })
	return m
}

// all returns the tables of a mesh, entered node by node: what every way there has to lead to.
func all(c contents, numbers map[string]uint32, known map[string]peers.Directive) tables {
	t := newTables()
	t.numbers = numbers
	for _, p := range c.mesh.Peers {
		t.add(p, numbers[p.Name], respecting(known[p.Name], c.policed[p.Name]))
	}
	return t
}

// copied returns tables with maps of their own.
func (t tables) copied() tables {
	t.nodes, t.senders = maps.Clone(t.nodes), maps.Clone(t.senders)
	t.prefixes4, t.prefixes6 = maps.Clone(t.prefixes4), maps.Clone(t.prefixes6)
	return t
}

// From every mesh to every other one, and back, there is a way, whatever differs between them.
func TestChanges(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	known := map[string]peers.Directive{"b": directive(true), "c": directive(true)}
	held := newTables()
	var before *contents
	for step := range 3000 {
		m := randomMesh(r)
		if before != nil && r.IntN(2) == 0 { // one node of it is another
			m.Self, m.Peers = before.mesh.Self, slices.Clone(before.mesh.Peers)
			i := r.IntN(len(m.Peers))
			m.Peers[i].Routes = []mesh.Prefix{netip.MustParsePrefix(fmt.Sprintf("192.168.%d.0/24", step%250))}
		}
		numbers := held.numbersFor(m)
		if r.IntN(4) == 0 {
			before = nil // as after an earlier meshd
		}
		next := contents{m, map[string]dataplane.Policed{
			"c": {Out: r.IntN(2) == 0, In: r.IntN(2) == 0}, "d": {Out: r.IntN(2) == 0}}}
		c := held.changeTo(next, numbers, before, known)
		was := held.copied()
		back := c.back(held)
		c.do(&held)
		if want := all(next, numbers, known); !reflect.DeepEqual(held, want) {
			t.Fatalf("to %+v:\n%+v\nwant\n%+v", m, held, want)
		}
		if r.IntN(4) == 0 {
			back.do(&held)
			if !reflect.DeepEqual(held, was) {
				t.Fatalf("back from %+v:\n%+v\nwant\n%+v", m, held, was)
			}
			continue
		}
		before = &next
	}
}

// A write that fails for the moment is made again, and no other one is; what lasts is an error.
func TestAgain(t *testing.T) {
	for name, test := range map[string]struct {
		err   error
		times int
		again bool
	}{
		"no memory":        {unix.ENOMEM, 3, true},
		"locked":           {unix.EBUSY, 3, true},
		"interrupted":      {unix.EAGAIN, 3, true},
		"never":            {unix.ENOMEM, 1000, true},
		"full":             {unix.ENOSPC, 3, false},
		"nothing is there": {unix.ENOENT, 3, false},
	} {
		t.Run(name, func(t *testing.T) {
			calls := 0
			err := again(func() error {
				if calls++; calls > test.times {
					return nil
				}
				return fmt.Errorf("update: %w", test.err)
			})
			worked := test.again && test.times < 10
			if (err == nil) != worked || err != nil && !errors.Is(err, test.err) || !test.again && calls != 1 {
				t.Errorf("%v after %d calls", err, calls)
			}
		})
	}
}

// large returns a mesh of many nodes with six prefixes each.
func large(nodes int) mesh.Mesh {
	m := mesh.Mesh{Self: "n0"}
	for i := range nodes {
		a, b := byte(i>>8), byte(i)
		p := mesh.Peer{Name: fmt.Sprintf("n%d", i),
			Addresses: []mesh.Endpoint{{AddrPort: netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 16, a, b}), 8285)}}}
		for k := range byte(4) {
			p.Subnets = append(p.Subnets, netip.PrefixFrom(netip.AddrFrom4([4]byte{10 + k, a, b, 0}), 24))
		}
		for k := range byte(2) {
			v6 := netip.AddrFrom16([16]byte{0xfd, 1: k, 2: a, 3: b})
			p.Routes = append(p.Routes, netip.PrefixFrom(v6, 64))
		}
		m.Peers = append(m.Peers, p)
	}
	return m
}

// Ten thousand nodes fit, each with counters of its own, and one that changes costs its own writes.
func TestTenThousandNodes(t *testing.T) {
	nstest.Require(t)
	m := large(10_000)
	p := programsOf(t, m)
	held := p.held(t)
	if len(held.nodes) != 10_000 || len(held.prefixes4) != 40_000 || len(held.prefixes6) != 20_000 {
		t.Errorf("%d nodes, %d and %d prefixes", len(held.nodes), len(held.prefixes4), len(held.prefixes6))
	}
	if r := p.Read(); len(r.Peers) != 9_999 {
		t.Errorf("%d peers are counted", len(r.Peers))
	}
	other := m
	other.Peers = slices.Clone(m.Peers)
	other.Peers[7000].Addresses = []mesh.Endpoint{endpoint("172.31.0.1:8285")}
	other.Peers[7001].Routes = other.Peers[7001].Routes[1:]
	c := p.tables.changeTo(contents{mesh: other}, p.tables.numbersFor(other), p.inMaps, p.known)
	if len(c.nodes.put) != 1 || len(c.senders.put) != 1 || len(c.senders.drop) != 1 ||
		len(c.prefixes6.drop) != 1 || len(c.prefixes4.put)+len(c.prefixes6.put) != 0 ||
		len(c.prefixes4.drop)+len(c.nodes.drop)+len(c.joined) != 0 {
		t.Errorf("%+v", c)
	}
	if err := p.setMesh(other, nil); err != nil {
		t.Fatal(err)
	}
	held = p.held(t)
	if !reflect.DeepEqual(held.nodes, p.tables.nodes) || !reflect.DeepEqual(held.senders, p.tables.senders) {
		t.Error("the maps are not as the mesh is")
	}
}

// A file may replace nearly all nodes at once. The maps have no room for those that come beside those that
// go, so some go first; the others, and what was counted, stay.
func TestTenThousandOtherNodes(t *testing.T) {
	nstest.Require(t)
	m := large(10_000)
	p := programsOf(t, m)
	const kept = 100
	number := p.tables.numbers["n99"]
	other := m
	other.Peers = slices.Clone(m.Peers)
	for i := range other.Peers[kept:] {
		o := &other.Peers[kept+i]
		a := o.Underlay().Addr().As4()
		*o = mesh.Peer{Name: "other" + o.Name, Subnets: slices.Clone(o.Subnets), Routes: o.Routes[:1],
			Addresses: []mesh.Endpoint{{AddrPort: netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 30, a[2], a[3]}), 8285)}}}
		o.Subnets[0] = netip.PrefixFrom(netip.AddrFrom4([4]byte{20, a[2], a[3], 0}), 24)
	}
	for i, m := range []mesh.Mesh{other, m} {
		name := []string{"there", "and back"}[i]
		if err := p.setMesh(m, nil); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		held := p.held(t)
		if len(held.nodes) != 10_000 || !reflect.DeepEqual(held.nodes, p.tables.nodes) ||
			!reflect.DeepEqual(held.senders, p.tables.senders) ||
			!reflect.DeepEqual(held.prefixes4, p.tables.prefixes4) ||
			!reflect.DeepEqual(held.prefixes6, p.tables.prefixes6) {
			t.Errorf("%s: the maps are not as the mesh is: %d nodes", name, len(held.nodes))
		}
		want := newTables()
		for _, peer := range m.Peers {
			want.add(peer, p.tables.numbers[peer.Name], peers.Directive{})
		}
		if !reflect.DeepEqual(held.prefixes4, want.prefixes4) || !reflect.DeepEqual(held.senders, want.senders) {
			t.Errorf("%s: the maps are not as wanted", name)
		}
		if p.tables.numbers["n99"] != number {
			t.Errorf("%s: a node that stays has got another number", name)
		}
	}
}

// BenchmarkSetMesh is how long the tables of 10,000 nodes take: all of them, one node, and none.
func BenchmarkSetMesh(b *testing.B) {
	nstest.Require(b)
	m := large(10_000)
	other := m
	other.Peers = slices.Clone(m.Peers)
	other.Peers[7000].Addresses = []mesh.Endpoint{endpoint("172.31.0.1:8285")}
	b.Run("start", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			p := unpinned(b)
			if err := p.load(); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			if err := p.setMesh(m, nil); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if err := p.leave(); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	p := programsOf(b, m)
	for name, meshes := range map[string][2]mesh.Mesh{"one node": {other, m}, "nothing": {m, m}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				began := time.Now()
				for _, m := range meshes {
					if err := p.setMesh(m, nil); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(time.Since(began).Microseconds())/2, "us/change")
			}
		})
	}
}
