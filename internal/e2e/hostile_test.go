package e2e

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/udp"
	"example.org/meshd/internal/nstest"
)

// udpPacket returns a whole IPv4 UDP packet.
func udpPacket(src, dst string, port uint16, ttl uint8, payload string) []byte {
	b := make([]byte, 28, 28+len(payload))
	b = append(b, payload...)
	b[0], b[8], b[9] = 0x45, ttl, 17
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], netip.MustParseAddr(src).AsSlice())
	copy(b[16:], netip.MustParseAddr(dst).AsSlice())
	binary.BigEndian.PutUint16(b[20:], 7777)
	binary.BigEndian.PutUint16(b[22:], port)
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(payload)))
	binary.BigEndian.PutUint16(b[10:], packet.Checksum(b[:20], 0))
	return b
}

// What a stranger or a lying peer sends is not delivered, not answered, and
// counted. A good packet sent behind each lie is the first to arrive.
func TestLies(t *testing.T) { eachEngine(t, nstest.Waiting, testLies) }

func testLies(t *testing.T) {
	m := newMesh(t)
	stranger, err := m.Lab.Host("stranger", "172.18.0.9/16")
	if err != nil {
		t.Fatal(err)
	}
	victim := listen(t, m.PodW2b, "10.244.2.3:7000")
	fromStranger, fromWorker := listen(t, stranger.Namespace, "172.18.0.9:8285"), listen(t, m.Worker.Namespace,
		"172.18.0.4:0")
	eth := capture(t, stranger.Namespace, "eth0")
	unchecked(t, fromStranger)
	unchecked(t, fromWorker)
	const to = "172.18.0.3:8285"
	good := udpPacket("10.244.1.2", "10.244.2.3", 7000, 62, "good")

	lies := []struct {
		name     string
		stranger bool
		datagram []byte
		reason   string
	}{
		{
			"a stranger with a pod's address",
			true,
			udpPacket("10.244.1.2", "10.244.2.3", 7000, 62, "lie"),
			"unknown_sender",
		},
		{
			"a stranger's expiring packet",
			true,
			udpPacket("10.244.1.2", "10.244.2.3", 7000, 1, "lie"),
			"unknown_sender",
		},
		{"a stranger's garbage", true, []byte("hello?"), "unknown_sender"},
		{
			"a peer with another peer's pod",
			false,
			udpPacket("10.244.0.2", "10.244.2.3", 7000, 62, "lie"),
			"spoofed_source",
		},
		{
			"a peer with our own pod",
			false,
			udpPacket("10.244.2.2", "10.244.2.3", 7000, 62, "lie"),
			"spoofed_source",
		},
		{
			"a peer with an outside address",
			false,
			udpPacket("8.8.8.8", "10.244.2.3", 7000, 62, "lie"),
			"spoofed_source",
		},
		{
			"a peer that wants to be relayed",
			false,
			udpPacket("10.244.1.2", "10.244.0.2", 7000, 62, "lie"),
			"wrong_destination",
		},
		{
			"a peer that wants us to the outside",
			false,
			udpPacket("10.244.1.2", "172.18.0.2", 7000, 62, "lie"),
			"wrong_destination",
		},
		{"a looping packet", false, udpPacket("10.244.1.2", "10.244.1.2", 7000, 62, "lie"), "wrong_destination"},
		{"a peer's garbage", false, []byte("hello?"), "malformed"},
		{"nothing at all", false, nil, "malformed"},
		{"a truncated packet", false, good[:20], "malformed"},
		{"a packet with a tail", false, append(good[:len(good):len(good)], 0), "malformed"},
	}
	for _, lie := range lies {
		t.Run(lie.name, func(t *testing.T) {
			before := status(t, m.w2)
			conn := fromWorker
			if lie.stranger {
				conn = fromStranger
			}
			send(t, conn, to, lie.datagram)
			send(t, fromWorker, to, good)
			if payload, from := receive(t, victim); string(payload) != "good" || from.Addr().String() != "10.244.1.2" {
				t.Errorf("delivered %q from %s", payload, from)
			}
			// User space counts what the programs leave to it, in its own time.
			after := waitStatus(t, m.w2, "counted as "+lie.reason, func(s control.Status) bool {
				return s.Totals.Drops[lie.reason] > before.Totals.Drops[lie.reason]
			})
			if after.Totals.Drops[lie.reason] != before.Totals.Drops[lie.reason]+1 {
				t.Errorf("not counted once as %s: %v", lie.reason, after.Totals.Drops)
			}
			was, is := peer(t, before, "worker").Drops[lie.reason], peer(t, after, "worker").Drops[lie.reason]
			if !lie.stranger && is != was+1 {
				t.Errorf("%d counted against its peer, before %d", is, was)
			}
		})
	}

	// Nothing came back to the stranger: what he sees first is his own request.
	run(t, stranger.Namespace, "ping", "-c", "1", "172.18.0.3")
	next(t, eth, "the stranger's frames", func(f []byte) bool {
		if isIPv4(f) && netip.AddrFrom4([4]byte(f[26:30])).String() == "172.18.0.3" && f[14+9] == 17 {
			t.Errorf("the stranger got an answer: % x", f)
		}
		return isIPv4(f) && f[14+9] == 1
	})
}

