package e2e

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane/packet"
)

// The walk through the reference system, observation by observation; the
// NodePort one comes with masquerading.

func TestWalkDevices(t *testing.T) {
	m := newMesh(t)
	contains(t, run(t, m.PodW2b, "ip", "addr", "show", "eth0"), "mtu 1472", "inet 10.244.2.3/24")
	contains(t, run(t, m.PodW2b, "ip", "route"), "default via 10.244.2.1", "10.244.0.0/16 via 10.244.2.1")

	tun := run(t, m.Worker2.Namespace, "ip", "addr", "show", "mesh0")
	contains(t, tun, "<POINTOPOINT,MULTICAST,NOARP,UP,", "mtu 1472", "link/none", "inet 10.244.2.0/32", "qlen 500")
	if strings.Contains(tun, "inet6") || strings.Contains(tun, "link/ether") {
		t.Errorf("more than an IPv4 address:\n%s", tun)
	}
	contains(t, run(t, m.Worker2.Namespace, "ip", "route"), "10.244.0.0/16 dev mesh0 ", "10.244.2.0/24 dev cni0 ")
}

func TestWalkPings(t *testing.T) {
	m := newMesh(t)
	same := run(t, m.PodW2b, "ping", "-c", "2", "-i", "0.2", "10.244.2.2")
	across := run(t, m.PodW2b, "ping", "-c", "2", "-i", "0.2", "10.244.1.2")
	contains(t, same, "ttl=64", " 0% packet loss")
	contains(t, across, "ttl=60", " 0% packet loss")
	contains(t, run(t, m.PodCP, "ping", "-c", "1", "10.244.2.2"), "ttl=60")
	contains(t, run(t, m.PodW2b, "ping", "-c", "1", "-M", "do", "-s", "1444", "10.244.1.2"), " 0% packet loss")

	s := waitStatus(t, m.w2, "worker up", func(s control.Status) bool { return peer(t, s, "worker").State == control.Up })
	if p := peer(t, s, "worker"); p.TxPackets != 3 || p.RxPackets != 3 || p.TxBytes != 2*84+1472 {
		t.Errorf("peer worker: %+v", p)
	}
	if s.Totals.TxPackets != 4 || s.Totals.RxPackets != 4 {
		t.Errorf("totals: %+v", s.Totals)
	}
	for reason, n := range s.Totals.Drops {
		if n != 0 {
			t.Errorf("%d drops of %s", n, reason)
		}
	}
}

// On the same host nothing passes the TUN or the uplink: what is seen there
// first is what was sent last.
func TestWalkSameHostStaysOnItsBridge(t *testing.T) {
	m := newMesh(t)
	tun, eth := captureTUN(t, m.w2), capture(t, m.Worker2.Namespace, "eth0")
	bridged := capture(t, m.PodW2a, "eth0")
	run(t, m.PodW2b, "ping", "-c", "1", "-s", "100", "10.244.2.2")
	run(t, m.PodW2b, "ping", "-c", "1", "-s", "200", "10.244.1.2")

	frame := next(t, bridged, "echo request on the bridge", func(f []byte) bool { return isIPv4(f) && f[14+9] == 1 })
	if mac := macOf(t, m, "eth0"); !bytes.Equal(frame[6:12], mac) {
		t.Errorf("source MAC % x, the pod's is % x", frame[6:12], mac)
	}
	if ip := next(t, tun, "an IPv4 packet on the TUN", isBareIPv4); len(ip) != 228 {
		t.Errorf("first on the TUN: % x", ip)
	}
	if f := next(t, eth, "an ICMP or UDP frame on the uplink", func(f []byte) bool { return isIPv4(f) && (f[14+9] == 1 || f[14+9] == 17) }); len(f) != 14+28+228 {
		t.Errorf("first on the uplink: % x", f)
	}
}

