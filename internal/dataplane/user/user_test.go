package user

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/virtio"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
)

// drops returns the reasons counted in t, one entry a packet.
func drops(t mesh.Traffic) (reasons []string) {
	for _, reason := range mesh.Reasons() {
		for range t.Drops[reason] {
			reasons = append(reasons, reason.String())
		}
	}
	return reasons
}

func TestOutbound(t *testing.T) {
	tests := []struct {
		name   string
		packet []byte
		to     string // underlay; empty: not sent
		peer   string // whose counters, if it was dropped; empty: nobody's
		drop   string
		icmp   string // type and code of the answer
	}{
		{"to a subnet", udp4("10.244.0.2", "10.244.1.2", 63, 0xb9), "172.18.0.3:8285", "", "", ""},
		{"to a peer with its own port", udp4("10.244.0.2", "10.244.2.2", 63, 0), "172.18.0.4:9000", "", "", ""},
		{"to a route", udp4("10.244.0.2", "192.168.1.1", 63, 0), "172.18.0.3:8285", "", "", ""},
		{"to a longer route", udp4("10.244.0.2", "192.168.7.1", 63, 0), "172.18.0.4:9000", "", "", ""},
		{"IPv6", udp6("fd00:0:0:a::2", "fd00:0:0:b::2", 63), "172.18.0.3:8285", "", "", ""},
		{"nobody's subnet", udp4("10.244.0.2", "10.244.9.2", 63, 0), "", "", "no_route", "0300"},
		{"nobody's IPv6 subnet", udp6("fd00:0:0:a::2", "fd00:0:0:9::2", 63), "", "", "no_route", "0100"},
		{"own subnet", udp4("10.244.0.2", "10.244.0.3", 63, 0), "", "", "no_route", "0300"},
		{"multicast", udp4("10.244.0.2", "224.0.0.251", 63, 0), "", "", "no_route", ""},
		{"IPv6 multicast", udp6("fd00:0:0:a::2", "ff05::1", 63), "", "", "no_route", ""},
		{"the kernel's own multicast", udp6("::", "ff02::16", 1), "", "", "", ""},
		{"mapped destination", udp6("fd00:0:0:a::2", "::ffff:10.244.1.2", 63), "", "", "no_route", "0100"},
		{"TTL 1", udp4("10.244.0.2", "10.244.1.2", 1, 0), "", "b", "ttl_expired", "0b00"},
		{"TTL 0", udp4("10.244.0.2", "10.244.1.2", 0, 0), "", "b", "ttl_expired", "0b00"},
		{"hop limit 1", udp6("fd00:0:0:a::2", "fd00:0:0:b::2", 1), "", "b", "ttl_expired", "0300"},
		{"garbage", []byte("garbage that is no packet at all"), "", "", "malformed", ""},
		{"empty", []byte{}, "", "", "malformed", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			r.send(test.packet)
			checkSent(t, r, test.to, test.packet)
			c := r.Read()
			if got := strings.Join(drops(c.Totals), " "); got != test.drop {
				t.Errorf("drops %q, want %q", got, test.drop)
			}
			if got := strings.Join(drops(c.Peers[test.peer]), " "); test.peer != "" && got != test.drop {
				t.Errorf("drops of %s %q, want %q", test.peer, got, test.drop)
			}
			checkAnswer(t, r, test.icmp)
		})
	}
}

func checkSent(t *testing.T, r *rig, to string, original []byte) {
	t.Helper()
	if to == "" {
		if len(r.wire.sent) != 0 {
			t.Errorf("sent to %s", r.wire.sent[0].Addr)
		}
		return
	}
	if len(r.wire.sent) != 1 || r.wire.sent[0].Addr.String() != to {
		t.Fatalf("sent %v", r.wire.sent)
	}
	before, _ := packet.Parse(original)
	after, ok := packet.Parse(r.wire.sent[0].Data)
	before.TTL--
	if !ok || after != before || !packet.ValidChecksum(r.wire.sent[0].Data) {
		t.Errorf("sent %+v, want %+v", after, before)
	}
	if r.wire.sent[0].TOS != before.TOS {
		t.Errorf("outer TOS %#x, want %#x", r.wire.sent[0].TOS, before.TOS)
	}
}

