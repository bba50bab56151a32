package masq

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"example.org/meshd/internal/dataplane/tun"
	"example.org/meshd/internal/dataplane/virtio"
	"example.org/meshd/internal/nstest"
)

// source reads packets that leave by a TUN until it finds one of UDP, and returns where it comes from.
func source(t *testing.T, q *tun.Queue) netip.AddrPort {
	t.Helper()
	defer time.AfterFunc(20*time.Second, func() { _ = q.Wake() }).Stop()
	for memory, frames := make([]byte, 4*tun.MaxFrame), make([][]byte, 1); ; {
		if _, err := q.Read(memory, frames); err != nil {
			t.Fatal(err)
		}
		b := frames[0][virtio.HeaderSize:]
		const udp = 17
		switch {
		case b[0]>>4 == 4 && b[9] == udp:
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:])), binary.BigEndian.Uint16(b[20:]))
		case b[0]>>4 == 6 && b[6] == udp:
			return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:])), binary.BigEndian.Uint16(b[40:]))
		}
	}
}

// kubeProxy is what kube-proxy has for packets to an open NodePort, here to port 9001: its mark, and
// masquerading of what has it.
const kubeProxy = `
table inet kube-proxy {
	chain prerouting {
		type filter hook prerouting priority dstnat;
		udp dport 9001 meta mark set mark or 0x4000;
	}
	chain postrouting {
		type nat hook postrouting priority srcnat;
		mark & 0x4000 != 0 meta mark set mark xor 0x4000 masquerade fully-random;
	}
}`

// between makes this namespace a host with both of meshd's interfaces and a client outside, and returns the
// client, and what reads packets that leave by an interface.
func between(t *testing.T, n *nstest.Namespace) (client *nstest.Namespace, queues map[string]*tun.Queue) {
	t.Helper()
	queues = map[string]*tun.Queue{}
	for _, link := range both.Links {
		if err := tun.Create(link); err != nil {
			t.Fatal(err)
		}
		q, err := tun.Open(link, true)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { q.Close() })
		queues[link] = q
		if err := n.IP("link set "+link+" up", "addr add 10.244.2.0/32 dev "+link,
			"addr add fd00:10:244:2::/128 nodad dev "+link); err != nil {
			t.Fatal(err)
		}
	}
	client = nstest.ForTest(t)
	if err := errors.Join(
		n.IP("link add lan type veth peer name eth0 netns "+client.Name, "link set lan up",
			"addr add 198.51.100.1/24 dev lan", "addr add 2001:db8::1/64 dev lan nodad"),
		client.IP("link set eth0 up", "addr add 198.51.100.2/24 dev eth0",
			"addr add 2001:db8::2/64 dev eth0 nodad",
			"route add default via 198.51.100.1", "route add default via 2001:db8::1"),
		n.Sysctl("ipv4.ip_forward", "1"), n.Sysctl("ipv6.conf.all.forwarding", "1")); err != nil {
		t.Fatal(err)
	}
	return client, queues
}

// dialUDP opens a socket of a client that closes with the test.
func dialUDP(t *testing.T, client *nstest.Namespace, to string) (conn net.Conn) {
	t.Helper()
	if err := client.Do(func() (err error) { conn, err = net.Dial("udp", to); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// A client from outside gets the TUN's address towards a pod of another node, whichever of meshd's
// interfaces its packets leave by; and keeps its connection when they leave by the other one from now on. So
// does one whose packets kube-proxy would masquerade.
func TestClientKeepsItsAddressBetweenLinks(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		client, queues := between(t, n)
		if _, err := New().Set(both); err != nil {
			t.Fatal(err)
		}
		run(t, n, kubeProxy)
		for _, test := range []struct{ to, route, want string }{
			{"10.244.1.7:9000", "10.244.1.0/24", "10.244.2.0"},
			{"[fd00:10:244:1::7]:9000", "fd00:10:244:1::/64", "fd00:10:244:2::"},
			{"10.244.1.7:9001", "10.244.1.0/24", "10.244.2.0"},
			{"[fd00:10:244:1::7]:9001", "fd00:10:244:1::/64", "fd00:10:244:2::"},
		} {
			conn := dialUDP(t, client, test.to)
			var first netip.AddrPort
			for i, link := range []string{"mesh0", "meshd-wg", "mesh0"} {
				if err := n.IP("route replace " + test.route + " dev " + link); err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				from := source(t, queues[link])
				if i == 0 {
					first = from
				}
				if from != first || from.Addr().String() != test.want {
					t.Errorf("to %s by %s from %s, and the first from %s", test.to, link, from, first)
				}
			}
		}
	})
}

// Without meshd's rules kube-proxy masquerades, and the kernel ends the connection once its packets leave by
// the other interface: docs/encryption.md says so.
func TestMasqueradedConnectionEndsBetweenLinks(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		client, queues := between(t, n)
		run(t, n, kubeProxy)
		conn := dialUDP(t, client, "10.244.1.7:9001")
		var from [2]netip.AddrPort
		for i, link := range []string{"mesh0", "meshd-wg"} {
			if err := n.IP("route replace 10.244.1.0/24 dev " + link); err != nil {
				t.Fatal(err)
			}
			for range 1 + i { // the kernel drops the first packet by the other interface
				if _, err := conn.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
			}
			from[i] = source(t, queues[link])
		}
		if from[0].Addr() != from[1].Addr() || from[0] == from[1] {
			t.Errorf("from %s, then from %s", from[0], from[1])
		}
	})
}
