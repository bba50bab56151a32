package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// stock makes a host a peer by wg-quick(8), as somebody has it who knows nothing of meshd: with the kernel's
// WireGuard or, where it has none, with wireguard-go.
func (s *sealed) stock(h *nstest.Host, address string, peers map[string]string) {
	s.t.Helper()
	dir := s.t.TempDir()
	program := filepath.Join(dir, "wireguard-go")
	if err := h.IP("link add wg0 type wireguard"); err == nil {
		s.ip(h, "link del wg0")
	} else if out, err := exec.Command("go", "build", "-o", program, "golang.zx2c4.com/wireguard").
		CombinedOutput(); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	key, err := os.ReadFile(filepath.Join(s.keys[h], "private.key"))
	if err != nil {
		s.t.Fatal(err)
	}
	doc := fmt.Sprintf("[Interface]\nPrivateKey = %sAddress = %s\nListenPort = 51820\n", key, address)
	for public, of := range peers {
		doc += fmt.Sprintf("[Peer]\nPublicKey = %s\n%s", public, of)
	}
	file := filepath.Join(dir, "wg0.conf")
	if err := os.WriteFile(file, []byte(doc), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if _, err := h.RunWireGuard("env", "WG_QUICK_USERSPACE_IMPLEMENTATION="+program, "wg-quick", "up",
		file); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { s.ip(h, "link del wg0") }) // its process ends with it
}

// wg runs wg(8) on a host, which must succeed, and returns what it printed.
func (s *sealed) wg(h *nstest.Host, args ...string) string {
	s.t.Helper()
	out, err := h.WG(args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// A podAt is a pod and its address.
type podAt struct {
	pod     *nstest.Namespace
	address string
}

// at returns an address with a port.
func (p podAt) at(port string) string { return net.JoinHostPort(p.address, port) }

// meet has two pods exchange pings, datagrams and TCP, each of them first.
func meet(t *testing.T, a, b podAt) {
	t.Helper()
	for _, ends := range [][2]podAt{{a, b}, {b, a}} {
		from, to := ends[0], ends[1]
		contains(t, run(t, from.pod, "ping", "-c", "2", "-i", "0.1", "-W", "5", to.address), " 0% packet loss")
		server, client := listen(t, to.pod, to.at("0")), listen(t, from.pod, from.at("0"))
		send(t, client, server.LocalAddr().String(), []byte("hello"))
		if payload, who := receive(t, server); string(payload) != "hello" || who.Addr().String() != from.address {
			t.Errorf("from %s: %q of %s", from.address, payload, who)
		}
		transfer(t, from.pod, to.pod, to.at("8080"), 1<<20)
	}
}

// A host that has WireGuard and nothing of meshd is a node as others are: its pods and those of the others
// reach each other, and its state is known.
func TestStockPeer(t *testing.T) {
	nstest.Share(t, nstest.Busy)
	s := newSealed(t)
	doc := s.file()
	s.stock(s.Worker, "10.244.1.0/32", map[string]string{
		s.public[s.ControlPlane]: "AllowedIPs = 10.244.0.0/24\nEndpoint = 172.18.0.2:51820\n",
		s.public[s.Worker2]:      "AllowedIPs = 10.244.2.0/24\nEndpoint = 172.18.0.3:51820\n"})
	contains(t, run(t, s.Worker.Namespace, "ip", "link", "show", "wg0"), "mtu 1420")
	s.helper(s.Worker2)
	w2 := s.run(s.Worker2, doc)

	p := waitPeer(t, w2, "worker", "measured", func(p control.Peer) bool { return p.RTTMS != nil })
	if p.Version != "" || p.ConfigMatch != nil || len(peerProblems(status(t, w2), "worker")) > 0 {
		t.Errorf("%+v", p)
	}
	meet(t, podAt{s.PodW2b, "10.244.2.3"}, podAt{s.PodW, "10.244.1.2"})
	run(t, s.PodW, "ping", "-c", "1", "-s", "1392", "-M", "do", "10.244.2.3")

	// Where its firewall drops probes, what it sends tells that it lives.
	run(t, s.Worker.Namespace, "nft", "add table inet fw; add chain inet fw in "+
		"{ type filter hook input priority 0; }; add rule inet fw in udp dport 8286 drop")
	stream := startTimed(t, s.PodW, s.PodW2a, "10.244.1.2:7000", "10.244.2.2:7000", 20)
	waitPeer(t, w2, "worker", "silent, and not down", isIn(control.Silent))
	if st := status(t, w2); !slices.Equal(peerProblems(st, "worker"), []string{"peer_silent"}) ||
		st.Health.Level != control.Degraded {
		t.Errorf("%+v", st.Health)
	}
	stream.finish()
	run(t, s.Worker.Namespace, "nft", "delete table inet fw")
	waitPeer(t, w2, "worker", "up again", isIn(control.Up))
	if last := peer(t, status(t, w2), "control-plane").LastSeen; last != nil {
		t.Errorf("a host that does not run was seen at %v", last)
	}
}
