package e2e

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"example.org/meshd/internal/dataplane/packet"
)

// The whole walk through the reference system, as docs/walkthrough.md has it, with pods
// attached by the stock CNI plugins. It prints what it saw.
func TestWalkWithCNI(t *testing.T) {
	m := newCNIMesh(t, demoFile(t))
	var table strings.Builder
	for i, o := range []struct {
		what    string
		observe func(t *testing.T, m *mesh) (seen string)
	}{
		{"pod: mtu, address, routes", walkPod},
		{"host: TUN and routes", walkHost},
		{"same host: by the bridge alone", walkSameHost},
		{"across hosts: one datagram each", walkAcross},
		{"TCP: mss", walkMSS},
		{"NodePort on the pod's own host", walkNodePort},
		{"host to a remote pod", walkHostToPod},
	} {
		t.Run(fmt.Sprintf("%d", i+1), func(t *testing.T) {
			seen := o.observe(t, m.mesh)
			result := "as the reference"
			if t.Failed() {
				result = "DIFFERENT"
			}
			fmt.Fprintf(&table, "\n%d  %-32s %-17s %s", i+1, o.what, result, seen)
		})
	}
	t.Log(table.String())
}

func walkPod(t *testing.T, m *mesh) string {
	address, routes := run(t, m.PodW2b, "ip", "addr", "show", "eth0"), run(t, m.PodW2b, "ip", "route")
	contains(t, address, "mtu 1472", "inet 10.244.2.3/24")
	contains(t, routes, "default via 10.244.2.1 dev eth0", "10.244.0.0/16 via 10.244.2.1 dev eth0")
	contains(t, run(t, m.Worker2.Namespace, "ip", "addr", "show", "cni0"), "mtu 1472", "inet 10.244.2.1/24")
	return "mtu 1472, 10.244.2.3/24, default and 10.244.0.0/16 via 10.244.2.1"
}

func walkHost(t *testing.T, m *mesh) string {
	tun, routes := run(t, m.Worker2.Namespace, "ip", "addr", "show", "mesh0"), run(t, m.Worker2.Namespace, "ip", "route")
	contains(t, tun, "<POINTOPOINT,MULTICAST,NOARP,UP,", "mtu 1472", "link/none", "inet 10.244.2.0/32", "qlen 500")
	if strings.Contains(tun, "link/ether") {
		t.Errorf("a MAC address:\n%s", tun)
	}
	contains(t, routes, "10.244.0.0/16 dev mesh0 ", "10.244.2.0/24 dev cni0 ")
	return "mtu 1472, qlen 500, 10.244.2.0/32, 10.244.0.0/16 dev mesh0, 10.244.2.0/24 dev cni0"
}

func walkSameHost(t *testing.T, m *mesh) string {
	tun, uplink, bridged := captureTUN(t, m.w2), capture(t, m.Worker2.Namespace, "eth0"), capture(t, m.PodW2a, "eth0")
	contains(t, run(t, m.PodW2b, "ping", "-c", "1", "-s", "100", "10.244.2.2"), "ttl=64")
	run(t, m.PodW2b, "ping", "-c", "1", "-s", "200", "10.244.1.2")
	frame := next(t, bridged, "echo request on the bridge", func(f []byte) bool { return isIPv4(f) && f[14+9] == 1 })
	if mac := macOf(t, m, "eth0"); string(frame[6:12]) != string(mac) {
		t.Errorf("source MAC % x, the pod's is % x", frame[6:12], mac)
	}
	// What is seen first elsewhere is what was sent last.
	if ip := next(t, tun, "an IPv4 packet on the TUN", isBareIPv4); len(ip) != 228 {
		t.Errorf("first on the TUN: % x", ip)
	}
	if f := next(t, uplink, "an ICMP or UDP frame on the uplink", func(f []byte) bool { return isIPv4(f) && (f[14+9] == 1 || f[14+9] == 17) }); len(f) != 14+28+228 {
		t.Errorf("first on the uplink: % x", f)
	}
	return "ttl=64, MAC addresses unchanged, nothing on mesh0 or eth0"
}