// checkAnswer compares type and code of the only packet in the TUN.
func checkAnswer(t *testing.T, r *rig, icmp string) {
	t.Helper()
	if icmp == "" {
		if len(r.tun.written) != 0 {
			t.Errorf("answered % x", r.tun.written[0])
		}
		return
	}
	if len(r.tun.written) != 1 {
		t.Fatalf("%d answers", len(r.tun.written))
	}
	b, at, src := r.tun.written[0], 20, "10.244.0.0"
	if b[0]>>4 == 6 {
		at, src = 40, "fd00:0:0:a::"
	}
	h, ok := packet.Parse(b)
	if got := hex.EncodeToString(b[at : at+2]); !ok || h.Src != netip.MustParseAddr(src) || got != icmp {
		t.Errorf("answer from %s: %s, want %s", h.Src, got, icmp)
	}
}

func TestInbound(t *testing.T) {
	b, c, stranger := "172.18.0.3:40000", "172.18.0.4:9000", "172.18.0.9:8285"
	badSum := udp4("10.244.1.2", "10.244.0.2", 62, 0)
	badSum[10] ^= 1
	tests := []struct {
		name   string
		from   string
		tos    uint8
		packet []byte
		ok     bool
		peer   string
		drop   string
		icmp   string
	}{
		{"from a subnet, any port", b, 0, udp4("10.244.1.2", "10.244.0.2", 62, 0xb8), true, "b", "", ""},
		{"from a route", b, 0, udp4("192.168.1.1", "10.244.0.2", 62, 0), true, "b", "", ""},
		{"from a longer route", c, 0, udp4("192.168.7.1", "10.244.0.2", 62, 0), true, "c", "", ""},
		{"to the TUN address", b, 0, udp4("10.244.1.0", "10.244.0.0", 62, 0), true, "b", "", ""},
		{"IPv6", b, 0, udp6("fd00:0:0:b::2", "fd00:0:0:a::2", 62), true, "b", "", ""},
		{"a stranger", stranger, 0, udp4("10.244.1.2", "10.244.0.2", 62, 0), false, "", "unknown_sender", ""},
		{"a stranger's expiring packet", stranger, 0, udp4("10.244.1.2", "10.244.0.2", 1, 0),
			false, "", "unknown_sender", ""},
		{"our own address", "172.18.0.2:8285", 0, udp4("10.244.0.3", "10.244.0.2", 62, 0),
			false, "", "unknown_sender", ""},
		{"another peer's pod", b, 0, udp4("10.244.2.2", "10.244.0.2", 62, 0), false, "b", "spoofed_source", ""},
		{"a shorter route of it", b, 0, udp4("192.168.7.1", "10.244.0.2", 62, 0), false, "b", "spoofed_source", ""},
		{"our own pod", b, 0, udp4("10.244.0.3", "10.244.0.2", 62, 0), false, "b", "spoofed_source", ""},
		{"nobody's address", b, 0, udp4("8.8.8.8", "10.244.0.2", 62, 0), false, "b", "spoofed_source", ""},
		{"to another peer", b, 0, udp4("10.244.1.2", "10.244.2.2", 62, 0), false, "b", "wrong_destination", ""},
		{"to the sender: a loop", b, 0, udp4("10.244.1.2", "10.244.1.3", 62, 0),
			false, "b", "wrong_destination", ""},
		{"to the outside", b, 0, udp4("10.244.1.2", "8.8.8.8", 62, 0), false, "b", "wrong_destination", ""},
		{"TTL 1", b, 0, udp4("10.244.1.2", "10.244.0.2", 1, 0), false, "b", "ttl_expired", "0b00"},
		{"hop limit 0", b, 0, udp6("fd00:0:0:b::2", "fd00:0:0:a::2", 0), false, "b", "ttl_expired", "0300"},
		{"garbage", b, 0, []byte("GET / HTTP/1.1\r\n\r\n and more"), false, "b", "malformed", ""},
		{"bad header checksum", b, 0, badSum, false, "b", "malformed", ""},
		{"congestion, sender deaf", b, 3, udp4("10.244.1.2", "10.244.0.2", 62, 0), false, "b", "malformed", ""},
		{"congestion", b, 3, udp4("10.244.1.2", "10.244.0.2", 62, 2), true, "b", "", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			r.receive(test.from, test.tos, test.packet)
			counted := r.Read()
			traffic := counted.Peers[test.peer]
			if test.peer == "" {
				traffic = counted.Totals
			}
			if got := strings.Join(drops(traffic), " "); got != test.drop ||
				len(drops(counted.Totals)) != len(drops(traffic)) {
				t.Errorf("drops %q, want %q", got, test.drop)
			}
			if len(r.wire.sent) != 0 {
				t.Errorf("something was sent to %s", r.wire.sent[0].Addr)
			}
			if !test.ok {
				checkAnswer(t, r, test.icmp)
				if traffic.RxPackets != 0 || !traffic.LastSeen.IsZero() {
					t.Errorf("counted as received: %+v", traffic)
				}
				return
			}
			checkDelivered(t, r, test.packet, test.tos)
			if traffic.RxPackets != 1 || traffic.RxBytes != uint64(len(test.packet)) ||
				time.Since(traffic.LastSeen) > time.Minute {
				t.Errorf("counted %+v", traffic)
			}
		})
	}
}

