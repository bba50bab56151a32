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

// randomMesh returns a mesh of some of eight nodes, whose addresses and prefixes move among them. Some
// prefixes are behind several nodes.
func randomMesh(r *rand.Rand) mesh.Mesh {
	names := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	m := mesh.Mesh{Self: names[r.IntN(2)]}
	addresses, prefixes := r.Perm(30), r.Perm(40)
	take := func() (p mesh.Prefix) {
		p, prefixes = randomPrefix(prefixes[0]), prefixes[1:]
		return p
	}
	for _, name := range names {
		if name != m.Self && r.IntN(3) == 0 {
			continue
		}
		p := mesh.Peer{Name: name}
		for range r.IntN(4) { // none: its names are not resolved
			at := fmt.Sprintf("172.18.0.%d:8285", addresses[0])
			if addresses[0]%2 == 1 {
				at = fmt.Sprintf("[fd10::%d]:9000", addresses[0])
			}
			p.Addresses, addresses = append(p.Addresses, endpoint(at)), addresses[1:]
		}
		for range 1 + r.IntN(2) {
			p.Subnets = append(p.Subnets, take())
		}
		for range r.IntN(3) {
			p.Routes = append(p.Routes, take())
		}
		m.Peers = append(m.Peers, p)
	}
	r.Shuffle(len(m.Peers), func(i, j int) { m.Peers[i], m.Peers[j] = m.Peers[j], m.Peers[i] })
	for i := range 4 { // numbers that no node of its own has
		share(r, &m, randomPrefix(40+i))
	}
	return m
}

// randomPrefix returns the prefix of a number.
func randomPrefix(n int) mesh.Prefix {
	if n%2 == 1 {
		return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 1: byte(n)}), 64)
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(n), 0}), 24)
}

// share puts a prefix behind some nodes of a mesh: none, one, or several of them.
func share(r *rand.Rand, m *mesh.Mesh, prefix mesh.Prefix) {
	s := mesh.Share{Prefix: prefix}
	for _, i := range r.Perm(len(m.Peers))[:r.IntN(min(4, len(m.Peers)))] {
		m.Peers[i].Routes = append(slices.Clone(m.Peers[i].Routes), prefix)
		s.Carriers = append(s.Carriers, mesh.Carrier{Peer: m.Peers[i].Name, Metric: 100})
	}
	if len(s.Carriers) > 1 {
		m.Shares = append(m.Shares, s)
	}
}

// randomWanted returns what is wanted with a mesh: own addresses of one family or both, from some of which
// datagrams leave for some peers.
func randomWanted(r *rand.Rand, m mesh.Mesh) dataplane.Wanted {
	var binds []netip.AddrPort
	for _, b := range []string{"172.18.9.1:8285", "[fd10::9]:8285", "172.18.9.2:9000", "[::]:8285"} {
		binds = append(binds, netip.MustParseAddrPort(b))
	}
	r.Shuffle(len(binds), func(i, j int) { binds[i], binds[j] = binds[j], binds[i] })
	w := dataplane.Wanted{Mesh: m, Binds: binds[:1+r.IntN(len(binds))], Sources: map[netip.Addr]int{}}
	for _, p := range m.Peers {
		for _, a := range p.Addresses {
			for i, b := range w.Binds {
				if a.Addr().Is4() == b.Addr().Is4() && r.IntN(2) == 0 {
					w.Sources[a.Addr()] = i
				}
			}
		}
	}
	w.Kernel.Policed = map[string]dataplane.Policed{
		"c": {Out: r.IntN(2) == 0, In: r.IntN(2) == 0}, "d": {Out: r.IntN(2) == 0}}
	return w
}

// all returns the tables of a mesh, entered node by node: what every way there has to lead to.
func all(c *contents, numbers map[string]uint32, l learned) tables {
	t := newTables()
	t.numbers = numbers
	t.setOwn(c.Binds)
	for _, p := range c.Mesh.Peers {
		t.add(c, p, respecting(l.known[p.Name], c.policed(p.Name)))
	}
	for _, s := range c.Mesh.Shares {
		if number, ok := c.carrier(s, numbers, l.carried); ok {
			t.addShare(s, number)
		}
	}
	return t
}

// copied returns tables with maps of their own.
func (t tables) copied() tables {
	t.nodes, t.senders = maps.Clone(t.nodes), maps.Clone(t.senders)
	t.owns, t.carriers = maps.Clone(t.owns), maps.Clone(t.carriers)
	t.prefixes4, t.prefixes6 = maps.Clone(t.prefixes4), maps.Clone(t.prefixes6)
	return t
}