func walkAcross(t *testing.T, m *mesh) string {
	podEth, bridge := capture(t, m.PodW2b, "eth0"), capture(t, m.Worker2.Namespace, "cni0")
	tun, uplink, arrived := captureTUN(t, m.w2), capture(t, m.Worker2.Namespace, "eth0"), capture(t, m.PodW, "eth0")
	contains(t, run(t, m.PodW2b, "ping", "-c", "1", "-p", "c0ffee", "10.244.1.2"), "ttl=60")
	isEcho := func(f []byte) bool { return isIPv4(f) && f[14+9] == 1 && f[14+20] == 8 }
	left, bridged, got := next(t, podEth, "the request", isEcho), next(t, bridge, "the request", isEcho), next(t, arrived, "the request", isEcho)
	if string(left[:6]) != string(bridged[:6]) || string(left[6:12]) == string(got[6:12]) {
		t.Errorf("MAC addresses % x, % x, % x", left[:12], bridged[:12], got[:12])
	}
	if string(left[14+12:]) != string(got[14+12:]) {
		t.Errorf("sent % x, arrived % x", left, got)
	}
	inner := next(t, tun, "the request on the TUN", isBareIPv4)
	if h, ok := packet.Parse(inner); !ok || h.Src.String() != "10.244.2.3" || h.Dst.String() != "10.244.1.2" || h.TTL != 63 {
		t.Errorf("on the TUN: %+v", h)
	}
	frame := next(t, uplink, "the request on the uplink", func(f []byte) bool { return isIPv4(f) && f[14+9] == 17 })
	if from, to := binary.BigEndian.Uint16(frame[34:]), binary.BigEndian.Uint16(frame[36:]); from != 8285 || to != 8285 ||
		netip.AddrFrom4([4]byte(frame[26:])).String() != "172.18.0.3" || netip.AddrFrom4([4]byte(frame[30:])).String() != "172.18.0.4" {
		t.Errorf("on the uplink: % x", frame[:42])
	}
	if string(frame[42+12:]) != string(inner[12:]) { // all but the TTL, and the checksum with it
		t.Errorf("payload % x, on the TUN % x", frame[42:], inner)
	}
	return "ttl=60, bare IP on mesh0, 172.18.0.3:8285 -> 172.18.0.4:8285, inner addresses unchanged"
}

func walkMSS(t *testing.T, m *mesh) string {
	tun := captureTUN(t, m.w2)
	m.connect("10.244.1.2:8080")
	syn := next(t, tun, "SYN", func(b []byte) bool { return len(b) > 44 && b[9] == 6 && b[33] == 0x02 })
	if syn[40] != 2 || binary.BigEndian.Uint16(syn[42:]) != 1432 {
		t.Errorf("SYN without mss 1432: options % x", syn[40:])
	}
	return "mss 1432"
}

func walkNodePort(t *testing.T, m *mesh) string {
	serve(t, m.PodW, "10.244.1.2:80")
	kubeProxy(t, m.Worker2, "32000", "10.244.1.2:80", true)
	seenAs(t, m.PodW2b, "172.18.0.3:32000", "10.244.2.0")
	flows := run(t, m.Worker2.Namespace, "conntrack", "-L", "-p", "tcp", "--dport", "32000")
	line := regexp.MustCompile(`src=10\.244\.2\.3 dst=172\.18\.0\.3 sport=\d+ dport=32000 src=10\.244\.1\.2 dst=10\.244\.2\.0 sport=80 `)
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
	if payload, from := receive(t, server); string(payload) != "hello" || from.Addr() != netip.MustParseAddr("10.244.2.0") {
		t.Errorf("%q from %s", payload, from)
	}
	return "from 10.244.2.0"
}