func checkDelivered(t *testing.T, r *rig, original []byte, outer uint8) {
	t.Helper()
	if len(r.tun.written) != 1 {
		t.Fatalf("%d packets delivered", len(r.tun.written))
	}
	want, _ := packet.Parse(original)
	want.TTL--
	want.TOS, _ = packet.Decapsulate(want.TOS, outer)
	if got, ok := packet.Parse(r.tun.written[0]); !ok || got != want || !packet.ValidChecksum(r.tun.written[0]) {
		t.Errorf("delivered %+v, want %+v", got, want)
	}
}

// What the socket refuses costs that packet alone, and order is kept.
func TestRefusedSends(t *testing.T) {
	r := newRig(t)
	r.wire.refuse = map[int]error{1: syscall.EAGAIN, 3: syscall.EMSGSIZE, 5: syscall.ENETUNREACH}
	r.wire.mtu = 1400
	var batch [][]byte
	for i := range 7 {
		batch = append(batch, udp4("10.244.0.2", []string{"10.244.1.2", "10.244.2.2"}[i%2], uint8(100+i), 0))
	}
	r.send(batch...)
	var ttls []uint8
	for _, p := range r.wire.sent {
		ttls = append(ttls, p.Data[8]+1)
	}
	if !slices.Equal(ttls, []uint8{100, 102, 104, 106}) {
		t.Errorf("sent %v", ttls)
	}
	c := r.Read()
	if b, got := c.Peers["b"], c.Peers["c"]; b.TxPackets != 4 || len(drops(b)) != 0 ||
		got.TxPackets != 0 || strings.Join(drops(got), " ") != "too_big send_error send_error" {
		t.Errorf("b %+v, c %+v", b, got)
	}
	if len(r.tun.written) != 1 {
		t.Fatalf("%d answers", len(r.tun.written))
	}
	if b := r.tun.written[0]; b[20] != 3 || b[21] != 4 || binary.BigEndian.Uint16(b[26:]) != 1400-28 {
		t.Errorf("answer % x", b[20:28])
	}
}

