package user

import (
	"maps"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/peers"
)

// Addresses of this host come, change places and go, and the address of a peer changes, while packets move
// both ways: none is lost, and those to one address keep their order.
func TestAddressesComeAndGo(t *testing.T) {
	nstest.Share(t, nstest.Busy)
	h := newTwoHosts(t)
	u := h.engine()
	h.apply(u, h.wanted(a4))
	out := h.start(h.out, h.got[peer4].tokens)
	in := h.start(func(n uint32) error { return h.in(peer4, a4, n) }, h.got["pod"].tokens)
	first := u.Descriptors()
	for _, step := range []struct {
		name  string
		via   string
		binds []string
	}{
		{"another comes", "", []string{a4, a6}},
		{"the peer's other address", peer6, []string{a4, a6}},
		{"they change places", peer6, []string{a6, a4}},
		{"back", peer4, []string{a6, a4}},
		{"it goes", peer6, []string{a4}},
		{"and comes again, with what was learned", peer6, []string{a4, a6}},
	} {
		if step.via != "" {
			h.do(u.Learn("b", peers.Directive{Via: netip.MustParseAddrPort(step.via)}))
		}
		before := len(h.got[peer6].all())
		h.apply(u, h.wanted(step.binds...))
		h.goOn(out, in)
		by6 := step.via == peer6 && slices.Contains(step.binds, a6)
		if moved := len(h.got[peer6].all()) > before; by6 && !moved {
			t.Errorf("%s: nothing by IPv6", step.name)
		}
		open := u.Descriptors()
		if four := open[[]string{"udp-0", "udp-0-1"}[slices.Index(step.binds, a4)]]; four != first["udp-0"] ||
			open["tun-0"] != first["tun-0"] || len(open) != 1+len(step.binds) {
			t.Errorf("%s: %q", step.name, slices.Collect(maps.Keys(open)))
		}
	}
	h.end(out)
	h.end(in)
	four, six, pod := h.got[peer4].all(), h.got[peer6].all(), h.got["pod"].all()
	if !ascending(four) || !ascending(six) || !ascending(pod) {
		t.Error("packets passed each other")
	}
	if len(four)+len(six) != int(out.sent.Load()) || len(pod) != int(in.sent.Load()) {
		t.Errorf("%d and %d of %d out, %d of %d in", len(four), len(six), out.sent.Load(), len(pod), in.sent.Load())
	}
	h.do(u.Alive(t.Context())) // so that all are counted
	r := u.Read()
	if b := r.Peers["b"]; b.TxPackets != uint64(out.sent.Load()) || b.RxPackets != uint64(in.sent.Load()) ||
		len(drops(r.Totals)) != 0 || r.Lost != (dataplane.Lost{}) {
		t.Errorf("%+v", r)
	}
}

func names(files []*os.File) (all []string) {
	for _, f := range files {
		all = append(all, f.Name())
	}
	return all
}

// Packets wait in descriptors while no meshd runs, and the next one finds them: a version that knew one
// address left the first, and addresses may have changed places or gone since.
func TestAdoptByAddress(t *testing.T) {
	h := newTwoHosts(t)
	number := uint32(0)
	var files []*os.File
	for _, step := range []struct {
		name  string
		binds []string
		unfit int
		leave []string
	}{
		{"nothing was left", []string{a4}, 0, []string{"tun-0", "udp-0"}},
		{"names of a version with one address", []string{a6, a4}, 0, []string{"tun-0", "udp-0", "udp-0-1"}},
		{"they change places", []string{a4, a6}, 0, []string{"tun-0", "udp-0", "udp-0-1"}},
		{"the first is gone", []string{a6}, 1, []string{"tun-0", "udp-0"}},
		{"and comes again", []string{a4, a6}, 0, []string{"tun-0", "udp-0", "udp-0-1"}},
	} {
		u, w := h.engine(), h.wanted(step.binds...)
		var waiting []string // who gets a packet
		if len(files) > 0 {
			for address, from := range map[string]string{a4: peer4, a6: peer6} {
				held := slices.ContainsFunc(step.binds, func(b string) bool { return b == address })
				if number++; held && h.bound(files, address) {
					h.do(h.in(from, address, number))
					waiting = append(waiting, "pod")
				}
			}
			number++
			h.do(h.out(number))
			waiting = append(waiting, peer4) // or its other one: they share what they wait for
		}
		had := len(files)
		var a dataplane.Adopted
		var unfit []error
		h.do(h.a.Do(func() error { a, unfit = u.Adopt(files, w); return nil }))
		if len(unfit) != step.unfit || a.Sockets+a.Queues+step.unfit != had {
			t.Errorf("%s: %+v, %v", step.name, a, unfit)
		}
		h.apply(u, w)
		for _, who := range waiting {
			select {
			case <-h.got[who].tokens:
			case <-time.After(wait):
				t.Fatalf("%s: a packet for %s is lost", step.name, who)
			}
		}
		files = h.leave(u)
		if got := names(files); !slices.Equal(got, step.leave) {
			t.Errorf("%s: leaves %q", step.name, got)
		}
	}
	for _, f := range files {
		h.do(f.Close())
	}
}

