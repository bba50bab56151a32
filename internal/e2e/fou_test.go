//go:build modules

// For kernels that have FOU and tunnels as modules: `make test-kernels` boots some.

package e2e

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/udp"
	"example.org/meshd/internal/nstest"
)

func init() {
	if exec.Command("modprobe", "-a", "fou").Run() == nil {
		ways = append(ways, "fou")
	}
}

// withFOU loads the module that the kernel does not load by itself.
func withFOU(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("modprobe", "-a", "fou").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// receives waits until a daemon receives in some way, and returns why.
func receives(t *testing.T, d *nstest.Daemon, way string) (reason string) {
	t.Helper()
	return waitStatus(t, d, "receives by "+way, func(s control.Status) bool {
		return s.Dataplane.Engine == "kernel" && s.Dataplane.Receive == way
	}).Dataplane.Reason
}

// TCP reaches pods behind a bridge as superpackets, in order, from a host with the kernel engine and from one
// with the user engine, over IPv4 and IPv6; everything that user space is for reaches it.
func TestFOU(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	withFOU(t)
	w := newWorld(t)
	if err := w.Lab.LikeAWire(w.Hosts()...); err != nil {
		t.Fatal(err)
	}
	// A host that lets nothing in but answers from port to port.
	run(t, w.Worker2.Namespace, "nft", "table inet t { chain in { type filter hook input priority 0; "+
		"udp dport 8285 ct state new drop; }; }")
	file := engineFile(t, "kernel", "fou")
	w1, w2 := w.own(w.Worker, file), w.own(w.Worker2, engineFile(t, "kernel", "auto"))
	u := w.own(w.ControlPlane, engineFile(t, "user", "auto"))
	for _, d := range []*nstest.Daemon{w1, w2} {
		if reason := receives(t, d, "fou"); reason != "" {
			t.Errorf("%s", reason)
		}
	}
	known(t, w1, "worker2")
	known(t, w2, "worker")
	known(t, w1, "control-plane")
	known(t, u, "worker")
	contains(t, run(t, w.Worker.Namespace, "ip", "fou", "show"), "port 8285", "gue")

	for _, way := range []struct {
		name string
		from *nstest.Namespace
	}{{"kernel engine", w.PodW2b}, {"user engine", w.PodCP}} {
		n, disordered := perPacket(t, way.from, w.PodW, "10.244.1.2:9000")
		t.Logf("%s: %d bytes a packet, %d out of order", way.name, n, disordered)
		if n < merged || disordered != 0 {
			t.Errorf("%s: %d bytes a packet, %d out of order", way.name, n, disordered)
		}
	}
	// Probes, ICMP to the TUN, errors of a TTL, large packets in pieces, and TCP to the host itself.
	for _, name := range []string{"worker2", "control-plane"} {
		waitPeer(t, w1, name, "up", isIn(control.Up))
	}
	waitPeer(t, w2, "worker", "up", isIn(control.Up))
	receives(t, w2, "fou")
	contains(t, run(t, w.PodW2b, "ping", "-c", "2", "-i", "0.2", "10.244.1.0"), " 0% packet loss")
	contains(t, run(t, w.PodCP, "ping", "-c", "2", "-i", "0.2", "-s", "4000", "10.244.1.2"), " 0% packet loss")
	if out, err := w.PodW2b.Run("ping", "-c", "1", "-W", "5", "-t", "2", "10.244.1.2"); err == nil ||
		!strings.Contains(out, "exceeded") {
		t.Errorf("%v\n%s", err, out)
	}
	transfer(t, w.PodW2b, w.Worker.Namespace, "10.244.1.0:9001", 4<<20)
	drops := status(t, w1).Totals.Drops
	for reason, n := range drops {
		if n != 0 && reason != "ttl_expired" {
			t.Errorf("%d drops of %s", n, reason)
		}
	}

	// The way goes on without a daemon, and ends with its clean-up.
	w1.Kill()
	if n, disordered := perPacket(t, w.PodW2b, w.PodW, "10.244.1.2:9000"); n < merged || disordered != 0 {
		t.Errorf("without a daemon: %d bytes a packet, %d out of order", n, disordered)
	}
	w1 = w.again(w1)
	if reason := receives(t, w1, "fou"); reason != "" {
		t.Errorf("%s", reason)
	}
	waitPeer(t, w1, "worker2", "up", isIn(control.Up))
	if _, err := w1.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := w1.Ask("cleanup"); err != nil {
		t.Error(err)
	}
	left := run(t, w.Worker.Namespace, "ip", "fou", "show") + run(t, w.Worker.Namespace, "ip", "link")
	if strings.Contains(left, "8285") || strings.Contains(left, "meshd-") {
		t.Errorf("clean-up leaves\n%s", left)
	}
}

// Superpackets of IPv4 and of IPv6 reach pods whole over each family, by the way that "auto" chooses: what
// the kernel has for each is another device.
func TestFOUFamilies(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	withFOU(t)
	for _, underlay := range []struct {
		name, address string
		mtu           int
	}{{"over IPv4", "172.18.0.%d", 1472}, {"over IPv6", "2001:db8::%d", 1452}} {
		t.Run(underlay.name, func(t *testing.T) {
			w := newWorldMTU(t, underlay.mtu)
			m := w.startAll("[probe]\ninterval = \"200ms\"\n" + dualStack(underlay.address))
			if reason := receives(t, m.w, "fou"); reason != "" {
				t.Error(reason)
			}
			receives(t, m.w2, "fou")
			known(t, m.w, "worker2")
			known(t, m.w2, "worker")
			for _, way := range []string{"whole", "in segments"} { // as hosts on one machine send, and as on a wire
				for _, address := range []string{"10.244.1.2:9000", "[fd00:10:244:1::2]:9000"} {
					n, disordered := perPacket(t, w.PodW2b, w.PodW, address)
					if n < merged || disordered != 0 {
						t.Errorf("%s, sent %s: %d bytes a packet, %d out of order", address, way, n, disordered)
					}
				}
				if err := w.Lab.LikeAWire(w.Hosts()...); err != nil {
					t.Fatal(err)
				}
			}
			bothFamiliesPass(t, m, underlay.mtu)
			tracerouteShowsEveryHop(t, m)
			receives(t, m.w, "fou")
		})
	}
}

// marked has datagrams of a socket pass the guard of a host as meshd's do.
func marked(t *testing.T, conn *net.UDPConn) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(udp.Mark))
	})
	if err != nil || set != nil {
		t.Fatal(err, set)
	}
}