// A million random and mutated datagrams, from a listed peer and from a
// stranger: every one is dropped and counted, nothing reaches the TUN, nothing
// is logged, and memory stays where it was.
func TestMillionBadDatagrams(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	m := newWorldMTU(t, 1472).startAll(dualStack("172.18.0.%d"))
	stranger, err := m.Lab.Host("stranger", "172.18.0.9/16")
	if err != nil {
		t.Fatal(err)
	}
	const total, chunk = 1_000_000, 20_000
	r := rand.New(rand.NewPCG(1, 1))
	send := map[string]func(n int){
		"worker":   flood(t, m.Worker.Namespace, "172.18.0.4:0", r),
		"stranger": flood(t, stranger.Namespace, "172.18.0.9:8285", r),
	}
	// What comes out of the TUN besides meshd's own probes, which are forwarded, too.
	run(t, m.Worker2.Namespace, "nft", "table inet seen { counter others { }; chain c { "+
		"type filter hook prerouting priority -400; iifname != mesh0 return; "+
		"meta l4proto { icmp, ipv6-icmp } @th,64,40 0x6d65736864 return; counter name others; }; }")
	var rss int
	var log string
	sent := uint64(0)
	for sent < total {
		who := "worker"
		if sent/chunk%4 == 3 {
			who = "stranger"
		}
		send[who](chunk)
		sent += chunk
		waitStatus(t, m.w2, fmt.Sprint(sent, " datagrams counted"),
			func(s control.Status) bool { return inDrops(s) >= sent })
		if sent == total/5 { // the heap has found its size
			rss, log = memoryKiB(t, m.w2.PID(), "VmRSS"), m.w2.Log()
		}
	}

	s := status(t, m.w2)
	if got := inDrops(s); got != total {
		t.Errorf("%d of %d datagrams counted: %v", got, total, s.Totals.Drops)
	}
	for _, reason := range []string{"unknown_sender", "spoofed_source", "malformed"} {
		if s.Totals.Drops[reason] == 0 {
			t.Errorf("the datagrams were too tame: none was dropped as %s: %v", reason, s.Totals.Drops)
		}
	}
	if s.Totals.Drops["socket_overflow"] > total/10 {
		t.Errorf("too many never reached meshd: %v", s.Totals.Drops)
	}
	seen := run(t, m.Worker2.Namespace, "nft", "list", "counter", "inet", "seen", "others")
	probes := forwardedTo(t, m.w, "worker2") + forwardedTo(t, m.cp, "worker2")
	if *s.Totals.RxPackets > probes ||
		!strings.Contains(seen, "packets 0 ") {
		t.Errorf("%d packets accepted, %d of them may be probes; delivered: %s", *s.Totals.RxPackets, probes, seen)
	}
	if now := memoryKiB(t, m.w2.PID(), "VmRSS"); now > rss+16<<10 {
		t.Errorf("memory grew from %d to %d KiB", rss, now)
	}
	if now := m.w2.Log(); now != log {
		t.Errorf("logged:\n%s", now[len(log):])
	}
	t.Logf("drops %v, resident %d KiB", s.Totals.Drops, memoryKiB(t, m.w2.PID(), "VmRSS"))
	contains(t, run(t, m.PodW2b, "ping", "-c", "1", "10.244.1.2"), "ttl=60")
}

