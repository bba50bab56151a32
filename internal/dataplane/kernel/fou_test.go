package kernel

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
)

// decapsulating has programs leave packets to the kernel's decapsulation, as if there were one.
func (p *Engine) decapsulating(t *testing.T) {
	t.Helper()
	if err := p.configure(func(s *meshSettings) { s.Decap = loopback }); err != nil {
		t.Fatal(err)
	}
	p.onTheWay(t, 1, math.MaxInt64)
}

// onTheWay has so many packets be on their way to the kernel's decapsulation, the last since a time of the
// boot's clock, in ns.
func (p *Engine) onTheWay(t *testing.T, packets, since uint64) {
	t.Helper()
	for end, value := range []uint64{packets, 0, 0, since} { // MERGER_IN and the others of bpf/maps.h
		all := make([]uint64, ebpf.MustPossibleCPU())
		for i := range all {
			all[i] = value
		}
		if err := p.handle().Merging.Put(uint32(end), all); err != nil {
			t.Fatal(err)
		}
	}
}

// A segment takes the way of superpackets only while some are on it.
func TestSegmentsOvertakeNone(t *testing.T) {
	nstest.Require(t)
	m := meshOver(false)
	p := programsOf(t, m)
	p.decapsulating(t)
	segment := ip4(netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("10.244.0.2"), 0, 64, unix.IPPROTO_TCP,
		make([]byte, 40))
	frame := outerTo(m.Peers[1].Underlay().AddrPort, m.Peers[0].Underlay().AddrPort, 0, segment)
	for _, c := range []struct {
		name           string
		packets, since uint64
		device         bool
	}{{"none", 0, math.MaxInt64, false}, {"one", 1, math.MaxInt64, true}, {"one that was lost", 1, 0, false}} {
		t.Run(c.name, func(t *testing.T) {
			p.onTheWay(t, c.packets, c.since)
			const tcRedirect, done = 7, 1
			code, mark, _ := runMarked(t, p.handle().In, frame)
			if code != tcRedirect || (mark == p.settings.Tag|done) != c.device {
				t.Errorf("code %d, mark %#x", code, mark)
			}
		})
	}
}

// runMarked is run for the tc program, which also returns the mark that the packet has then.
func runMarked(t *testing.T, program *ebpf.Program, frame []byte) (code, mark uint32, out []byte) {
	t.Helper()
	const markAt, size = 8, 192 // in struct __sk_buff of linux/bpf.h
	options := &ebpf.RunOptions{
		Data: frame, DataOut: make([]byte, len(frame)+256), ContextOut: make([]byte, size)}
	code, err := program.Run(options)
	if err != nil {
		t.Fatal(err)
	}
	return code, binary.NativeEndian.Uint32(options.ContextOut.([]byte)[markAt:]), options.DataOut
}

// withChecksum returns a frame whose datagram has a UDP checksum, sometimes a wrong one; others as they are.
func (g *generator) withChecksum(frame []byte) []byte {
	b := bytes.Clone(frame)
	udp, pseudo := 14+20, 14+12
	if len(b) > 14 && b[12] == 0x86 {
		udp, pseudo = 14+40, 14+8
	}
	if len(b) < udp+8 || g.IntN(2) == 0 {
		return b
	}
	length := int(binary.BigEndian.Uint16(b[udp+4:]))
	if length < 8 || udp+length > len(b) {
		return b
	}
	sum := packet.Sum(b[udp:udp+length], packet.PseudoSum(b[pseudo:udp], 17, length))
	binary.BigEndian.PutUint16(b[udp+6:], ^packet.Fold(sum)|uint16(g.IntN(8)/7))
	return b
}

// decapsulated returns an inner packet as the kernel and mesh_decap deliver it.
func decapsulated(t *testing.T, outer uint8, inner []byte) string {
	t.Helper()
	b := bytes.Clone(inner)
	h, ok := packet.Parse(b)
	tos, fine := packet.Decapsulate(h.TOS, outer)
	if !ok || !fine {
		t.Errorf("left to the kernel, but it is no packet, or its ECN says that it is to be dropped: % x", inner)
		return ""
	}
	packet.DecrementTTL(b)
	if tos != h.TOS {
		packet.SetTOS(b, tos)
	}
	return string(b)
}

// What programs leave to the kernel's decapsulation user space would have delivered, and they drop what user
// space would have dropped.
func TestVerdictsOfFOU(t *testing.T) {
	nstest.Require(t)
	meshes := map[string]mesh.Mesh{"v4": meshOver(false), "v6": meshOver(true), "both": meshOverBoth()}
	for underlay, m := range meshes {
		t.Run(underlay, func(t *testing.T) {
			p, u := programsOf(t, m), newUserEngine(t, m)
			p.decapsulating(t)
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			g := &generator{Rand: rand.New(rand.NewPCG(seed, 0)), mesh: m}
			fates := map[string]int{}
			for range 20000 {
				frame, _ := g.frame()
				p.onTheWay(t, 1, math.MaxInt64) // each packet that is left to the kernel says when
				fates[p.fateOfFOU(t, u, m, g.withChecksum(frame))]++
				if t.Failed() {
					t.FailNow()
				}
			}
			t.Log(fates)
			common := []string{"left", "kernel", "device", "TUN", "b spoofed_source", "b wrong_destination"}
			for _, fate := range common {
				if fates[fate] < 10 {
					t.Errorf("%d of %q: this tests little", fates[fate], fate)
				}
			}
		})
	}
}