// Larger than the path: whoever asked not to be fragmented is told the size, in
// the bounds of his family; everybody else is served.
func TestTooBig(t *testing.T) {
	dontFragment := udp4("10.244.0.2", "10.244.1.2", 63, 0)
	large6 := append(udp6("fd00:0:0:a::2", "fd00:0:0:b::2", 63), make([]byte, 1281-48)...)
	binary.BigEndian.PutUint16(large6[4:], uint16(len(large6)-40))
	mayFragment := bytes.Clone(dontFragment)
	mayFragment[6] = 0
	binary.BigEndian.PutUint16(mayFragment[10:], 0)
	binary.BigEndian.PutUint16(mayFragment[10:], packet.Checksum(mayFragment[:20], 0))
	for _, test := range []struct {
		name   string
		packet []byte
		path   int
		mtu    int // told; 0: sent in fragments
	}{
		{"don't fragment", dontFragment, 1400, 1372},
		{"don't fragment, tiny path", dontFragment, 80, 68},
		{"may fragment", mayFragment, 1400, 0},
		{"IPv6", large6, 1400, 1372},
		{"IPv6, path below its minimum", large6, 1290, 1280},
		{"IPv6 of its minimum", udp6("fd00:0:0:a::2", "fd00:0:0:b::2", 63), 1290, 0},
	} {
		r := newRig(t)
		r.wire.refuse, r.wire.mtu = map[int]error{0: syscall.EMSGSIZE}, test.path
		r.send(test.packet)
		b := r.Read().Peers["b"]
		if test.mtu == 0 {
			if len(r.wire.cut) != 1 || len(r.tun.written) != 0 || b.TxPackets != 1 || len(drops(b)) != 0 {
				t.Errorf("%s: %d cut, %d answers, %+v", test.name, len(r.wire.cut), len(r.tun.written), b)
			}
			continue
		}
		if len(r.wire.cut) != 0 || len(r.tun.written) != 1 || strings.Join(drops(b), " ") != "too_big" {
			t.Fatalf("%s: %d cut, %d answers, %+v", test.name, len(r.wire.cut), len(r.tun.written), b)
		}
		answer := r.tun.written[0]
		at := 26
		if answer[0]>>4 == 6 {
			at = 46
		}
		if got := int(binary.BigEndian.Uint16(answer[at:])); got != test.mtu {
			t.Errorf("%s: told %d, want %d", test.name, got, test.mtu)
		}
	}
}

// What probes have found about the path to a peer holds for each packet to it, and for no other peer:
// whoever may be cut is cut, in order with the packets around it, and whoever may not is told the size.
func TestPeerMTU(t *testing.T) {
	large := func(dst string, size int, may bool) []byte {
		b := append(udp4("10.244.0.2", dst, 63, 0), make([]byte, size-28)...)
		binary.BigEndian.PutUint16(b[2:], uint16(size))
		b[6] = 0x40
		if may {
			b[6] = 0
		}
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], packet.Checksum(b[:20], 0))
		return b
	}
	r := newRig(t)
	if err := r.Learn("b", peers.Directive{MTU: 1252}); err != nil {
		t.Fatal(err)
	}
	const b, c = "10.244.1.2", "10.244.2.2"
	r.send(large(b, 1252, false), large(b, 1253, false), large(b, 1400, true), large(c, 1472, false))
	sizes := func() (all []int) {
		for _, p := range r.wire.sent {
			all = append(all, len(p.Data))
		}
		return all
	}
	if got := sizes(); !slices.Equal(got, []int{1252, 1472}) || len(r.wire.cut) != 1 ||
		len(r.wire.cut[0]) != 1400 {
		t.Errorf("sent %v, cut %d", got, len(r.wire.cut))
	}
	if len(r.tun.written) != 1 || binary.BigEndian.Uint16(r.tun.written[0][26:]) != 1252 {
		t.Errorf("%d answers: % x", len(r.tun.written), r.tun.written)
	}
	if at := r.Read().Peers["b"]; at.TxPackets != 2 || strings.Join(drops(at), " ") != "too_big" {
		t.Errorf("%+v", at)
	}
	if err := r.setMesh(threeNodes()); err != nil { // a reload knows it still
		t.Fatal(err)
	}
	r.send(large(b, 1253, false))
	if got := r.Read().Peers["b"].Drops[mesh.TooBig]; got != 2 {
		t.Errorf("%d drops after a reload", got)
	}
	_ = r.Learn("b", peers.Directive{}) // the path is as wide as the interface again
	r.send(large(b, 1472, false))
	if got := sizes(); len(got) != 3 || got[2] != 1472 {
		t.Errorf("sent %v", got)
	}
}

