package e2e

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/nstest"
)

// Both families inside, over each family outside.
func TestFamilies(t *testing.T) { eachEngine(t, nstest.Waiting, testFamilies) }

func testFamilies(t *testing.T) {
	for _, test := range []struct {
		name, underlay string
		mtu            int
	}{
		{"over IPv4", "172.18.0.%d", 1472},
		{"over IPv6", "2001:db8::%d", 1452},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newWorldMTU(t, test.mtu).startAll(dualStack(test.underlay))
			t.Run("both pass", func(t *testing.T) { bothFamiliesPass(t, m, test.mtu) })
			t.Run("traceroute", func(t *testing.T) { tracerouteShowsEveryHop(t, m) })
			t.Run("unassigned", func(t *testing.T) { unassignedIsRefused(t, m) })
			t.Run("no bridge", func(t *testing.T) { podsWithoutABridgeAreRefused(t, m) })
		})
	}
}

func bothFamiliesPass(t *testing.T, m *mesh, mtu int) {
	tun := run(t, m.Worker2.Namespace, "ip", "addr", "show", "mesh0")
	contains(t, tun, fmt.Sprint("mtu ", mtu), "inet 10.244.2.0/32", "inet6 fd00:10:244:2::/128")
	contains(t, run(t, m.Worker2.Namespace, "ip", "-6", "route"), "fd00:10:244::/48 dev mesh0 ")

	contains(t, run(t, m.PodW2b, "ping", "-c", "1", "10.244.1.2"), "ttl=60")
	contains(t, run(t, m.PodW2b, "ping", "-c", "1", "fd00:10:244:1::2"), "ttl=60")
	largest4, largest6 := fmt.Sprint(mtu-28), fmt.Sprint(mtu-48)
	run(t, m.PodW2b, "ping", "-c", "1", "-M", "do", "-s", largest4, "10.244.1.2")
	run(t, m.PodW2b, "ping", "-c", "1", "-M", "do", "-s", largest6, "fd00:10:244:1::2")
	// Fragments of a pod's packet pass like any other packet.
	run(t, m.PodW2b, "ping", "-c", "1", "-s", "8000", "10.244.1.2")
	run(t, m.PodW2b, "ping", "-c", "1", "-s", "8000", "fd00:10:244:1::2")
	// A host's own packets leave with the TUN's address.
	server := listen(t, m.PodW, "[fd00:10:244:1::2]:7000")
	send(t, listen(t, m.Worker2.Namespace, "[::]:0"), "[fd00:10:244:1::2]:7000", []byte("x"))
	if _, from := receive(t, server); from.Addr() != netip.MustParseAddr("fd00:10:244:2::") {
		t.Errorf("from %s", from)
	}

	if s := status(t, m.w2); s.Network.MTU != mtu || len(problems(s)) != 0 {
		t.Errorf("network %+v, warnings %q", s.Network, s.Warnings)
	}
}

// Every hop of either family shows, to echo requests and to UDP.
func tracerouteShowsEveryHop(t *testing.T, m *mesh) {
	for _, test := range []struct{ to, want string }{
		{"10.244.1.2", "10.244.2.1 10.244.2.0 10.244.1.0 10.244.1.0 10.244.1.2"},
		{"fd00:10:244:1::2", "fd00:10:244:2::1 fd00:10:244:2:: fd00:10:244:1:: fd00:10:244:1:: fd00:10:244:1::2"},
	} {
		for name, hops := range map[string]func(*testing.T, *nstest.Namespace, string) []string{
			"echo": echoHops, "UDP": udpHops,
		} {
			t.Run(name+" to "+test.to, func(t *testing.T) {
				if got := strings.Join(hops(t, m.PodW2b, test.to), " "); got != test.want {
					t.Errorf("hops %s, want %s", got, test.want)
				}
			})
		}
	}
}

var (
	tracedHop = regexp.MustCompile(`(?m)^ *\d+ +(\S+)`)
	pingedHop = regexp.MustCompile(`(?m)(?:From (\S+)|bytes from (\S+):) icmp_seq=1`) // an error, the answer
)

// udpHops returns who answered UDP datagrams of a growing TTL.
func udpHops(t *testing.T, from *nstest.Namespace, to string) (all []string) {
	out := run(t, from, "traceroute", "-U", "-n", "-q", "1", "-w", "3", "-N", "1", to)
	for _, hop := range tracedHop.FindAllStringSubmatch(out, -1) {
		all = append(all, hop[1])
	}
	return all
}

