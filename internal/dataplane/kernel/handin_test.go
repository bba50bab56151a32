package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/udp"
	"example.org/meshd/internal/nstest"
)

// apart opens a socket of the host beside its port, to which programs hand datagrams.
func (n *neighbourhood) apart(p *Engine) *udp.Conn {
	n.t.Helper()
	var conn *udp.Conn
	if err := n.host.Do(func() (err error) {
		conn, err = udp.OpenApart(n.mesh.Peers[0].Underlay().AddrPort, 0, false)
		return err
	}); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close() })
	if err := p.HandTo(conn.Local().Port()); err != nil {
		n.t.Fatal(err)
	}
	return conn
}

// words returns the words of datagrams that a socket has received, up to "end".
func words(t *testing.T, conn *udp.Conn) (all []string) {
	t.Helper()
	r, batch := conn.NewReceiver(1), packet.NewDatagrams(1)
	late := time.AfterFunc(10*time.Second, func() { conn.Close() })
	defer late.Stop()
	for {
		if _, err := r.Read(batch); err != nil {
			t.Fatalf("%v, after %q", err, all)
		}
		_, word, _ := strings.Cut(string(batch[0].Data), "word:")
		if word == "end" {
			return all
		}
		all = append(all, strings.TrimRight(word, "."))
	}
}

// datagram returns a frame with a datagram of any source to any port of the host.
func (n *neighbourhood) datagram(from netip.AddrPort, port uint16, word string) []byte {
	to := netip.AddrPortFrom(n.mesh.Peers[0].Underlay().Addr(), port)
	return frame(n.address, 0x0800, outerTo(from, to, 0, inner("10.244.1.2", "word:"+word))[14:])
}

// inPieces returns a frame's datagram in two fragments.
func inPieces(f []byte, at int) (pieces [][]byte) {
	header, payload := f[14:34], f[34:]
	for i, part := range [][]byte{payload[:at], payload[at:]} {
		ip := append([]byte{}, header...)
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(part)))
		binary.BigEndian.PutUint16(ip[4:], 7)
		binary.BigEndian.PutUint16(ip[6:], []uint16{0x2000, uint16(at / 8)}[i])
		binary.BigEndian.PutUint16(ip[10:], 0)
		binary.BigEndian.PutUint16(ip[10:], packet.Checksum(ip, 0))
		pieces = append(pieces, append(append(append([]byte{}, f[:14]...), ip...), part...))
	}
	return pieces
}

// What is for user space reaches a socket apart, in fragments, too; what is sent to its own port does not,
// nor does the socket at the mesh's port get anything.
func TestHandsToSocketApart(t *testing.T) {
	n := newNeighbourhood(t)
	p := programsOf(t, n.mesh)
	n.attach(p, "tcx")
	conn := n.apart(p)
	peer, stranger := n.mesh.Peers[1].Underlay().AddrPort, netip.MustParseAddrPort("172.18.0.77:8285")
	const mesh = 8285
	long := "fragments" + strings.Repeat(".", 1400)
	frames := [][]byte{
		n.datagram(stranger, mesh, "stranger"),
		n.datagram(stranger, conn.Local().Port(), "the socket's own port"),
		n.datagram(peer, conn.Local().Port(), "the socket's own port, of a node"),
	}
	frames = append(frames, inPieces(n.datagram(stranger, mesh, long), 800)...)
	pieces := inPieces(n.datagram(stranger, mesh, "turned"+strings.Repeat(".", 1400)), 800)
	frames = append(frames, pieces[1], pieces[0], n.datagram(stranger, mesh, "end"))
	n.do(func() error { return send(frames...) })
	if got := fmt.Sprintf("%q", words(t, conn)); got != `["stranger" "fragments" "turned"]` {
		t.Error(got)
	}
	if err := n.socket.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if size, err := n.socket.Read(make([]byte, 2000)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes at the mesh's port: %v", size, err)
	}

	// A socket that is not meshd's gets nothing, although it has the port now.
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	var foreign *net.UDPConn
	if err := n.host.Do(func() (err error) {
		foreign, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(conn.Local()))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	n.do(func() error { return send(n.datagram(stranger, mesh, "not for others")) })
	if err := n.socket.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2000)
	if size, err := n.socket.Read(b); err != nil || !strings.Contains(string(b[:size]), "not for others") {
		t.Errorf("%q at the mesh's port: %v", b[:size], err)
	}
}

// asTunnel opens a TUN that stands for one of the kernel's tunnels, with mesh_decap, and has TCP go there.
// What is written to the file comes in by it.
func (n *neighbourhood) asTunnel(p *Engine) (file *os.File) {
	n.t.Helper()
	if err := n.host.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		request, err := unix.NewIfreq(tunnel4)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), tunnel4)
		return nil
	}); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { file.Close() })
	if err := n.host.IP("link set " + tunnel4 + " up"); err != nil {
		n.t.Fatal(err)
	}
	at := attachment{stageDecap, n.index(n.host, tunnel4)}
	if err := n.host.Do(func() error {
		h, err := p.attachTo(at)
		p.attached[at], p.decap = h, []int{at.device}
		return err
	}); err != nil {
		n.t.Fatal(err)
	}
	if err := p.configure(func(s *meshSettings) { s.Decap = uint32(at.device) }); err != nil {
		n.t.Fatal(err)
	}
	return file
}

