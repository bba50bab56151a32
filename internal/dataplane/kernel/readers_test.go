package kernel

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/peers"
)

// lie has the programs count a packet of peer b under a drop reason.
func (p *Engine) lie(t *testing.T, m mesh.Mesh) {
	t.Helper()
	g := &generator{Rand: rand.New(rand.NewPCG(1, 1)), mesh: m}
	b := ip4(netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("10.244.0.2"), 0, 64, 17, make([]byte, 20))
	v, left := p.decide(t, p.handle().In, g.outer(m.Peers[1].Underlay().AddrPort, 0, b), nil, true)
	if left || v.drop != "b spoofed_source" {
		t.Fatalf("%+v", v)
	}
}

// Whatever a writer does, readers go on.
func TestReadersDoNotWait(t *testing.T) {
	nstest.Require(t)
	p := programsOf(t, meshOver(false))
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, read := range map[string]func(){
		"Read": func() { p.Read() }, "HeardBy": func() { p.HeardBy("b") }, "Conditions": func() { p.Conditions() },
		"Forwards": func() { p.Forwards() },
	} {
		t.Run(name, func(t *testing.T) {
			done := make(chan struct{})
			go func() { read(); close(done) }()
			select {
			case <-done:
			case <-time.After(10 * time.Second):
				t.Error("it waits for the writer")
			}
		})
	}
}