func macOf(t *testing.T, m *mesh, dev string) (mac net.HardwareAddr) {
	t.Helper()
	if err := m.PodW2b.Do(func() error {
		i, err := net.InterfaceByName(dev)
		if err == nil {
			mac = i.HardwareAddr
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return mac
}

// isBareIPv4 accepts IPv4 on an interface without link-layer headers, where the
// kernel's own IPv6 multicast passes too.
func isBareIPv4(b []byte) bool { return len(b) >= 20 && b[0]>>4 == 4 }

func isIPv4(f []byte) bool { return len(f) > 34 && binary.BigEndian.Uint16(f[12:]) == 0x0800 }

// Across hosts the wire carries one datagram 8285 -> 8285 for each packet, with
// the bare inner packet as its payload and nothing else.
func TestWalkWire(t *testing.T) {
	m := newMesh(t)
	tun, eth := captureTUN(t, m.w2), capture(t, m.Worker2.Namespace, "eth0")
	podEth := capture(t, m.PodW2b, "eth0")
	run(t, m.PodW2b, "ping", "-c", "1", "-p", "c0ffee", "10.244.1.2")

	// The bridge sends IGMP of its own.
	left := bytes.Clone(next(t, podEth, "the pod's request", func(f []byte) bool { return isIPv4(f) && f[14+9] == 1 }))[14:]
	inner := bytes.Clone(next(t, tun, "the request on the TUN", isBareIPv4))
	if h, ok := packet.Parse(inner); !ok || h.Src.String() != "10.244.2.3" || h.Dst.String() != "10.244.1.2" || h.TTL != 63 {
		t.Fatalf("on the TUN: %+v % x", h, inner)
	}
	if !bytes.Equal(left[12:], inner[12:]) {
		t.Errorf("the pod sent\n% x, on the TUN is\n% x", left, inner)
	}

	frame := next(t, eth, "the request on the uplink", func(f []byte) bool { return isIPv4(f) && f[14+9] == 17 })
	outer, datagram := frame[14:34], frame[34:]
	if h, ok := packet.Parse(frame[14:]); !ok || h.Src.String() != "172.18.0.3" || h.Dst.String() != "172.18.0.4" || h.TTL != 64 {
		t.Errorf("outer header: %+v", h)
	}
	if outer[9] != 17 || outer[6]&0x40 == 0 {
		t.Errorf("outer header is not UDP with don't fragment: % x", outer)
	}
	if from, to := binary.BigEndian.Uint16(datagram), binary.BigEndian.Uint16(datagram[2:]); from != 8285 || to != 8285 {
		t.Errorf("ports %d -> %d", from, to)
	}
	want := bytes.Clone(inner)
	packet.DecrementTTL(want)
	if !bytes.Equal(datagram[8:], want) {
		t.Errorf("payload\n% x, want\n% x", datagram[8:], want)
	}
}

func TestWalkMSS(t *testing.T) {
	m := newMesh(t)
	tun := captureTUN(t, m.w2)
	m.connect("10.244.1.2:80")
	for _, side := range []struct {
		name  string
		flags byte
	}{{"SYN", 0x02}, {"SYN and ACK", 0x12}} {
		syn := next(t, tun, side.name, func(b []byte) bool { return len(b) > 44 && b[9] == 6 && b[33] == side.flags })
		if syn[40] != 2 || binary.BigEndian.Uint16(syn[42:]) != 1432 {
			t.Errorf("%s without mss 1432: options % x", side.name, syn[40:])
		}
	}
}

func TestWalkHostToPod(t *testing.T) {
	m := newMesh(t)
	server := listen(t, m.PodW, "10.244.1.2:7000")
	client := listen(t, m.Worker2.Namespace, ":0")
	send(t, client, "10.244.1.2:7000", []byte("hello"))
	if payload, from := receive(t, server); string(payload) != "hello" || from.Addr() != netip.MustParseAddr("10.244.2.0") {
		t.Errorf("%q from %s", payload, from)
	}
}

func TestTracerouteShowsEveryHop(t *testing.T) {
	m := newWorldMTU(t, 1472).startAll(dualStack("172.18.0.%d"))
	hops := regexp.MustCompile(`(?m)^ *\d+ +(\S+)`)
	for _, test := range []struct{ to, want string }{
		{"10.244.1.2", "10.244.2.1 10.244.2.0 10.244.1.0 10.244.1.0 10.244.1.2"},
		{"fd00:10:244:1::2", "fd00:10:244:2::1 fd00:10:244:2:: fd00:10:244:1:: fd00:10:244:1:: fd00:10:244:1::2"},
	} {
		for _, kind := range []string{"-I", "-U"} {
			out := run(t, m.PodW2b, "traceroute", kind, "-n", "-q", "1", "-w", "3", "-N", "1", test.to)
			var got []string
			for _, hop := range hops.FindAllStringSubmatch(out, -1) {
				got = append(got, hop[1])
			}
			if strings.Join(got, " ") != test.want {
				t.Errorf("traceroute %s %s: %v, want %s\n%s", kind, test.to, got, test.want, out)
			}
		}
	}
}

func TestUnassignedIsRefusedAtOnce(t *testing.T) {
	m := newWorldMTU(t, 1472).startAll(dualStack("172.18.0.%d"))
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
	if s := status(t, m.w2); s.Totals.Drops["no_route"] != 2 {
		t.Errorf("drops %v", s.Totals.Drops)
	}
}