// echoHops returns who answered echo requests of a growing TTL, up to the one that is for the answerer.
// `traceroute -I` of Debian 12 now and then sees none of the echo replies that a capture in its own
// namespace shows, so ping does its work.
func echoHops(t *testing.T, from *nstest.Namespace, to string) (all []string) {
	for ttl := 1; ttl < 9; ttl++ {
		out, err := from.Run("ping", "-n", "-c", "1", "-W", "3", "-t", fmt.Sprint(ttl), to)
		hop := pingedHop.FindStringSubmatch(out)
		if hop == nil {
			t.Fatalf("no answer to an echo request with TTL %d: %v\n%s", ttl, err, out)
		}
		all = append(all, hop[1]+hop[2])
		if err == nil {
			break
		}
	}
	return all
}

// An address that no node has is refused at once, by the TUN.
func unassignedIsRefused(t *testing.T, m *mesh) {
	before := status(t, m.w2).Totals.Drops["no_route"]
	out, err := m.PodW2b.Run("ping", "-c", "1", "-W", "5", "10.244.9.9")
	if err == nil {
		t.Error("ping succeeded")
	}
	contains(t, out, "From 10.244.2.0 icmp_seq=1 Destination Net Unreachable")
	out, err = m.PodW2b.Run("ping", "-c", "1", "-W", "5", "fd00:10:244:9::9")
	if err == nil {
		t.Error("ping succeeded")
	}
	contains(t, out, "From fd00:10:244:2:: icmp_seq=1 Destination unreachable: No route")
	if s := status(t, m.w2); s.Totals.Drops["no_route"] != before+2 {
		t.Errorf("drops %v", s.Totals.Drops)
	}
}

// Before a node has a bridge, the kernel routes packets for its pods back into the TUN. Their senders are
// refused by the TUN of that node, and are never told to send elsewhere.
func podsWithoutABridgeAreRefused(t *testing.T, m *mesh) {
	if err := m.ControlPlane.IP("link set cni0 down"); err != nil {
		t.Fatal(err)
	}
	for to, want := range map[string]string{
		"10.244.0.2":       "From 10.244.0.0 icmp_seq=3 Destination Net Unreachable",
		"fd00:10:244:0::2": "From fd00:10:244:: icmp_seq=3 Destination unreachable: No route",
	} {
		// The kernel sends the first redirect with the second packet.
		out, err := m.PodW2b.Run("ping", "-c", "3", "-i", "0.2", "-W", "5", to)
		if err == nil {
			t.Error("ping succeeded")
		}
		contains(t, out, want)
		if strings.Contains(out, "Redirect") {
			t.Errorf("redirected:\n%s", out)
		}
	}
}

// DSCP goes out with the datagram; ECN goes out and comes back in as RFC 6040
// says.
func TestDSCPAndECN(t *testing.T) { eachEngine(t, nstest.Waiting, testDSCPAndECN) }

func testDSCPAndECN(t *testing.T) {
	for _, underlay := range []string{"172.18.0.%d", "2001:db8::%d"} {
		t.Run(familyOf(underlay), func(t *testing.T) {
			m := newWorldMTU(t, 1452).startAll(dualStack(underlay))
			for _, to := range []string{"10.244.1.2", "fd00:10:244:1::2"} {
				const ef, ect0, ce = 0xb8, 2, 3
				listen(t, m.PodW, netip.AddrPortFrom(netip.MustParseAddr(to), 7000).String()) // no ICMP in between
				client := listen(t, m.PodW2b, ":0")
				setTOS(t, client, ef|ect0)
				eth, far := capture(t, m.Worker2.Namespace, "eth0"), capture(t, m.PodW, "eth0")
				send(t, client, netip.AddrPortFrom(netip.MustParseAddr(to), 7000).String(), []byte("marked"))

				outer := next(t, eth, "the datagram", endsWith("marked"))
				if h := outerHeader(outer); h != ef|ect0 {
					t.Errorf("%s over %s: outer TOS %#x", to, underlay, h)
				}
				if h, _ := packet.Parse(next(t, far, "the packet", endsWith("marked"))[14:]); h.TOS != ef|ect0 {
					t.Errorf("%s over %s: delivered TOS %#x", to, underlay, h.TOS)
				}

				// Now the same datagram again, as a congested router would have
				// marked it. Only the pod's packet counts: the outer header ends here.
				wire := listen(t, m.Worker2.Namespace,
					netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf(underlay, 3)), 0).String())
				setTOS(t, wire, ce)
				unchecked(t, wire)
				inner := outer[bytes.Index(outer, []byte("marked"))-8-headerLen(to):]
				send(t, wire, netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf(underlay, 4)), 8285).String(), inner)
				if h, _ := packet.Parse(next(t, far, "the congested packet", endsWith("marked"))[14:]); h.TOS != ef|ce {
					t.Errorf("%s over %s: congested TOS %#x", to, underlay, h.TOS)
				}
			}
		})
	}
}

// familyOf names the subtest for addresses of an underlay.
func familyOf(underlay string) string {
	if strings.Contains(underlay, ":") {
		return "over IPv6"
	}
	return "over IPv4"
}