// TCP goes by the tunnel's device to the TUN, with its TTL lowered once, in order, also while a new meshd
// changes the tag. What comes in by the device without a tag does not get there.
func TestOnlyTaggedPass(t *testing.T) {
	n := newNeighbourhood(t)
	p := programsOf(t, n.mesh)
	n.attach(p, "tcx")
	file := n.asTunnel(p)
	if _, err := file.Write(tcpFrom("word:forged")); err != nil {
		t.Fatal(err)
	}
	next := func() []byte {
		b, err := n.tun.Next(10*time.Second, func(b []byte) bool { return strings.Contains(string(b), "word:") })
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	const packets, ttlAt, sent = 50, 8, 64
	for i := range packets {
		if i == packets/2 { // the next meshd's
			tag, before := p.handle().newTags()
			if err := p.configure(func(s *meshSettings) { s.Tag, s.TagBefore = tag, before }); err != nil {
				t.Fatal(err)
			}
		}
		b := n.generator.outer(n.mesh.Peers[1].Underlay().AddrPort, 0, tcpFrom(fmt.Sprintf("word:%d", i)))
		n.do(func() error { return send(frame(n.address, 0x0800, b[14:])) })
		got := next()
		if _, word, _ := strings.Cut(string(got), "word:"); word != fmt.Sprint(i) || got[ttlAt] != sent-1 {
			t.Fatalf("packet %d is %q, TTL %d", i, word, got[ttlAt])
		}
	}
	counted, err := p.handle().countedEnds()
	if err != nil || counted.in != packets || counted.out != packets || counted.strays != 0 {
		t.Errorf("%v, %+v", err, counted)
	}
}

// What is sent to the tunnel's device and does not come out of it ends that, and is told.
func TestLostAtTunnel(t *testing.T) {
	nstest.Require(t)
	p := programsOf(t, meshOver(false))
	p.decapsulating(t)
	enter := func(in, out, strays uint64) {
		t.Helper()
		for i, n := range []uint64{in, out, strays} {
			var cpus []uint64
			if err := p.handle().Merging.Lookup(uint32(i), &cpus); err != nil {
				t.Fatal(err)
			}
			cpus[0] += n
			if err := p.handle().Merging.Put(uint32(i), cpus); err != nil {
				t.Fatal(err)
			}
		}
	}
	watch := func(want bool) {
		t.Helper()
		if again := p.WatchMerger(); again != want || (p.settings.Decap == 0) != want {
			t.Errorf("again %v, %+v, %v", again, p.settings, p.noFOU.why)
		}
		if lost := p.noFOU.why != nil; lost != want || want && !errors.Is(p.noFOU.why, errNoFOU) {
			t.Errorf("%v", p.noFOU.why)
		}
	}
	for name, lose := range map[string]func(){
		"a rule drops": func() { enter(100, 80, 0) }, "another interface": func() { enter(100, 100, strays) },
	} {
		t.Run(name, func(t *testing.T) {
			p.passage, p.noFOU = passage{}, noFOUSince{}
			p.decapsulating(t)
			watch(false) // what was counted before is nothing new
			enter(1000, 1000, strays-1)
			watch(false)
			lose()
			watch(true)
		})
	}
}

// Datagrams that programs hand to sockets, and that never get there, end fou; those that get there do not.
func TestHandedInVain(t *testing.T) {
	nstest.Require(t)
	p := programsOf(t, meshOver(false))
	p.decapsulating(t)
	if err := p.HandTo(8287); err != nil {
		t.Fatal(err)
	}
	toThisNode := uint32(slices.Index(handovers[:], "to_this_node"))
	p.publish(func(s *shown) { s.attached = true }) // readers are told of what was handed from then on
	hand := func(n uint64) {
		t.Helper()
		var cpus []uint64
		if err := p.handle().Handed.Lookup(toThisNode, &cpus); err != nil {
			t.Fatal(err)
		}
		cpus[0] += n
		if err := p.handle().Handed.Put(toThisNode, cpus); err != nil {
			t.Fatal(err)
		}
	}
	var received uint64
	watch := func(want bool) {
		t.Helper()
		p.handing.at = time.Time{} // some seconds later
		again := p.WatchHanded(func() uint64 { return received })
		if again != want || (p.noFOU.why != nil) != want {
			t.Errorf("again %v, %v", again, p.noFOU.why)
		}
	}
	hand(100)
	watch(false) // the first reading
	hand(100)
	received++
	watch(false) // they get there
	hand(handedFewest - 1)
	watch(false) // too few to tell
	hand(handedFewest)
	watch(true)
}
