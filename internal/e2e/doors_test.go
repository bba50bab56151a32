package e2e

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/nstest"
)

// udpPacket6 returns a whole IPv6 UDP packet, with a checksum.
func udpPacket6(src, dst string, port uint16, hops uint8, payload string) []byte {
	b := make([]byte, 48, 48+len(payload))
	b = append(b, payload...)
	b[0], b[6], b[7] = 0x60, 17, hops
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	copy(b[8:], netip.MustParseAddr(src).AsSlice())
	copy(b[24:], netip.MustParseAddr(dst).AsSlice())
	binary.BigEndian.PutUint16(b[40:], 7777)
	binary.BigEndian.PutUint16(b[42:], port)
	binary.BigEndian.PutUint16(b[44:], uint16(len(b)-40))
	sum := packet.Sum(b[40:], packet.PseudoSum(b[8:40], 17, len(b)-40))
	binary.BigEndian.PutUint16(b[46:], ^packet.Fold(sum))
	return b
}

// sendRaw sends a whole IP packet from a namespace, as who has CAP_NET_RAW may.
func sendRaw(t *testing.T, n *nstest.Namespace, b []byte) {
	t.Helper()
	if err := n.Do(func() error {
		domain := unix.AF_INET
		var to unix.Sockaddr
		if b[0]>>4 == 4 {
			to = &unix.SockaddrInet4{Addr: [4]byte(b[16:20])}
		} else {
			domain, to = unix.AF_INET6, &unix.SockaddrInet6{Addr: [16]byte(b[24:40])}
		}
		fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, b, 0, to)
	}); err != nil {
		t.Fatal(err)
	}
}

// Nobody but meshd speaks on the mesh port: not a pod that its host masquerades, nor a user of a
// host, to a peer or to the host itself; nor a pod that wears another node's address. What they
// send would be a packet of any pod of that host, or of the host itself.
func TestMeshPortIsForMeshd(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	for _, underlay := range []string{"172.18.0.%d", "2001:db8::%d"} {
		v6 := strings.Contains(underlay, ":")
		t.Run(map[bool]string{false: "v4", true: "v6"}[v6], func(t *testing.T) {
			m := newWorld(t).startAll(dualStack(underlay))
			address := func(node int) string { return fmt.Sprintf(underlay, node) }
			port := func(node int) string {
				return netip.AddrPortFrom(netip.MustParseAddr(address(node)), 8285).String()
			}
			victims := []*net.UDPConn{
				listen(t, m.PodW2b, "10.244.2.3:7000"),
				listen(t, m.PodW2b, "[fd00:10:244:2::3]:7000"),
			}
			inner := [][]byte{
				udpPacket("10.244.1.9", "10.244.2.3", 7000, 62,
					"lie"), udpPacket("10.244.1.0", "10.244.2.3", 7000, 62, "lie"),
				udpPacket6("fd00:10:244:1::9", "fd00:10:244:2::3", 7000, 62, "lie"),
			}
			outer := func(from, to int, payload string) []byte {
				if v6 {
					return udpPacket6(address(from), address(to), 8285, 64, payload)
				}
				return udpPacket(address(from), address(to), 8285, 64, payload)
			}
			refused := func(d *nstest.Daemon) uint64 { return status(t, d).Totals.Drops["not_from_meshd"] }
			tests := []struct {
				name string
				by   *nstest.Daemon // whose guard has to stop it
				send func(payload []byte)
			}{
				{"a pod, masqueraded", m.w, func(b []byte) { write(t, m.PodW, port(3), b) }},
				{"a user of a host", m.w, func(b []byte) { write(t, m.Worker.Namespace, port(3), b) }},
				{"a pod to its own host", m.w2, func(b []byte) { write(t, m.PodW2a, port(3), b) }},
				{"a user of the host itself", m.w2, func(b []byte) { write(t, m.Worker2.Namespace, port(3), b) }},
				{
					"a pod as another node, to its own host",
					m.w2,
					func(b []byte) { sendRaw(t, m.PodW2a, outer(4, 3, string(b))) },
				},
				{"a pod as a node, to another host", m.w, func(b []byte) { sendRaw(t, m.PodW, outer(2, 3, string(b))) }},
			}
			for _, test := range tests {
				t.Run(test.name, func(t *testing.T) {
					for _, b := range inner {
						before := refused(test.by)
						test.send(b)
						waitStatus(t, test.by, "the packet is counted", func(s control.Status) bool {
							return s.Totals.Drops["not_from_meshd"] == before+1
						})
					}
				})
			}
			// What pods may send is the first that arrives.
			write(t, m.PodW, "10.244.2.3:7000", []byte("good"))
			write(t, m.PodW, "[fd00:10:244:2::3]:7000", []byte("good"))
			for _, victim := range victims {
				if payload, from := receive(t, victim); string(payload) != "good" {
					t.Errorf("delivered %q from %s", payload, from)
				}
			}
			for _, d := range []*nstest.Daemon{m.cp, m.w, m.w2} {
				s := waitStatus(t, d, "all peers are up", func(s control.Status) bool {
					return !slices.ContainsFunc(s.Peers, func(p control.Peer) bool { return p.State != control.Up })
				})
				for _, p := range s.Peers {
					if len(p.Drops) > 0 {
						t.Errorf("%s: %+v", p.Name, p)
					}
				}
			}
		})
	}
}