func TestRefusedDeliveries(t *testing.T) {
	r := newRig(t)
	r.tun.refuse = map[int]error{0: syscall.EIO, 2: syscall.EIO}
	p := udp4("10.244.1.2", "10.244.0.2", 62, 0)
	r.receive("172.18.0.3:8285", 0, p, p, p, p)
	if c := r.Read(); c.Totals.RxPackets != 2 ||
		strings.Join(drops(c.Totals), " ") != "write_error write_error" {
		t.Errorf("counted %+v", c.Totals)
	}
}

func TestAnswersAreLimited(t *testing.T) {
	r := newRig(t)
	now := time.Unix(1000, 0)
	r.out.answer.now = func() time.Time { return now }
	p := udp4("10.244.0.2", "10.244.9.2", 63, 0)
	for range 500 {
		r.send(p)
	}
	if len(r.tun.written) != answersBurst {
		t.Errorf("%d answers at once", len(r.tun.written))
	}
	now = now.Add(10 * time.Millisecond)
	for range 500 {
		r.send(p)
	}
	if got := len(r.tun.written) - answersBurst; got != 10 {
		t.Errorf("%d answers 10 ms later", got)
	}
	if got := r.Read().Totals.Drops[mesh.NoRoute]; got != 1000 {
		t.Errorf("%d drops", got)
	}
}

func TestSetMeshKeepsCounters(t *testing.T) {
	r := newRig(t)
	r.send(udp4("10.244.0.2", "10.244.1.2", 63, 0), udp4("10.244.0.2", "10.244.2.2", 63, 0))
	m := threeNodes()
	m.Peers = m.Peers[:2]
	m.Peers[1].Addresses = []mesh.Endpoint{mesh.Endpoint{AddrPort: netip.MustParseAddrPort("172.18.0.5:8285")}}
	if err := r.setMesh(m); err != nil {
		t.Fatal(err)
	}
	r.send(udp4("10.244.0.2", "10.244.1.2", 63, 0), udp4("10.244.0.2", "10.244.2.2", 63, 0))
	c := r.Read()
	if _, gone := c.Peers["c"]; gone || c.Peers["b"].TxPackets != 2 || c.Totals.TxPackets != 3 ||
		c.Totals.Drops[mesh.NoRoute] != 1 {
		t.Errorf("counters %+v", c)
	}
	if to := r.wire.sent[2].Addr.String(); to != "172.18.0.5:8285" {
		t.Errorf("sent to the old address %s", to)
	}
}

func TestSetMeshRefuses(t *testing.T) {
	r := newRig(t)
	bad := threeNodes()
	bad.Self = "nobody"
	if err := r.setMesh(bad); err == nil {
		t.Error("a mesh without this node")
	}
	bad = threeNodes()
	bad.Peers[2].Subnets = bad.Peers[1].Subnets
	if err := r.setMesh(bad); err == nil {
		t.Error("a subnet claimed twice")
	}
	r.send(udp4("10.244.0.2", "10.244.2.9", 63, 0))
	if len(r.wire.sent) != 1 || r.wire.sent[0].Addr.String() != "172.18.0.4:9000" {
		t.Errorf("the old mesh is gone: %+v", r.wire.sent)
	}
}