// inIP returns an IPv4 packet that carries another packet.
func inIP(from, to string, protocol byte, inner []byte) []byte {
	b := make([]byte, 20, 20+len(inner))
	b[0], b[8], b[9] = 0x45, 64, protocol
	copy(b[12:], netip.MustParseAddr(from).AsSlice())
	copy(b[16:], netip.MustParseAddr(to).AsSlice())
	b = append(b, inner...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	binary.BigEndian.PutUint16(b[10:], packet.Checksum(b[:20], 0))
	return b
}

// inUDP returns an IPv4 packet with a datagram without a checksum, of a port.
func inUDP(from, to string, port uint16, inner []byte) []byte {
	udp := binary.BigEndian.AppendUint16(nil, 8285)
	udp = binary.BigEndian.AppendUint16(udp, port)
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(inner)))
	return inIP(from, to, unix.IPPROTO_UDP, append(append(udp, 0, 0), inner...))
}

// Nothing gets in past the programs: not bare packets in IP, from the address of a node; not datagrams by the
// loopback interface or of a pod; nor any to the sockets' own port. Fragments of a node do get in.
func TestFOUTakesNoForged(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	withFOU(t)
	w := newWorld(t)
	unfiltered(t, w.Worker)
	for _, device := range []string{"all", "default", "eth0"} {
		run(t, w.Worker.Namespace, "sysctl", "-qw", "net.ipv4.conf."+device+".rp_filter=0")
	}
	m := w.startAll(engineFile(t, "kernel", "fou"))
	receives(t, m.w, "fou")
	known(t, m.w, "worker2")
	waitPeer(t, m.w, "worker2", "up", isIn(control.Up))
	victim := listen(t, w.PodW, "10.244.1.2:7000")
	const node, own = "172.18.0.3", "172.18.0.4" // worker2, and worker
	lie := func(word string) []byte { return udpPacket("10.244.2.3", "10.244.1.2", 7000, 60, word) }
	sockets := socketsPort(t, w.Worker.Namespace)

	sendRaw(t, w.Worker2.Namespace, inIP(node, own, unix.IPPROTO_IPIP, lie("proto 4")))
	lie6 := udpPacket6("fd00::1", "fd00::2", 7000, 60, "proto 41")
	sendRaw(t, w.Worker2.Namespace, inIP(node, own, unix.IPPROTO_IPV6, lie6))
	sendRaw(t, w.Worker2.Namespace, inUDP(node, own, sockets, lie("the sockets' port")))
	guarded(t, w.Worker.Namespace, inUDP(node, own, 8285, lie("lo")))
	sendRaw(t, w.Worker.Namespace, inUDP(node, own, sockets, lie("lo, the sockets' port")))
	sendRaw(t, w.PodW, inUDP(node, own, 8285, lie("a pod")))
	sendRaw(t, w.PodW, inUDP(node, own, sockets, lie("a pod, the sockets' port")))
	sendRaw(t, w.PodW, inIP(node, own, unix.IPPROTO_IPIP, lie("a pod, proto 4")))

	// A datagram of the node itself gets in, whole and in fragments, with a checksum and without.
	honest := listen(t, w.Worker2.Namespace, node+":0")
	for _, size := range []int{20, 3000} {
		for _, bare := range []bool{false, true} {
			if bare {
				unchecked(t, honest)
			} else {
				marked(t, honest)
			}
			word := fmt.Sprintf("honest %d %v %s", size, bare, strings.Repeat("x", size))
			send(t, honest, own+":8285", lie(word))
			if payload, _ := receive(t, victim); string(payload) != word {
				t.Errorf("%.40q instead of %.40q", payload, word)
			}
		}
	}
	if r := receives(t, m.w, "fou"); r != "" { // strays of which a node is the source may end it, later
		t.Error(r)
	}
}

