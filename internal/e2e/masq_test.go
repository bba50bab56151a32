package e2e

import (
	"testing"

	"example.org/meshd/internal/nstest"
)

// outside adds a machine on the underlay that knows nothing of pods.
func (m *mesh) outside() *nstest.Host {
	m.t.Helper()
	h, err := m.Lab.Host("outside", "172.18.0.77/16", "2001:db8::77/64")
	if err != nil {
		m.t.Fatal(err)
	}
	return h
}

// kubeProxy installs on a host what kube-proxy's iptables mode has for a
// NodePort: DNAT to one pod, the mark 0x4000 for what must be masqueraded, and
// the masquerading of what is marked.
func kubeProxy(t *testing.T, h *nstest.Host, port, to string, mark bool) {
	t.Helper()
	rules := [][]string{
		{"-N", "KUBE-SERVICES"}, {"-N", "KUBE-POSTROUTING"}, {"-N", "KUBE-MARK-MASQ"},
		{"-A", "PREROUTING", "-j", "KUBE-SERVICES"}, {"-A", "OUTPUT", "-j", "KUBE-SERVICES"},
		{"-A", "POSTROUTING", "-j", "KUBE-POSTROUTING"},
		{"-A", "KUBE-MARK-MASQ", "-j", "MARK", "--or-mark", "0x4000"},
		{"-A", "KUBE-POSTROUTING", "-m", "mark", "!", "--mark", "0x4000/0x4000", "-j", "RETURN"},
		{"-A", "KUBE-POSTROUTING", "-j", "MARK", "--xor-mark", "0x4000"},
		{"-A", "KUBE-POSTROUTING", "-j", "MASQUERADE", "--random-fully"},
	}
	service := []string{
		"-A",
		"KUBE-SERVICES",
		"-p",
		"tcp",
		"--dport",
		port,
		"-m",
		"addrtype",
		"--dst-type",
		"LOCAL",
		"-j",
	}
	if mark {
		rules = append(rules, append(service, "KUBE-MARK-MASQ"))
	}
	rules = append(rules, append(service, "DNAT", "--to-destination", to))
	for _, rule := range rules {
		run(t, h.Namespace, "iptables-nft", append([]string{"-t", "nat"}, rule...)...)
	}
}

// A service without kube-proxy's mark: the client is hidden only where the
// answer would not find back otherwise.
func TestUnmarkedService(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	m := newMesh(t)
	outside := m.outside()
	serve(t, m.PodW, "10.244.1.2:80")
	serve(t, m.PodW2b, "10.244.2.3:80")
	kubeProxy(t, m.Worker2, "32000", "10.244.1.2:80", false)
	run(t, m.Worker2.Namespace, "iptables-nft", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "32001",
		"-j", "DNAT", "--to-destination", "10.244.2.3:80")
	seenAs(t, outside.Namespace, "172.18.0.3:32000", "10.244.2.0")  // remote pod: the TUN's address
	seenAs(t, outside.Namespace, "172.18.0.3:32001", "172.18.0.77") // local pod: the client's own
}

// Who is seen as whom, in both families.
func TestWhoIsSeenAsWhom(t *testing.T) { eachEngine(t, nstest.Waiting, testWhoIsSeenAsWhom) }

func testWhoIsSeenAsWhom(t *testing.T) {
	w := newWorldMTU(t, 1452)
	file := dualStack("172.18.0.%d") + "[masquerade]\nexclude = [\"172.18.0.78/32\", \"2001:db8::78/128\"]\n"
	m := w.startAll(file)
	outside := m.outside()
	if err := outside.IP("addr add 172.18.0.78/16 dev eth0", "addr add 2001:db8::78/64 dev eth0 nodad",
		"route add 10.244.2.0/24 via 172.18.0.3", "route add fd00:10:244:2::/64 via 2001:db8::3"); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"172.18.0.77:80", "172.18.0.78:80", "[2001:db8::77]:80",
		"[2001:db8::78]:80"} {
		serve(t, outside.Namespace, address)
	}
	serve(t, m.PodW, "10.244.1.2:80")
	serve(t, m.PodW, "[fd00:10:244:1::2]:80")
	serve(t, m.PodW2b, "10.244.2.3:80")

	seenAs(t, m.PodW2b, "10.244.1.2:80", "10.244.2.3")
	seenAs(t, m.PodW2b, "[fd00:10:244:1::2]:80", "fd00:10:244:2::3")
	seenAs(t, m.PodW2b, "172.18.0.77:80", "172.18.0.3")
	seenAs(t, m.PodW2b, "[2001:db8::77]:80", "2001:db8::3")
	seenAs(t, m.PodW2b, "172.18.0.78:80", "10.244.2.3")            // excluded
	seenAs(t, m.PodW2b, "[2001:db8::78]:80", "fd00:10:244:2::3")   // excluded
	seenAs(t, outside.Namespace, "10.244.2.3:80", "172.18.0.77")   // outside to a local pod
	seenAs(t, m.Worker2.Namespace, "10.244.1.2:80", "10.244.2.0")  // a host to a remote pod
	seenAs(t, m.Worker2.Namespace, "172.18.0.77:80", "172.18.0.3") // not our business

	s := status(t, m.w2)
	counts := map[string]uint64{}
	for _, r := range s.Masquerade.Rules {
		counts[r.Name] = r.Packets
	}
	for _, name := range []string{"mesh-to-mesh", "outside-to-local-pod", "excluded", "pods-to-outside"} {
		if counts[name] == 0 {
			t.Errorf("rule %s counted nothing: %v", name, counts)
		}
	}
	if !s.Masquerade.Enabled || s.Masquerade.Repairs != 0 || len(s.Masquerade.Rules) != 6 {
		t.Errorf("masquerade %+v", s.Masquerade)
	}
}