// The parts of one reading add up, also while packets are counted.
func TestCountersAddUp(t *testing.T) {
	r := newRig(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 20000 {
			r.send(udp4("10.244.0.2", "10.244.1.2", 63, 0), udp4("10.244.0.2", "10.244.2.2", 1, 0))
			r.wire.sent, r.tun.written = r.wire.sent[:0], r.tun.written[:0]
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		c := r.Read()
		if sent := c.Peers["b"].TxPackets + c.Peers["c"].TxPackets; sent != c.Totals.TxPackets {
			t.Fatalf("the peers were sent %d, all in all %d", sent, c.Totals.TxPackets)
		}
		if expired := c.Peers["c"].Drops[mesh.TTLExpired]; expired != c.Totals.Drops[mesh.TTLExpired] {
			t.Fatalf("%d drops, all in all %d", expired, c.Totals.Drops[mesh.TTLExpired])
		}
	}
}

func TestBeforeSetMeshNothingPasses(t *testing.T) {
	r := &rig{tun: newFakeTun(), wire: newFakeWire()}
	r.start()
	r.send(udp4("10.244.0.2", "10.244.1.2", 63, 0))
	r.receive("172.18.0.3:8285", 0, udp4("10.244.1.2", "10.244.0.2", 62, 0))
	if len(r.wire.sent)+len(r.tun.written) != 0 {
		t.Error("something passed")
	}
}

// discard takes everything.
type discard struct{ *fakeTun }

func (discard) Write(bs []packet.Burst) (int, error) { return len(bs), nil }

func (discard) WriteFragmented(*packet.Burst, int) error { return nil }

func (discard) Writer() func([][]byte) error { return func([][]byte) error { return nil } }

// path returns functions that pass one full batch each way, without I/O.
func path(tb testing.TB, offloads ...string) (out, in func()) {
	return pathCounting(tb, false, offloads...)
}

// pathCounting is path for workers that count flows, or do not.
func pathCounting(tb testing.TB, counted bool, offloads ...string) (out, in func()) {
	r := newRig(tb, offloads...)
	socket := r.wire.socket("172.18.0.2:8285")
	socket.Sender = discard{}
	w := newWorker(Worker{Tun: discard{r.tun}, Sockets: []Socket{socket}})
	for n := range w.flows {
		if counted {
			w.flows[n].Store(newSketch())
		}
	}
	o, i := newOutbound(r.Engine, w), newInbound(r.Engine, w, 0)
	outgoing, incoming := udp4("10.244.0.2", "10.244.1.2", 63, 0), udp4("10.244.1.2", "10.244.0.2", 62, 0)
	frames := make([][]byte, Frames)
	for n := range frames {
		frames[n] = frame(outgoing)
	}
	from := netip.MustParseAddrPort("172.18.0.3:8285")
	ds := packet.NewDatagrams(Frames)
	return func() {
			for _, f := range frames {
				copy(f[virtio.HeaderSize:], outgoing)
			}
			o.forward(frames)
		}, func() {
			for n := range ds {
				ds[n].Data, ds[n].Addr = ds[n].Buf[:copy(ds[n].Buf, incoming)], from
			}
			i.deliver(ds)
		}
}

var allOffloads = []string{"tso4", "tso6", "uso", "udp_gso", "udp_gro"}

func TestPathDoesNotAllocate(t *testing.T) {
	for _, offloads := range [][]string{nil, allOffloads} {
		out, in := path(t, offloads...)
		if n := testing.AllocsPerRun(100, out); n != 0 {
			t.Errorf("out with %v: %v allocations", offloads, n)
		}
		if n := testing.AllocsPerRun(100, in); n != 0 {
			t.Errorf("in with %v: %v allocations", offloads, n)
		}
	}
}

func BenchmarkPath(b *testing.B) {
	for name, offloads := range map[string][]string{"plain": nil, "offload": allOffloads} {
		out, in := path(b, offloads...)
		for direction, f := range map[string]func(){"out": out, "in": in} {
			b.Run(name+"/"+direction, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					f()
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/Frames, "ns/packet")
			})
		}
	}
}

// An edit of one node of 10,000.
func BenchmarkSetMesh10000(b *testing.B) {
	u, w := New(dataplane.Options{}), dataplane.Wanted{Mesh: mesh.Mesh{Self: "n0"}}
	for i := range 10000 {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 18, byte(i >> 8), byte(i)}), 8285)
		w.Mesh.Peers = append(w.Mesh.Peers, mesh.Peer{Name: fmt.Sprint("n", i),
			Addresses: []mesh.Endpoint{{AddrPort: at}},
			Subnets:   []mesh.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)}})
	}
	w.Binds = []netip.AddrPort{w.Mesh.Peers[0].Addresses[0].AddrPort}
	if err := u.SetMesh(w); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		w.Mesh.Peers = slices.Clone(w.Mesh.Peers)
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 200, byte(i), 0}), 24)
		w.Mesh.Peers[9999].Subnets = []mesh.Prefix{subnet}
		if err := u.SetMesh(w); err != nil {
			b.Fatal(err)
		}
	}
}
