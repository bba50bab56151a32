package e2e

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/nstest"
)

// problemOf returns the problem of a kind about a peer; nil if there is none.
func problemOf(s control.Status, kind string, peer string) *control.Problem {
	i := slices.IndexFunc(s.Health.Problems, func(p control.Problem) bool {
		return p.Kind == kind && p.Peer == peer
	})
	if i < 0 {
		return nil
	}
	return &s.Health.Problems[i]
}

// waitProblem waits until a daemon has a problem of a kind about a peer.
func waitProblem(t testing.TB, d *nstest.Daemon, kind string, peer string) (s control.Status) {
	t.Helper()
	return waitStatus(t, d, kind+" about "+peer, func(s control.Status) bool {
		return problemOf(s, kind, peer) != nil
	})
}

// waitNoProblem waits until it has not. A trouble lasts for half a minute after its last sign.
func waitNoProblem(t testing.TB, d *nstest.Daemon, kind string, peer string) {
	t.Helper()
	for end := time.Now().Add(2 * patience); ; time.Sleep(100 * time.Millisecond) {
		s := status(t, d)
		if problemOf(s, kind, peer) == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s about %q stays: %+v", kind, peer, s.Health)
		}
	}
}

// icmpUnreachable returns the ICMP error of a code about a datagram between two mesh ports.
func icmpUnreachable(code byte, from, to string) []byte {
	quoted := udpPacket(from, to, 8285, 64, "")
	quoted[20], quoted[21] = 8285>>8, 8285&0xff
	b := append([]byte{3, code, 0, 0, 0, 0, 0, 0}, quoted...) // RFC 792
	sum := packet.Checksum(b, 0)
	b[2], b[3] = byte(sum>>8), byte(sum)
	return b
}

// Strangers are named, whatever they send; none of them is answered, and none of them can alarm.
func TestStrangersAreNamed(t *testing.T) { eachEngine(t, nstest.Waiting, testStrangersAreNamed) }