// fateOfFOU has both engines decide about a frame, and returns where it went, or why it was dropped.
func (p *Engine) fateOfFOU(t *testing.T, u *userEngine, m mesh.Mesh, frame []byte) string {
	t.Helper()
	const tcShot, tcRedirect, tcUnspec, ethernet = 2, 7, 0xffffffff, 14
	before := p.counters(t)
	code, mark, out := runMarked(t, p.handle().In, frame)
	after := p.counters(t)
	from, tos, payload, ours := socketAmong(frame, m.Peers[0].Addresses)
	drop := counted(before.Peers, after.Peers)
	switch {
	case code == tcUnspec && mark != p.settings.Tag:
		if drop != "" || mark != 0 {
			t.Errorf("left to user space, but counted as %q, or marked %#x", drop, mark)
		}
		return "left"
	case code == tcUnspec && !ours: // the kernel drops it for its checksum, which a program does not know
		if _, _, _, ours = socketAmong(withoutChecksum(frame), m.Peers[0].Addresses); !ours {
			t.Errorf("nothing for a socket is left to the kernel: % x", frame)
		}
		return "corrupt"
	case !ours:
		t.Fatalf("nothing for a socket: code %d, drop %q: % x", code, drop, frame)
	}
	want := u.receive(from, tos, payload)
	got, fate := verdict{drop: drop}, drop
	switch {
	case code == tcUnspec:
		got.delivered, fate = decapsulated(t, tos, payload), "kernel"
	case code == tcRedirect:
		got.delivered, fate = string(out[ethernet:]), "TUN"
		got.delivered = got.delivered[:innerLength(got.delivered)]
		if mark == p.settings.Tag|1 { // DONE
			fate = "device"
		}
		protocol := payload[9]
		if payload[0]>>4 == 6 {
			protocol = payload[6]
		}
		if tcp := protocol == unix.IPPROTO_TCP; tcp != (fate == "device") {
			t.Errorf("a packet of TCP: %v, by %s: % x", tcp, fate, payload)
		}
	case code != tcShot || drop == "":
		t.Errorf("code %d, drop %q", code, drop)
	}
	if got != want {
		t.Errorf("from %s, TOS %#x, % x:\n%+q, but user space\n%+q", from, tos, payload, got, want)
	}
	return fate
}

// withoutChecksum returns a frame whose datagram has no UDP checksum.
func withoutChecksum(frame []byte) []byte {
	b := bytes.Clone(frame)
	at := 14 + 20 + 6
	if b[12] == 0x86 {
		at += 20
	}
	copy(b[at:], []byte{0, 0})
	return b
}

// A tag is random, another one for each load, which knows the one before, and has no bit that other programs
// give a meaning.
func TestTags(t *testing.T) {
	nstest.Require(t)
	p := programsOf(t, meshOver(false))
	seen := map[uint32]bool{}
	last := p.settings.Tag
	for range 100 {
		tag, before := p.handle().newTags()
		if tag == 0 || tag&^0xffff00fe != 0 || seen[tag] || before != last {
			t.Fatalf("%#x after %#x, known as %#x", tag, last, before)
		}
		seen[tag] = true
		if err := p.configure(func(s *meshSettings) { s.Tag = tag }); err != nil {
			t.Fatal(err)
		}
		last = tag
	}
}

// What a device tells about itself comes back whole, and nothing else is taken for it.
func TestAliases(t *testing.T) {
	w := wantedOver(meshOverBoth(), "mesh0", receives["tcx"])
	want := alias{40123, portsOf(w.Binds)}
	if got := aliasIn(want.String()); got.sockets != want.sockets || !slices.Equal(got.ports, want.ports) {
		t.Errorf("%q is read as %+v", want, got)
	}
	if ports := portsOf(w.Binds); !slices.Equal(ports, []port{{unix.AF_INET, 8285}, {unix.AF_INET6, 9002},
		{unix.AF_INET, 9102}}) {
		t.Errorf("%+v", ports)
	}
	for _, text := range []string{"", "uplink", "meshd: sockets at port ", "meshd: sockets at port x for 2/8285",
		"meshd: sockets at port 1 2/8285"} {
		if a := aliasIn(text); a.sockets != 0 || len(a.ports) != 0 {
			t.Errorf("%q is read as %+v", text, a)
		}
	}
}

// Where the kernel has no FOU, or another program is in the way, that is told, and nothing is left behind.
func TestNoFOU(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		p := unpinned(t)
		w := wantedOver(meshOver(false), "mesh0", receives["tcx"])
		if port, held := p.HoldsPort(w); held || port != 0 {
			t.Errorf("the kernel has the port, sockets at %d", port)
		}
		err := p.CanFOU(w)
		if again := p.CanFOU(w); again != err { // it is not tried each time
			t.Errorf("%v, then %v", err, again)
		}
		if err := p.ReleasePort(); err != nil {
			t.Error(err)
		}
		if isTunnelName(tunnel4) != (indexOf(tunnel4) == 0) {
			t.Error("a device is left behind")
		}
	})
}