// From every mesh to every other one, and back, there is a way, whatever differs between them.
func TestChanges(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	l := learned{known: map[string]peers.Directive{"b": directive(true),
		"c": {Finishes: true, Via: netip.MustParseAddrPort("172.18.0.4:8285")},
		"d": {Via: netip.MustParseAddrPort("[fd10::7]:9000")}},
		carried: map[mesh.Prefix]string{randomPrefix(40): "c", randomPrefix(41): "a", randomPrefix(3): "b"}}
	held := newTables()
	var before *contents
	for step := range 5000 {
		w := randomWanted(r, randomMesh(r))
		if before != nil {
			nearly(r, before, &w, step)
		}
		numbers := held.numbersFor(w.Mesh)
		if r.IntN(4) == 0 {
			before = nil // as after an earlier meshd
		}
		next := contentsOf(w, before)
		c := held.changeTo(next, numbers, before, l)
		was := held.copied()
		back := c.back(held)
		c.do(&held)
		if want := all(next, numbers, l); !reflect.DeepEqual(held, want) {
			t.Fatalf("step %d, to %+v:\n%+v\nwant\n%+v", step, w, held, want)
		}
		if r.IntN(4) == 0 {
			back.do(&held)
			if !reflect.DeepEqual(held, was) {
				t.Fatalf("step %d, back from %+v:\n%+v\nwant\n%+v", step, w, held, was)
			}
			continue
		}
		before = next
	}
}

// nearly makes what is wanted nearly what it was before, most of the time.
func nearly(r *rand.Rand, before *contents, w *dataplane.Wanted, step int) {
	m := before.Mesh
	m.Peers, m.Shares = slices.Clone(m.Peers), slices.Clone(m.Shares)
	i := r.IntN(len(m.Peers))
	switch r.IntN(5) {
	case 0: // one node of it is another
		m.Peers[i].Subnets = []mesh.Prefix{netip.MustParsePrefix(fmt.Sprintf("192.168.%d.0/24", step%250))}
	case 1: // datagrams leave otherwise
		w.Mesh = m
		return
	case 2: // shares are others
		kept := m.Shares[:0]
		for _, s := range m.Shares {
			if r.IntN(2) == 0 {
				unshare(&m, s)
			} else {
				kept = append(kept, s)
			}
		}
		m.Shares = kept
		share(r, &m, randomPrefix(44+step%200))
	case 3: // another one carries what is shared
		for j, s := range m.Shares {
			m.Shares[j].Carriers = slices.Clone(s.Carriers)
			slices.Reverse(m.Shares[j].Carriers)
		}
	default:
		return
	}
	*w = before.Wanted
	w.Mesh = m
}

// unshare leaves a shared prefix to the last of its carriers.
func unshare(m *mesh.Mesh, s mesh.Share) {
	for _, one := range s.Carriers[:len(s.Carriers)-1] {
		i := slices.IndexFunc(m.Peers, func(p mesh.Peer) bool { return p.Name == one.Peer })
		other := func(p mesh.Prefix) bool { return p == s.Prefix }
		m.Peers[i].Routes = slices.DeleteFunc(slices.Clone(m.Peers[i].Routes), other)
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
	c := p.tables.changeTo(contentsFor(other), p.tables.numbersFor(other), p.inMaps, p.learned)
	if len(c.nodes.put) != 1 || len(c.senders.put) != 1 || len(c.senders.drop) != 1 ||
		len(c.prefixes6.drop) != 1 || len(c.prefixes4.put)+len(c.prefixes6.put) != 0 ||
		len(c.prefixes4.drop)+len(c.nodes.drop)+len(c.joined) != 0 {
		t.Errorf("%+v", c)
	}
	if err := p.set(other); err != nil {
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
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 30, a[2], a[3]}), 8285)
		*o = mesh.Peer{Name: "other" + o.Name, Subnets: slices.Clone(o.Subnets), Routes: o.Routes[:1],
			Addresses: []mesh.Endpoint{{AddrPort: at}}}
		o.Subnets[0] = netip.PrefixFrom(netip.AddrFrom4([4]byte{20, a[2], a[3], 0}), 24)
	}
	for i, m := range []mesh.Mesh{other, m} {
		name := []string{"there", "and back"}[i]
		if err := p.set(m); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		held := p.held(t)
		if len(held.nodes) != 10_000 || !reflect.DeepEqual(held.nodes, p.tables.nodes) ||
			!reflect.DeepEqual(held.senders, p.tables.senders) ||
			!reflect.DeepEqual(held.prefixes4, p.tables.prefixes4) ||
			!reflect.DeepEqual(held.prefixes6, p.tables.prefixes6) {
			t.Errorf("%s: the maps are not as the mesh is: %d nodes", name, len(held.nodes))
		}
		want := all(contentsFor(m), p.tables.numbers, learned{})
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
			if err := p.set(m); err != nil {
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
					if err := p.set(m); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(time.Since(began).Microseconds())/2, "us/change")
			}
		})
	}
}