// Programs, and nodes with what they have counted, come and go while everybody reads and writes: no
// total ever falls, and nothing is counted twice.
func TestTotalsNeverFall(t *testing.T) {
	nstest.Require(t)
	m := meshOver(false)
	p := programsOf(t, m)
	const lies = 3
	for range lies {
		p.lie(t, m)
	}
	var stop atomic.Bool
	var others sync.WaitGroup
	for _, work := range []func() error{
		func() error {
			if n := p.Read().Totals.Drops[mesh.SpoofedSource]; n != lies {
				return fmt.Errorf("%d packets are in the totals, and %d were counted", n, lies)
			}
			return nil
		},
		func() error { p.HeardBy("b"); p.Conditions(); return nil },
		func() error { return p.Learn("b", peers.Directive{Finishes: rand.N(2) == 0}) },
	} {
		others.Go(func() {
			for !stop.Load() && !t.Failed() {
				if err := work(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	without := m
	without.Peers = append([]mesh.Peer{}, m.Peers[0], m.Peers[2])
	for range 5 {
		for range 20 {
			if err := p.set(without); err != nil {
				t.Error(err)
			}
			if err := p.set(m); err != nil {
				t.Error(err)
			}
		}
		if err := p.leave(); err != nil {
			t.Error(err)
		}
		if err := p.load(); err != nil {
			t.Error(err)
		}
	}
	stop.Store(true)
	others.Wait()
	const reason = mesh.SpoofedSource
	if r := p.Read(); r.Peers["b"].Drops[reason] != lies || r.Totals.Drops[reason] != lies {
		t.Errorf("in the end %+v", r)
	}
}

// What is known of a peer is in the maps, whichever comes first, the peer or the news.
func TestLearn(t *testing.T) {
	nstest.Require(t)
	m := meshOver(false)
	p := programsOf(t, m)
	finishes := func(peer string) bool {
		t.Helper()
		var node meshNode
		if err := p.handle().Nodes.Lookup(p.tables.numbers[peer], &node); err != nil {
			t.Fatal(err)
		}
		return node.Path.Finishes != 0
	}
	learn := func(peer string, yes bool) {
		t.Helper()
		if err := p.Learn(peer, directive(yes)); err != nil {
			t.Fatal(err)
		}
	}
	learn("b", true)
	learn("a", true) // this node itself is no peer
	learn("d", true) // not there yet
	if !finishes("b") || finishes("a") || finishes("c") {
		t.Errorf("b %v, a %v, c %v", finishes("b"), finishes("a"), finishes("c"))
	}
	m.Peers = append(slices.Clone(m.Peers),
		mesh.Peer{Name: "d", Addresses: []mesh.Endpoint{endpoint("172.18.0.9:8285")}})
	if err := p.set(m); err != nil || !finishes("d") || !finishes("b") {
		t.Errorf("%v, d %v, b %v", err, finishes("d"), finishes("b"))
	}
	learn("b", false)
	if finishes("b") {
		t.Error("b is still said to finish checksums")
	}
}

// held returns what the maps hold.
func (p *Engine) held(t *testing.T) (held tables) {
	t.Helper()
	h := p.handle()
	held = newTables()
	for _, err := range []error{read(h.Nodes, held.nodes), read(h.Senders, held.senders),
		read(h.Owns, held.owns), read(h.Carriers, held.carriers),
		read(h.Prefixes4, held.prefixes4), read(h.Prefixes6, held.prefixes6)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return held
}

// routed returns a mesh with a further node, which has a number of routes from an address on.
func routed(m mesh.Mesh, first byte, count int) mesh.Mesh {
	huge := mesh.Peer{Name: "huge", Addresses: []mesh.Endpoint{endpoint("172.18.0.9:8285")}}
	for i := range count {
		address := netip.AddrFrom4([4]byte{first + byte(i>>16), byte(i >> 8), byte(i), 0})
		huge.Routes = append(huge.Routes, netip.PrefixFrom(address, 24))
	}
	m.Peers = append(slices.Clone(m.Peers), huge)
	return m
}

// set is setMesh for a mesh of which nothing else is wanted; move is it without a look at the room.
func (e *Engine) set(m mesh.Mesh) error  { return e.setMesh(wantedOver(m, "", dataplane.TCX)) }
func (e *Engine) move(m mesh.Mesh) error { return e.moveTo(contentsFor(m)) }

// contentsFor returns the contents of maps for a mesh.
func contentsFor(m mesh.Mesh) *contents { return contentsOf(wantedOver(m, "", dataplane.TCX), nil) }

// A mesh that the maps have no room for changes nothing, whether that is known before or found by
// the kernel.
func TestTooLargeAMesh(t *testing.T) {
	nstest.Require(t)
	for name, test := range map[string]struct {
		before, after int // routes, other ones
		set           func(*Engine, mesh.Mesh) error
		want          error
	}{
		"beyond the limit": {0, mesh.MaxPrefixes + 1, (*Engine).set, errFull},
		// New ones come before old ones go, and setMesh does not make room here.
		"on the way": {mesh.MaxPrefixes / 2, mesh.MaxPrefixes - 10, (*Engine).move, unix.ENOSPC},
	} {
		t.Run(name, func(t *testing.T) {
			m := meshOver(false)
			p := programsOf(t, m)
			p.lie(t, m)
			if err := p.set(routed(m, 11, test.before)); err != nil {
				t.Fatal(err)
			}
			before, read := p.held(t), p.Read()
			if err := test.set(p, routed(m, 20, test.after)); !errors.Is(err, test.want) {
				t.Fatalf("%v, want %v", err, test.want)
			}
			after := p.held(t)
			if !reflect.DeepEqual(after, before) || !reflect.DeepEqual(after.prefixes4, p.tables.prefixes4) {
				t.Errorf("%d nodes, %d and %d prefixes; before %d, %d and %d",
					len(after.nodes), len(after.prefixes4), len(after.prefixes6),
					len(before.nodes), len(before.prefixes4), len(before.prefixes6))
			}
			if after := p.Read(); !reflect.DeepEqual(after, read) {
				t.Errorf("%+v, before %+v", after, read)
			}
		})
	}
}

// Status has one condition for each thing that does not work, and none where no programs forward.
func TestConditions(t *testing.T) {
	nstest.Require(t)
	p := unpinned(t)
	p.pins = func() (string, error) { return "", fmt.Errorf("no BPF file system is mounted") }
	if all := p.Conditions(); all != nil {
		t.Errorf("%v", all)
	}
	if err := p.load(); err != nil {
		t.Fatal(err)
	}
	if all := p.Conditions(); !mesh.Has(all, mesh.Unpinned) || mesh.Has(all, mesh.Unmerged) {
		t.Errorf("%+v", all)
	}
	p.unmerged = remedied{errors.New("taken"), "ip link del it"}
	p.receive = dataplane.TCX
	if err := p.tell(dataplane.Wanted{Kernel: dataplane.Programs{Use: dataplane.Always}}); err != nil {
		t.Fatal(err)
	}
	want := []mesh.Condition{
		{Kind: mesh.Unpinned, Severity: mesh.Degraded, Subject: pinned, Cause: "no BPF file system is mounted"},
		{Kind: mesh.Unmerged, Severity: mesh.Degraded, Subject: mergerEntry, Cause: "taken",
			Remedy: "ip link del it"},
	}
	if all := p.Conditions(); !slices.Equal(all, want) {
		t.Errorf("%+v", all)
	}
}

// endpoint returns a place in the underlay.
func endpoint(at string) mesh.Endpoint { return mesh.Endpoint{AddrPort: netip.MustParseAddrPort(at)} }

// directive returns what follows for a peer that finishes checksums, or not.
func directive(finishes bool) peers.Directive { return peers.Directive{Finishes: finishes} }