// forwardedTo returns how many probes that a peer has to forward a daemon has sent. They count as received.
func forwardedTo(t *testing.T, d *nstest.Daemon, name string) (sent uint64) {
	for _, form := range peer(t, status(t, d), name).Probes {
		if form.Form == "forwarded" {
			sent = form.Sent
		}
	}
	return sent
}

// inDrops sums up what was dropped on the way in.
func inDrops(s control.Status) (sum uint64) {
	for _, reason := range []string{"unknown_sender", "spoofed_source", "wrong_destination", "ttl_expired",
		"malformed", "write_error", "socket_overflow"} {
		sum += s.Totals.Drops[reason]
	}
	return sum
}

// flood returns a function that sends n bad datagrams to worker2.
func flood(t *testing.T, n *nstest.Namespace, local string, r *rand.Rand) func(int) {
	var conn *udp.Conn
	if err := n.Do(func() (err error) {
		conn, err = udp.Open(netip.MustParseAddrPort(local), false)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	sender, batch := conn.NewSender(50), make([]packet.Burst, 50)
	memory := packet.NewDatagrams(len(batch))
	to := netip.MustParseAddrPort("172.18.0.3:8285")
	return func(n int) {
		for ; n > 0; n -= len(batch) {
			for i := range batch {
				batch[i] = packet.Burst{Addr: to, TOS: uint8(r.Uint32())}
				batch[i].Add(badDatagram(r, memory[i].Buf))
			}
			for left := batch; len(left) > 0; {
				sent, err := sender.Write(left)
				if err != nil {
					t.Fatal(err)
				}
				left = left[sent:]
			}
		}
	}
}

// badDatagram makes a datagram that no honest meshd sends: pure noise, or a
// packet between two addresses that are both wrong, with some of its bits
// flipped and cut or extended. The wrong addresses differ from good ones in
// more bits than are ever flipped, so that none can become good.
func badDatagram(r *rand.Rand, buf []byte) []byte {
	var b []byte
	switch r.IntN(4) {
	case 0:
		b = buf[:r.IntN(1400)]
		for i := 0; i+8 <= len(b); i += 8 {
			binary.NativeEndian.PutUint64(b[i:], r.Uint64())
		}
		return b
	case 1:
		b = append(buf[:0], 0x60, 0, 0, 0, 0, 20, 17, 60)
		b = append(b, netip.MustParseAddr("2001:db8:ffff::1").AsSlice()...)
		b = append(b, netip.MustParseAddr("2001:db8:ffff::2").AsSlice()...)
		b = append(b, make([]byte, 20)...)
	default:
		b = append(buf[:0], udpPacket("203.0.113.77", "198.51.100.33", 7000, 62, "some payload")...)
	}
	for range r.IntN(4) {
		b[r.IntN(len(b))] ^= 1 << r.IntN(8)
	}
	switch r.IntN(6) {
	case 0:
		b = b[:r.IntN(len(b)+1)]
	case 1:
		b = append(b, make([]byte, r.IntN(100))...)
	}
	return b
}

// memoryKiB returns a process's memory: VmRSS is what is resident, VmHWM the most that ever was.
func memoryKiB(t *testing.T, pid int, field string) int {
	t.Helper()
	doc, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(field + `:\s+(\d+) kB`).FindSubmatch(doc)
	if match == nil {
		t.Fatalf("no %s in\n%s", field, doc)
	}
	n, err := strconv.Atoi(string(match[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