// write sends one datagram from any socket; the host may refuse it at once, or on its way.
func write(t *testing.T, n *nstest.Namespace, to string, payload []byte) {
	t.Helper()
	if err := n.Do(func() error {
		conn, err := net.Dial("udp", to)
		if err != nil {
			return err
		}
		defer conn.Close()
		_, _ = conn.Write(payload)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// A host whose FORWARD policy is drop lets the mesh's own packets pass, what its pods send, and what
// is published; whoever else can route to it meets the policy, also for pods of other hosts, and an
// operator's own rule stays in front. "all" opens it.
func TestForwardIsNotForStrangers(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	run(t, w.Worker.Namespace, "nft",
		"add table ip own { chain f { type filter hook forward priority 0; policy drop; }; }")
	run(t, w.Worker.Namespace, "nft",
		"add table ip nat { chain p { type nat hook prerouting priority -100; "+
			"tcp dport 8080 dnat to 10.244.1.2:80; tcp dport 8081 dnat to 10.244.2.3:80; }; }")
	m := w.startAll(demoFile(t))
	stranger := m.outside()
	if err := stranger.IP("route add 10.244.0.0/16 via 172.18.0.4", "link add docker0 type bridge"); err != nil {
		t.Fatal(err)
	}
	// Another network of the host, as Docker makes one.
	container := nstest.ForTest(t)
	if err := m.Worker.IP("link add other0 type veth peer name eth0 netns "+container.Name, "link set other0 up",
		"addr add 172.17.0.1/16 dev other0"); err != nil {
		t.Fatal(err)
	}
	if err := container.IP("link set eth0 up", "addr add 172.17.0.2/16 dev eth0",
		"route add default via 172.17.0.1"); err != nil {
		t.Fatal(err)
	}
	serve(t, m.PodW, "10.244.1.2:80")
	serve(t, m.PodW2b, "10.244.2.3:80")
	serve(t, stranger.Namespace, "172.18.0.77:80")
	outsiders := []*nstest.Namespace{stranger.Namespace, container}
	closed := func() {
		t.Helper()
		for _, n := range outsiders {
			for _, to := range []string{"10.244.1.2:80", "10.244.2.3:80"} {
				if out, err := n.Run("curl", "-s", "-m", "1", "http://"+to); err == nil {
					t.Errorf("%s reaches %s: %q", n.Name, to, out)
				}
			}
		}
	}
	closed()
	seenAs(t, m.PodW, "10.244.2.3:80", "10.244.1.2")
	seenAs(t, m.PodW2b, "10.244.1.2:80", "10.244.2.3")
	seenAs(t, m.PodW, "172.18.0.77:80", "172.18.0.4")
	seenAs(t, stranger.Namespace, "172.18.0.4:8080", "172.18.0.77") // published
	seenAs(t, stranger.Namespace, "172.18.0.4:8081", "10.244.1.0")  // published, behind another node

	save(t, m.w, demoFile(t)+"[masquerade]\nforward = \"all\"\n")
	seenAs(t, stranger.Namespace, "10.244.1.2:80", "172.18.0.77")
	run(t, m.Worker.Namespace, "nft", "insert rule ip own f ip saddr { 172.18.0.77, 172.17.0.2 } drop")
	closed()
	before := run(t, m.Worker.Namespace, "nft", "-s", "list", "chain", "ip", "own", "f")
	run(t, m.Worker.Namespace, "nft", "flush table ip meshd") // a repair looks at all rules
	waitStatus(t, m.w, "a repair", func(s control.Status) bool { return s.Masquerade.Repairs > 0 })
	if after := run(t, m.Worker.Namespace, "nft", "-s", "list", "chain", "ip", "own", "f"); after != before {
		t.Errorf("the operator's chain was\n%s\nand is\n%s", before, after)
	}
	closed()
}
