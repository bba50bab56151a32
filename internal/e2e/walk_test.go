package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/nstest"
)

// The walk through the reference system, observation by observation, as docs/walkthrough.md
// has it: once with pods that the lab made, once with pods that CNI plugins attached.

var walk = []struct {
	name, what string
	observe    func(t *testing.T, m *mesh) (seen string)
}{
	{"pod", "pod: mtu, address, routes", walkPod},
	{"host", "host: TUN and routes", walkHost},
	{"pings", "pings: TTL, sizes, counters", walkPings},
	{"same host", "same host: by the bridge alone", walkSameHost},
	{"across", "across hosts: one datagram each", walkAcross},
	{"mss", "TCP: mss", walkMSS},
	{"node port", "NodePort on the pod's own host", walkNodePort},
	{"host to pod", "host to a remote pod", walkHostToPod},
}

// walkThrough makes all observations in one mesh, each as a subtest, and logs what was seen.
func walkThrough(t *testing.T, m *mesh) {
	t.Helper()
	var table strings.Builder
	for _, o := range walk {
		t.Run(o.name, func(t *testing.T) {
			seen, result := o.observe(t, m), "as the reference"
			if t.Failed() {
				result = "DIFFERENT"
			}
			fmt.Fprintf(&table, "\n%-32s %-17s %s", o.what, result, seen)
		})
	}
	t.Log(table.String())
}

func TestWalk(t *testing.T) {
	eachEngine(t, nstest.Waiting, func(t *testing.T) { walkThrough(t, newMesh(t)) })
}

func TestWalkWithCNI(t *testing.T) {
	eachEngine(t, nstest.Waiting, func(t *testing.T) { walkThrough(t, newCNIMesh(t, demoFile(t)).mesh) })
}

func walkPod(t *testing.T, m *mesh) string {
	address, routes := run(t, m.PodW2b, "ip", "addr", "show", "eth0"), run(t, m.PodW2b, "ip", "route")
	contains(t, address, "mtu 1472", "inet 10.244.2.3/24")
	contains(t, routes, "default via 10.244.2.1 dev eth0", "10.244.0.0/16 via 10.244.2.1 dev eth0")
	contains(t, run(t, m.Worker2.Namespace, "ip", "addr", "show", "cni0"), "mtu 1472", "inet 10.244.2.1/24")
	return "mtu 1472, 10.244.2.3/24, default and 10.244.0.0/16 via 10.244.2.1"
}

func walkHost(t *testing.T, m *mesh) string {
	tun, routes := run(t, m.Worker2.Namespace, "ip", "addr", "show", "mesh0"), run(t, m.Worker2.Namespace, "ip",
		"route")
	contains(t, tun, "<POINTOPOINT,MULTICAST,NOARP,UP,", "mtu 1472", "link/none", "inet 10.244.2.0/32",
		"qlen 500")
	if strings.Contains(tun, "inet6") || strings.Contains(tun, "link/ether") {
		t.Errorf("more than an IPv4 address:\n%s", tun)
	}
	contains(t, routes, "10.244.0.0/16 dev mesh0 ", "10.244.2.0/24 dev cni0 ")
	return "mtu 1472, qlen 500, 10.244.2.0/32, 10.244.0.0/16 dev mesh0, 10.244.2.0/24 dev cni0"
}

func walkPings(t *testing.T, m *mesh) string {
	before := status(t, m.w2)
	same := run(t, m.PodW2b, "ping", "-c", "2", "-i", "0.2", "10.244.2.2")
	across := run(t, m.PodW2b, "ping", "-c", "2", "-i", "0.2", "10.244.1.2")
	contains(t, same, "ttl=64", " 0% packet loss")
	contains(t, across, "ttl=60", " 0% packet loss")
	contains(t, run(t, m.PodCP, "ping", "-c", "1", "10.244.2.2"), "ttl=60")
	contains(t, run(t, m.PodW2b, "ping", "-c", "1", "-M", "do", "-s", "1444", "10.244.1.2"), " 0% packet loss")

	s := waitStatus(t, m.w2, "worker up",
		func(s control.Status) bool { return peer(t, s, "worker").State == control.Up })
	p, q := peer(t, s, "worker"), peer(t, before, "worker")
	probes := forwardedTo(t, m.w, "worker2") // they count as received
	if got := *p.RxPackets - *q.RxPackets; *p.TxPackets-*q.TxPackets != 3 || got < 3 || got > 3+probes ||
		*p.TxBytes-*q.TxBytes != 2*84+1472 {
		t.Errorf("peer worker: %+v, before %+v", p, q)
	}
	probes += forwardedTo(t, m.cp, "worker2")
	got := *s.Totals.RxPackets - *before.Totals.RxPackets
	if *s.Totals.TxPackets-*before.Totals.TxPackets != 4 ||
		got < 4 || got > 4+probes {
		t.Errorf("totals: %+v, before %+v", s.Totals, before.Totals)
	}
	for reason, n := range s.Totals.Drops {
		if n != before.Totals.Drops[reason] {
			t.Errorf("%d drops of %s", n-before.Totals.Drops[reason], reason)
		}
	}
	return "ttl=64 and ttl=60, 1472 bytes fit, each packet counted once"
}