func testStrangersAreNamed(t *testing.T) {
	m := newWorld(t).startAll(often(t))
	waitPeer(t, m.w2, "worker", "up", isIn(control.Up))
	stranger, err := m.Lab.Host("stranger", "172.18.0.9/16")
	if err != nil {
		t.Fatal(err)
	}
	conn := listen(t, stranger.Namespace, "172.18.0.9:8285")
	unchecked(t, conn)
	eth := capture(t, stranger.Namespace, "eth0")
	before := status(t, m.w2).Health.Level
	for range 50 {
		send(t, conn, "172.18.0.3:8285", udpPacket("10.244.1.2", "10.244.2.3", 7000, 62, "lie"))
	}
	s := waitStatus(t, m.w2, "50 packets of a stranger", func(s control.Status) bool {
		return len(s.Strangers) == 1 && s.Strangers[0].Packets == 50
	})
	got := s.Strangers[0]
	if got.Address != "172.18.0.9" || got.Reason != "unknown_sender" || got.Peer != "" ||
		got.InnerSource != "10.244.1.2" || got.InnerDestination != "10.244.2.3" || got.Last.IsZero() {
		t.Errorf("%+v", got)
	}
	s = waitProblem(t, m.w2, "unknown_sender", "")
	if p := problemOf(s, "unknown_sender", ""); p.Level != control.Info || s.Health.Level != before {
		t.Errorf("%+v, was %q", s.Health, before)
	}

	// Whoever forges ICMP errors about a peer that answers explains nothing, and disturbs nothing.
	var icmp net.PacketConn
	if err := stranger.Do(func() (err error) {
		icmp, err = net.ListenPacket("ip4:icmp", "172.18.0.9")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer icmp.Close()
	for range 50 {
		b := icmpUnreachable(3, "172.18.0.3", "172.18.0.4")
		if _, err := icmp.WriteTo(b, &net.IPAddr{IP: net.IPv4(172, 18, 0, 3)}); err != nil {
			t.Fatal(err)
		}
	}
	p := waitPeer(t, m.w2, "worker", "slandered", func(p control.Peer) bool {
		return p.ICMPError != nil && p.ICMPError.Packets == 50
	})
	if p.ICMPError.Means != "port_unreachable" || p.ICMPError.From != "172.18.0.9" || p.State != control.Up {
		t.Errorf("%+v %+v", p, p.ICMPError)
	}
	heard := status(t, m.w2).UptimeSeconds
	s = waitStatus(t, m.w2, "judged", func(s control.Status) bool { return s.UptimeSeconds > heard+2 })
	if s.Health.Level != before || problemOf(s, "port_unreachable", "worker") != nil {
		t.Errorf("%+v", s.Health)
	}
	run(t, m.PodW2a, "ping", "-c", "3", "-i", "0.1", "-W", "5", "10.244.1.2")

	// A datagram of another host is the last that may have caused an answer.
	send(t, listen(t, m.Worker.Namespace, "172.18.0.4:0"), "172.18.0.9:9", []byte("end"))
	for {
		b := next(t, eth, "the end", func([]byte) bool { return true })
		if endsWith("end")(b) {
			break
		}
		src := netip.MustParseAddr("172.18.0.3").As4()
		if len(b) > 34 && b[12] == 8 && b[13] == 0 && b[23] == 17 && [4]byte(b[26:30]) == src {
			t.Errorf("an answer: % x", b)
		}
	}
}

// What a listed node may not send degrades while it grows: its file differs, or somebody forges it.
func TestLiesOfANodeDegrade(t *testing.T) { eachEngine(t, nstest.Waiting, testLiesOfANodeDegrade) }

func testLiesOfANodeDegrade(t *testing.T) {
	m := newMesh(t)
	conn := listen(t, m.Worker.Namespace, "172.18.0.4:0")
	unchecked(t, conn)
	// The daemon takes its first reading within a second of its start.
	if _, err := client(t, m.w2).History(t.Context(), "", "5m"); err != nil {
		t.Fatal(err)
	}
	for reason, b := range map[string][]byte{
		"spoofed_source":    udpPacket("10.244.0.2", "10.244.2.3", 7000, 62, "lie"),
		"wrong_destination": udpPacket("10.244.1.2", "10.244.0.2", 7000, 62, "lie"),
	} {
		for range 20 {
			send(t, conn, "172.18.0.3:8285", b)
		}
		waitStatus(t, m.w2, reason+" degrades", func(s control.Status) bool {
			p := problemOf(s, "drops_growing", "worker")
			return p != nil && p.Level == control.Degraded && peer(t, s, "worker").Drops[reason] == 20
		})
	}
}

// Why datagrams do not reach a peer is told while they do not: this host's own firewall, a router, a link
// without the peer, a host without meshd.
func TestCausesOfSilenceAreTold(t *testing.T) {
	eachEngine(t, nstest.Waiting, testCausesOfSilenceAreTold)
}

func testCausesOfSilenceAreTold(t *testing.T) {
	m := newWorld(t).startAll(often(t))
	router, err := m.Lab.Host("router", "172.18.0.1/16")
	if err != nil {
		t.Fatal(err)
	}
	run(t, router.Namespace, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.icmp_ratelimit=0")
	run(t, router.Namespace, "ip", "route", "add", "unreachable", "172.18.0.4")
	ip := func(h *nstest.Host, args ...string) { run(t, h.Namespace, "ip", args...) }

	var w *nstest.Daemon
	for _, cause := range []struct {
		name       string
		begin, end func()
		kind       string
		from       string // who sends the ICMP error; empty: this host itself refuses
	}{
		{"OUTPUT", func() {
			run(t, m.Worker2.Namespace, "nft", "add table ip t;"+
				" add chain ip t o { type filter hook output priority 0; };"+
				" add rule ip t o ip daddr 172.18.0.4 udp dport 8285 drop")
		}, func() { run(t, m.Worker2.Namespace, "nft", "delete table ip t") }, "send_refused", ""},
		{"a router", func() { ip(m.Worker2, "route", "add", "172.18.0.4", "via", "172.18.0.1") },
			func() { ip(m.Worker2, "route", "del", "172.18.0.4") }, "host_unreachable", "172.18.0.1"},
		{"the link", func() {
			ip(m.Worker, "link", "set", "eth0", "down")
			ip(m.Worker2, "neigh", "flush", "all") // else the kernel believes in the old one for a while
		},
			func() { ip(m.Worker, "link", "set", "eth0", "up") }, "no_neighbour", "172.18.0.3"},
		{"no meshd", func() { m.w.Kill() },
			func() { w = m.start(m.Worker, m.w.Config) }, "port_unreachable", "172.18.0.4"},
	} {
		t.Run(cause.name, func(t *testing.T) {
			waitPeer(t, m.w2, "worker", "up", isIn(control.Up))
			cause.begin()
			end := sync.OnceFunc(cause.end)
			defer end()
			s := waitProblem(t, m.w2, cause.kind, "worker")
			p := peer(t, s, "worker")
			switch {
			case cause.from == "" && (p.SendError == nil || p.SendError.Errno != 1): // EPERM
				t.Errorf("%+v", p.SendError)
			case cause.from != "" && (p.ICMPError == nil || p.ICMPError.From != cause.from):
				t.Errorf("%+v", p.ICMPError)
			}
			problem := problemOf(s, cause.kind, "worker")
			if problem.Level != control.Degraded || problem.Remedy == "" {
				t.Errorf("%+v", problem)
			}
			if problemOf(s, cause.kind, "control-plane") != nil {
				t.Error("the other peer has the problem, too")
			}
			end()
			waitNoProblem(t, m.w2, cause.kind, "worker")
		})
	}
	if w != nil {
		waitPeer(t, w, "worker2", "up", isIn(control.Up))
	}
}