// Each address has a socket for each queue, and with spread each but the first sends from a port of its
// own.
func TestQueuesOfAddresses(t *testing.T) {
	h := newTwoHosts(t)
	u, w := h.engine(), h.wanted(a4, a6)
	w.Queues, w.Spread = 2, true
	h.apply(u, w)
	want := []string{"tun-0", "tun-1", "udp-0", "udp-0-1", "udp-1", "udp-1-1"}
	if got := slices.Sorted(maps.Keys(u.Descriptors())); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	ports := map[netip.AddrPort]bool{}
	for _, c := range u.open.Load().sockets() {
		h.do(c.Descriptor(func(fd uintptr) {
			switch at, _ := unix.Getsockname(int(fd)); at := at.(type) {
			case *unix.SockaddrInet4:
				ports[netip.AddrPortFrom(netip.AddrFrom4(at.Addr), uint16(at.Port))] = true
			case *unix.SockaddrInet6:
				ports[netip.AddrPortFrom(netip.AddrFrom16(at.Addr), uint16(at.Port))] = true
			}
		}))
	}
	if len(ports) != 4 || u.Read().Works.Queues != 2 {
		t.Errorf("sockets at %v, %d queues", ports, u.Read().Works.Queues)
	}
	// One of a pair of sockets that are gone keeps nothing else from staying.
	first := u.Descriptors()
	w.Binds, w.Queues = w.Binds[1:], 1
	h.apply(u, w)
	open := u.Descriptors()
	if len(open) != 2 || open["udp-0"] != first["udp-0-1"] || open["tun-0"] != first["tun-0"] {
		t.Errorf("%v", open)
	}
}

// After the end of the TUN new loops work with new sockets, which share the ports of the old ones until
// those are closed.
func TestNewLoopsOfAddresses(t *testing.T) {
	h := newTwoHosts(t)
	h.broken = make(chan struct{}, 1)
	u, w := h.engine(), h.wanted(a4, a6)
	h.apply(u, w)
	first := u.Descriptors()
	h.do(h.a.IP("link del mesh0"))
	<-h.broken
	h.createTUN()
	h.apply(u, w)
	for name, now := range u.Descriptors() {
		if now == first[name] {
			t.Errorf("%s is the old one", name)
		}
	}
	for i, send := range []func() error{
		func() error { return h.in(peer4, a4, 1) }, func() error { return h.in(peer6, a6, 2) },
		func() error { return h.out(3) },
	} {
		h.do(send())
		select {
		case <-h.got[[]string{"pod", "pod", peer4}[i]].tokens:
		case <-time.After(wait):
			t.Fatalf("packet %d is lost", i)
		}
	}
}

// What the kernel drops at sockets is counted once, whichever sockets go and come.
func TestLossesOfAddresses(t *testing.T) {
	h := newTwoHosts(t)
	u := h.engine()
	h.do(h.a.IP("xfrm policy add dst 192.0.2.1/32 proto udp dir in action block",
		"xfrm policy add dst 2001:db8::1/128 proto udp dir in action block"))
	counted := func() (lost dataplane.Lost) {
		h.do(h.a.Do(func() error { lost = u.Read().Lost; return nil }))
		return lost
	}
	want := uint64(0)
	for _, step := range []struct {
		name    string
		binds   []string
		refused map[string]int
	}{
		{"both", []string{a4, a6}, map[string]int{a4: 3, a6: 5}},
		{"one is gone", []string{a4}, nil},
		{"the other goes on", []string{a4}, map[string]int{a4: 1}},
		{"it comes again", []string{a6, a4}, map[string]int{a6: 2, a4: 1}},
	} {
		h.apply(u, h.wanted(step.binds...))
		for to, n := range step.refused {
			from := map[string]string{a4: peer4, a6: peer6}[to]
			for range n {
				h.do(h.in(from, to, 1))
				want++
			}
		}
		end := time.Now().Add(wait)
		for counted().Refused < want && time.Now().Before(end) {
			time.Sleep(time.Millisecond) // no event tells of a drop
		}
		if got := counted(); got != (dataplane.Lost{Refused: want}) {
			t.Fatalf("%s: %+v, want %d", step.name, got, want)
		}
	}
}