func headerLen(to string) int {
	if netip.MustParseAddr(to).Is4() {
		return 20
	}
	return 40
}

func endsWith(text string) func([]byte) bool {
	return func(frame []byte) bool { return bytes.HasSuffix(frame, []byte(text)) }
}

// outerHeader returns the TOS of an Ethernet frame's IP header.
func outerHeader(frame []byte) uint8 {
	if frame[14]>>4 == 4 {
		return frame[15]
	}
	return frame[14]<<4 | frame[15]>>4
}

func setTOS(t testing.TB, conn *net.UDPConn, tos int) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		// A dual-stack socket has both.
		err4 := unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TOS, tos)
		err6 := unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_TCLASS, tos)
		if err4 != nil && err6 != nil {
			t.Error(err4, err6)
		}
	}); err != nil {
		t.Fatal(err)
	}
}

// When the underlay's path shrinks behind our back, pods are told, and their
// next packets fit.
func TestSmallerPath(t *testing.T) { eachEngine(t, nstest.Waiting, testSmallerPath) }

func testSmallerPath(t *testing.T) {
	for _, test := range []struct {
		underlay string
		overhead int
	}{
		{"172.18.0.%d", 28},
		{"2001:db8::%d", 48},
	} {
		t.Run(familyOf(test.underlay), func(t *testing.T) {
			// The MTU is given, or a smaller route would lower it at once.
			m := newWorldMTU(t, 1452).startAll(
				strings.Replace(dualStack(test.underlay), "[network]\n", "[network]\nmtu = 1452\n", 1))
			const path = 1400
			narrow(t, m, test.underlay, path)
			for _, ping := range []struct {
				to     string
				header int
			}{{"10.244.1.2", 28}, {"fd00:10:244:1::2", 48}} {
				fits := path - test.overhead
				out, err := m.PodW2b.Run("ping", "-c", "1", "-W", "2", "-M", "do", "-s", fmt.Sprint(fits-ping.header+1),
					ping.to)
				if err == nil {
					t.Errorf("%s: a packet larger than the path came through", ping.to)
				}
				contains(t, strings.ReplaceAll(out, " ", ""), fmt.Sprintf("mtu=%d", fits))
				run(t, m.PodW2b, "ping", "-c", "1", "-M", "do", "-s", fmt.Sprint(fits-ping.header), ping.to)
			}
			// Whoever does not ask to be told is served all the same: a pod that
			// sends without "don't fragment", from another pod that knows nothing yet.
			run(t, m.PodW2a, "ping", "-c", "1", "-M", "dont", "-s", "1424", "10.244.1.2")
			if p := peer(t, status(t, m.w2), "worker"); p.Drops["too_big"] != 2 {
				t.Errorf("drops %v", p.Drops)
			}
		})
	}
}

// No IPv6 sender goes below 1280 bytes: where the path leaves less, the tunnel
// fragments.
func TestPathBelowIPv6(t *testing.T) { eachEngine(t, nstest.Waiting, testPathBelowIPv6) }