// guarded sends a packet to a node's port as root may, with meshd's mark: the host's guard drops all others.
func guarded(t *testing.T, n *nstest.Namespace, b []byte) {
	t.Helper()
	if err := n.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(udp.Mark)); err != nil {
			return err
		}
		return unix.Sendto(fd, b, 0, &unix.SockaddrInet4{Addr: [4]byte(b[16:20])})
	}); err != nil {
		t.Fatal(err)
	}
}

// socketsPort returns the port of meshd's sockets.
func socketsPort(t *testing.T, n *nstest.Namespace) (port uint16) {
	t.Helper()
	_, after, found := strings.Cut(run(t, n, "ip", "link", "show", "meshd-in"), "sockets at port ")
	if _, err := fmt.Sscan(after, &port); err != nil || !found {
		t.Fatal(err, after)
	}
	return port
}

// Packets of 2,000 a second each way go on whatever changes on all hosts: the way of receiving, the engine,
// and on one of them the daemon.
func TestFOULosesNothing(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	withFOU(t)
	w := newWorld(t).fast()
	m := w.startAll(engineFile(t, "kernel", "fou"))
	ready := func() {
		t.Helper()
		receives(t, m.w2, "fou")
		known(t, m.w2, "worker")
		known(t, m.w, "worker2")
	}
	while := func(change string, do func()) {
		t.Helper()
		traffic := w.newTrafficOf(2000, true)
		do()
		run(t, w.PodW2b, "ping", "-c", "3", "-i", "0.2", "10.244.1.2")
		if lost := traffic.finish(); lost != ([2]uint64{}) {
			t.Errorf("%s: lost %v\n%+v", change, lost, status(t, m.w).Totals.Drops)
		}
	}
	use := func(engine, receive string) {
		t.Helper()
		save(t, m.w2, engineFile(t, engine, receive))
		if r, err := client(t, m.w2).Reload(t.Context()); err != nil || !r.Reload.OK {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	for _, way := range []struct{ engine, receive string }{
		{"kernel", "tcx"}, {"kernel", "socket"}, {"user", "auto"},
	} {
		ready()
		while("to "+way.engine+"/"+way.receive+" and back", func() {
			use(way.engine, way.receive)
			waitStatus(t, m.w2, way.engine, func(s control.Status) bool { return s.Dataplane.Engine == way.engine })
			run(t, w.PodW2b, "ping", "-c", "3", "-i", "0.2", "10.244.1.2")
			use("kernel", "fou")
			receives(t, m.w2, "fou")
		})
	}
	ready()
	while("kill -9", func() { m.w2.Kill() })
	while("a start after it", func() { m.w2 = w.again(m.w2) })
	ready()
	while("an end", func() {
		if _, err := m.w2.Stop(); err != nil {
			t.Error(err)
		}
	})
	while("a start", func() { m.w2 = w.again(m.w2) })
}

// Where a rule of the host drops what is left to the kernel, or another interface takes packets in IP, or
// another program has the port, programs go on by tcx, and status says why.
func TestFOUFallsBack(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	withFOU(t)
	w := newWorld(t)
	if err := w.Lab.LikeAWire(w.Hosts()...); err != nil {
		t.Fatal(err)
	}
	m := w.startAll(engineFile(t, "kernel", "fou"))
	receives(t, m.w, "fou")
	known(t, m.w2, "worker")
	if err := w.Worker.IP("link set tunl0 up"); err != nil {
		t.Fatal(err)
	}
	contains(t, receives(t, m.w, "tcx"), "tunl0")
	transfer(t, w.PodW2b, w.PodW, "10.244.1.2:9000", 4<<20)

	// A rule that lets nothing in but answers: probes do not pass by any way, TCP of pods does again.
	receives(t, m.w2, "fou")
	run(t, w.Worker2.Namespace, "nft", "table inet t { chain in { type filter hook input priority 0; "+
		"udp dport 8285 ip length > 200 drop; }; }")
	transfer(t, w.PodW, w.PodW2b, "10.244.2.3:9000", 4<<20)
	contains(t, receives(t, m.w2, "tcx"), "rule")
	run(t, w.Worker2.Namespace, "nft", "delete table inet t")
}

// Where the kernel takes superpackets of UDP out of datagrams, and programs take single ones out, a flow of
// both keeps its order.
func TestFOUKeepsOrderOfUDP(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	withFOU(t)
	superpackets(t, engineFile(t, "kernel", "fou"), func(m *mesh) {
		for _, d := range []*nstest.Daemon{m.w, m.w2} {
			receives(t, d, "fou")
		}
	})
}