// On the same host nothing passes the TUN or the uplink: what is seen there
// first is what was sent last.
func walkSameHost(t *testing.T, m *mesh) string {
	tun, uplink, bridged := captureTUN(t, m.w2), capture(t, m.Worker2.Namespace,
		"eth0"), capture(t, m.PodW2a, "eth0")
	contains(t, run(t, m.PodW2b, "ping", "-c", "1", "-s", "100", "10.244.2.2"), "ttl=64")
	run(t, m.PodW2b, "ping", "-c", "1", "-s", "200", "10.244.1.2")
	frame := next(t, bridged, "echo request on the bridge",
		func(f []byte) bool { return isIPv4(f) && f[14+9] == 1 })
	if mac := macOf(t, m, "eth0"); string(frame[6:12]) != string(mac) {
		t.Errorf("source MAC % x, the pod's is % x", frame[6:12], mac)
	}
	if ip := next(t, tun, "an IPv4 packet on the TUN", isBareIPv4); len(ip) != 228 {
		t.Errorf("first on the TUN: % x", ip)
	}
	isPacket := func(f []byte) bool { return isIPv4(f) && (f[14+9] == 1 || f[14+9] == 17) }
	if f := next(t, uplink, "an ICMP or UDP frame on the uplink", isPacket); len(f) != 14+28+228 {
		t.Errorf("first on the uplink: % x", f)
	}
	return "ttl=64, MAC addresses unchanged, nothing on mesh0 or eth0"
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
func walkAcross(t *testing.T, m *mesh) string {
	podEth, bridge := capture(t, m.PodW2b, "eth0"), capture(t, m.Worker2.Namespace, "cni0")
	tun, uplink, arrived := captureTUN(t, m.w2), capture(t, m.Worker2.Namespace,
		"eth0"), capture(t, m.PodW, "eth0")
	contains(t, run(t, m.PodW2b, "ping", "-c", "1", "-p", "c0ffee", "10.244.1.2"), "ttl=60")
	isEcho := func(f []byte) bool {
		return isIPv4(f) && f[14+9] == 1 &&
			f[14+20] == 8
	} // the bridge sends IGMP of its own
	left, bridged, got := next(t, podEth, "the request", isEcho), next(t, bridge, "the request",
		isEcho), next(t, arrived, "the request", isEcho)
	if string(left[:6]) != string(bridged[:6]) || string(left[6:12]) == string(got[6:12]) {
		t.Errorf("MAC addresses % x, % x, % x", left[:12], bridged[:12], got[:12])
	}
	inner := bytes.Clone(next(t, tun, "the request on the TUN", isBareIPv4))
	if h, ok := packet.Parse(inner); !ok || h.Src.String() != "10.244.2.3" || h.Dst.String() != "10.244.1.2" ||
		h.TTL != 63 {
		t.Fatalf("on the TUN: %+v % x", h, inner)
	}
	if !bytes.Equal(left[14+12:], inner[12:]) || !bytes.Equal(left[14+12:], got[14+12:]) {
		t.Errorf("the pod sent\n% x, on the TUN is\n% x, arrived has\n% x", left[14:], inner, got[14:])
	}

	frame := next(t, uplink, "the request on the uplink",
		func(f []byte) bool { return isIPv4(f) && f[14+9] == 17 })
	outer, datagram := frame[14:34], frame[34:]
	if h, ok := packet.Parse(frame[14:]); !ok || h.Src.String() != "172.18.0.3" ||
		h.Dst.String() != "172.18.0.4" ||
		h.TTL != 64 {
		t.Errorf("outer header: %+v", h)
	}
	if outer[9] != 17 || outer[6]&0x40 == 0 {
		t.Errorf("outer header is not UDP with don't fragment: % x", outer)
	}
	if from, to := binary.BigEndian.Uint16(datagram), binary.BigEndian.Uint16(datagram[2:]); from != 8285 ||
		to != 8285 {
		t.Errorf("ports %d -> %d", from, to)
	}
	want := bytes.Clone(inner)
	packet.DecrementTTL(want)
	if !bytes.Equal(datagram[8:], want) {
		t.Errorf("payload\n% x, want\n% x", datagram[8:], want)
	}
	return "ttl=60, bare IP on mesh0, 172.18.0.3:8285 -> 172.18.0.4:8285, inner packet unchanged but for its TTL"
}

func walkMSS(t *testing.T, m *mesh) string {
	tun := captureTUN(t, m.w2)
	m.connect(t, "10.244.1.2:8080")
	for _, side := range []struct {
		name  string
		flags byte
	}{{"SYN", 0x02}, {"SYN and ACK", 0x12}} {
		syn := next(t, tun, side.name,
			func(b []byte) bool { return len(b) > 44 && b[9] == 6 && b[33] == side.flags })
		if syn[40] != 2 || binary.BigEndian.Uint16(syn[42:]) != 1432 {
			t.Errorf("%s without mss 1432: options % x", side.name, syn[40:])
		}
	}
	return "mss 1432 in SYN and in SYN, ACK"
}

func walkNodePort(t *testing.T, m *mesh) string {
	serve(t, m.PodW, "10.244.1.2:80")
	kubeProxy(t, m.Worker2, "32000", "10.244.1.2:80", true)
	seenAs(t, m.PodW2b, "172.18.0.3:32000", "10.244.2.0")
	flows := run(t, m.Worker2.Namespace, "conntrack", "-L", "-p", "tcp", "--dport", "32000")
	line := regexp.MustCompile(
		`src=10\.244\.2\.3 dst=172\.18\.0\.3 sport=\d+ dport=32000 src=10\.244\.1\.2 dst=10\.244\.2\.0 sport=80 `)
	found := line.FindString(flows)
	if found == "" {
		t.Errorf("conntrack:\n%s", flows)
	}
	return strings.TrimSpace(found)
}

func walkHostToPod(t *testing.T, m *mesh) string {
	server := listen(t, m.PodW, "10.244.1.2:7000")
	client := listen(t, m.Worker2.Namespace, ":0")
	send(t, client, "10.244.1.2:7000", []byte("hello"))
	if payload, from := receive(t, server); string(payload) != "hello" ||
		from.Addr() != netip.MustParseAddr("10.244.2.0") {
		t.Errorf("%q from %s", payload, from)
	}
	return "from 10.244.2.0"
}