func testPathBelowIPv6(t *testing.T) {
	for _, underlay := range []string{"172.18.0.%d", "2001:db8::%d"} {
		t.Run(familyOf(underlay), func(t *testing.T) {
			m := newWorldMTU(t, 1452).startAll(
				strings.Replace(dualStack(underlay), "[network]\n", "[network]\nmtu = 1452\n", 1))
			narrow(t, m, underlay, 1290)
			out, err := m.PodW2b.Run("ping", "-c", "1", "-W", "2", "-M", "do", "-s", "1300", "fd00:10:244:1::2")
			if err == nil {
				t.Error("a packet larger than the path came through")
			}
			contains(t, strings.ReplaceAll(out, " ", ""), "mtu=1280")
			run(t, m.PodW2b, "ping", "-c", "1", "-M", "do", "-s", "1232", "fd00:10:244:1::2")
			client, server := m.connect(t, "[fd00:10:244:1::2]:80")
			done := make(chan error, 2)
			go func() { done <- sendStream(client, 1, 1<<20) }()
			go func() { done <- checkStream(server, 1, 1<<20) }()
			for range 2 {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// narrow makes the path from worker2 to worker smaller by a route with an MTU of its own, and waits until
// packets keep to it.
func narrow(t *testing.T, m *mesh, underlay string, mtu int) {
	t.Helper()
	to := netip.MustParseAddr(fmt.Sprintf(underlay, 4))
	fits := mtu - 28
	if to.Is6() {
		fits = mtu - 48
	}
	run(t, m.Worker2.Namespace, "ip", "route", "add", netip.PrefixFrom(to, to.BitLen()).String(), "dev", "eth0",
		"mtu", fmt.Sprint(mtu))
	waitStatus(t, m.w2, "the route is seen", func(s control.Status) bool {
		p := peer(t, s, "worker")
		return p.MTU == fits && p.MTUSource == "underlay"
	})
}

// A datagram far larger than this host's own MTU is delivered whole: hosts may
// have underlays of different sizes.
func TestLargerThanOurs(t *testing.T) { eachEngine(t, nstest.Waiting, testLargerThanOurs) }

func testLargerThanOurs(t *testing.T) {
	w := newWorldMTU(t, 9000)
	for _, h := range []*nstest.Host{w.Worker, w.Worker2} {
		if err := h.IP("link set eth0 mtu 9000"); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Lab.SetUnderlayMTU(9000); err != nil {
		t.Fatal(err)
	}
	file := w.write(demoFile(t))
	small := w.write(strings.Replace(demoFile(t), "[network]\n", "[network]\nmtu = 1472\n", 1))
	large, tiny := w.start(w.Worker, file), w.start(w.Worker2, small)
	for _, d := range []*nstest.Daemon{large, tiny} {
		if err := d.WaitReady(); err != nil {
			t.Fatal(err)
		}
	}
	server, client := listen(t, w.PodW2b, "10.244.2.3:7000"), listen(t, w.PodW, "10.244.1.2:0")
	payload := bytes.Repeat([]byte("large"), 1600)
	send(t, client, "10.244.2.3:7000", payload)
	if got, _ := receive(t, server); !bytes.Equal(got, payload) {
		t.Errorf("%d of %d bytes", len(got), len(payload))
	}
}

// TCP carries a stream whole, both ways at once.
func TestTCP(t *testing.T) { eachEngine(t, nstest.Waiting, testTCP) }

func testTCP(t *testing.T) {
	m := newMesh(t)
	client, other := m.connect(t, "10.244.1.2:80")
	const size = 4 << 20
	done := make(chan error, 4)
	for i, pair := range [][2]net.Conn{{client, other}, {other, client}} {
		go func() { done <- sendStream(pair[0], uint64(i), size) }()
		go func() { done <- checkStream(pair[1], uint64(i), size) }()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if t.Failed() {
		t.Logf("worker2 %+v\nworker %+v", status(t, m.w2), status(t, m.w))
	}
}

// A network behind a node is part of the mesh: both sides see each other's own
// addresses, and its outside keeps out of it.
func TestNetworkBehindANode(t *testing.T) { eachEngine(t, nstest.Waiting, testNetworkBehindANode) }

func testNetworkBehindANode(t *testing.T) {
	w := newWorld(t)
	lan := nstest.ForTest(t)
	if err := w.Worker.IP("link add lan0 type veth peer name eth0 netns "+lan.Name,
		"addr add 192.168.7.1/24 dev lan0", "link set lan0 up"); err != nil {
		t.Fatal(err)
	}
	if err := lan.IP("addr add 192.168.7.9/24 dev eth0", "link set eth0 up",
		"route add default via 192.168.7.1"); err != nil {
		t.Fatal(err)
	}
	m := w.startAll(strings.Replace(demoFile(t), "subnets = [\"10.244.1.0/24\"]",
		"subnets = [\"10.244.1.0/24\"]\nroutes  = [\"192.168.7.0/24\"]", 1))
	contains(t, run(t, m.Worker2.Namespace, "ip", "route"), "192.168.7.0/24 dev mesh0 ")
	contains(t, run(t, m.Worker.Namespace, "ip", "route"), "192.168.7.0/24 dev lan0 ")
	out, err := m.w2.Ask("route", "192.168.7.9")
	if err != nil ||
		!strings.HasPrefix(out,
			"192.168.7.9 via worker at 172.18.0.4:8285 (192.168.7.0/24) dev mesh0 src 10.244.2.0 ") {
		t.Errorf("%q, %v", out, err)
	}
	serve(t, lan, "192.168.7.9:80")
	serve(t, m.PodW2b, "10.244.2.3:80")
	outside := m.outside()
	serve(t, outside.Namespace, "172.18.0.77:80")
	if err := outside.IP("route add 192.168.7.0/24 via 172.18.0.4"); err != nil {
		t.Fatal(err)
	}
	seenAs(t, m.PodW2b, "192.168.7.9:80", "10.244.2.3")
	seenAs(t, lan, "10.244.2.3:80", "192.168.7.9")
	seenAs(t, m.PodW, "192.168.7.9:80", "10.244.1.2")
	seenAs(t, m.Worker2.Namespace, "192.168.7.9:80", "10.244.2.0")
	seenAs(t, lan, "172.18.0.77:80", "192.168.7.9")               // its own way out is its own affair
	seenAs(t, outside.Namespace, "192.168.7.9:80", "172.18.0.77") // and so is the way in
}
