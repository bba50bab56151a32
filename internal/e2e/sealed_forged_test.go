package e2e

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// forgery is a mesh in which worker is a node with WireGuard alone that sends what it likes. worker2 is its
// victim, with a network behind it that the mesh does not have.
type forgery struct {
	*sealed
	cp, w2 *nstest.Daemon
	forge  func(b []byte) error // out of worker's wg0
	victim *net.UDPConn         // in a pod of worker2
	inner  []*net.UDPConn       // where nothing may arrive
}

// shared is a network behind two nodes.
const shared = "192.168.8.0/24"

func newForgery(t *testing.T) *forgery {
	t.Helper()
	s := newSealed(t)
	lan, err := s.Lab.Empty("lan")
	if err == nil {
		err = errors.Join(s.Worker2.IP("link add lan0 type veth peer name eth0 netns "+lan.Name,
			"addr add 192.168.7.1/24 dev lan0", "link set lan0 up"),
			lan.IP("addr add 192.168.7.9/24 dev eth0", "link set eth0 up", "route add default via 192.168.7.1"))
	}
	if err != nil {
		t.Fatal(err)
	}
	// Behind control-plane and worker is one network; control-plane is preferred.
	doc := strings.NewReplacer(`"10.244.0.0/24"]`, `"10.244.0.0/24"]`+"\nroutes = [\""+shared+`"]`,
		`"10.244.1.0/24"]`, `"10.244.1.0/24"]`+"\nroutes = [{ prefix = \""+shared+`", metric = 200 }]`).
		Replace(s.file())
	s.stock(s.Worker, "10.244.1.0/32", map[string]string{
		s.public[s.Worker2]: "AllowedIPs = 10.244.2.0/24\nEndpoint = 172.18.0.3:51820\n"})
	f := &forgery{sealed: s}
	for h, d := range map[*nstest.Host]**nstest.Daemon{s.ControlPlane: &f.cp, s.Worker2: &f.w2} {
		s.helper(h)
		*d = s.run(h, doc)
	}
	f.victim = listen(t, s.PodW2b, "10.244.2.3:7000")
	f.inner = []*net.UDPConn{listen(t, lan, ":7000"), listen(t, s.Worker2.Namespace, ":7000"),
		listen(t, s.PodCP, ":7000")}
	// WireGuard sends all that is asked of it; who receives has to be strict.
	s.wg(s.Worker, "set", "wg0", "peer", s.public[s.Worker2], "allowed-ips", "0.0.0.0/0")
	f.forge = rawBy(t, s.Worker.Namespace, "wg0")
	for _, name := range []string{"worker", "control-plane"} {
		waitPeer(t, f.w2, name, "up", isIn(control.Up))
	}
	return f
}

// good sends a good packet behind the lies, which has to be the first to arrive.
func (f *forgery) good(t *testing.T) {
	t.Helper()
	if err := f.forge(udpPacket("10.244.1.2", "10.244.2.3", 7000, 64, "good")); err != nil {
		t.Fatal(err)
	}
	if payload, from := receive(t, f.victim); string(payload) != "good" || from.Addr().String() != "10.244.1.2" {
		t.Errorf("delivered %q from %s", payload, from)
	}
}

// drops returns how many packets worker2 has dropped for a reason.
func (f *forgery) drops(reason string) uint64 { return status(f.t, f.w2).Totals.Drops[reason] }

// What a node, a stranger or somebody on the path makes up, is not delivered, not answered, and counted
// where it can be.
func TestForgedSealed(t *testing.T) {
	nstest.Share(t, nstest.Busy)
	f := newForgery(t)
	stranger, err := f.Lab.Host("stranger", "172.18.0.9/16")
	if err != nil {
		t.Fatal(err)
	}
	f.addKey(stranger)
	f.good(t)
	t.Run("bare", func(t *testing.T) { f.bare(t, stranger) })
	t.Run("inner source", f.sources)
	t.Run("inner destination", f.destinations)
	t.Run("shared prefix", f.standby)
	t.Run("foreign key", func(t *testing.T) { f.foreign(t, stranger) })
	t.Run("replayed and cut", func(t *testing.T) { f.replayed(t, stranger) })
	for _, conn := range f.inner {
		if err := conn.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		if n, from, err := conn.ReadFrom(b); err == nil {
			t.Errorf("delivered to %s: %q from %s", conn.LocalAddr(), b[:n], from)
		}
	}
	if e := peer(t, status(t, f.w2), "worker").WireGuard.Endpoint; e != "172.18.0.4:51820" {
		t.Errorf("worker is answered at %s", e)
	}
}

// bare sends what a mesh without encryption takes.
func (f *forgery) bare(t *testing.T, stranger *nstest.Host) {
	node := listen(t, f.Worker.Namespace, "172.18.0.4:8285")
	foreign := listen(t, stranger.Namespace, "172.18.0.9:8285")
	const to, many = "172.18.0.3:8285", 20
	lie := udpPacket("10.244.1.2", "10.244.2.3", 7000, 62, "lie")
	answers := capture(t, stranger.Namespace, "eth0")
	for range many {
		send(t, node, to, lie)
		send(t, foreign, to, lie)
	}
	f.good(t)
	s := waitStatus(t, f.w2, "counted, and told", func(s control.Status) bool {
		return s.Totals.Drops["cleartext"] >= many && s.Totals.Drops["unknown_sender"] >= many &&
			slices.Contains(kindsOf(s, "worker"), "sends_clear")
	})
	if p := peer(t, s, "worker"); p.Drops["cleartext"] != many || s.Totals.Drops["cleartext"] != many ||
		s.Totals.Drops["unknown_sender"] != many {
		t.Errorf("%v of worker, %v of all", p.Drops, s.Totals.Drops)
	}
	silent(t, answers, stranger)
}

// kindsOf returns what is wrong with a peer.
func kindsOf(s control.Status, peer string) (kinds []string) {
	for _, p := range s.Health.Problems {
		if p.Peer == peer {
			kinds = append(kinds, p.Kind)
		}
	}
	return kinds
}

// silent fails the test if worker2 has sent UDP to the stranger. It is asked for a ping, to know when all
// that came before was seen.
func silent(t *testing.T, c *nstest.Capture, stranger *nstest.Host) {
	t.Helper()
	run(t, stranger.Namespace, "ping", "-c", "1", "172.18.0.3")
	next(t, c, "the echo reply", func(b []byte) bool {
		from3 := isIPv4(b) && netip.AddrFrom4([4]byte(b[26:30])).String() == "172.18.0.3"
		if from3 && b[14+9] == 17 {
			t.Errorf("the stranger got an answer: % x", b)
		}
		return from3 && b[14+9] == 1 && b[34] == 0
	})
}

// sources sends from addresses that are not behind worker.
func (f *forgery) sources(t *testing.T) {
	for _, source := range []string{"8.8.8.8", "10.244.0.2", "10.244.2.2", "172.18.0.3", "172.18.0.4",
		"127.0.0.1", "192.168.7.9"} {
		if err := f.forge(udpPacket(source, "10.244.2.3", 7000, 64, "lie")); err != nil {
			t.Fatal(err)
		}
		f.good(t)
	}
}

// standby sends from a network that another node carries, and again once the other one is in maintenance.
func (f *forgery) standby(t *testing.T) {
	from := udpPacket("192.168.8.9", "10.244.2.3", 7000, 64, "of the network")
	if err := f.forge(from); err != nil {
		t.Fatal(err)
	}
	f.good(t)
	if byKernel { // which counts such packets; user space does not
		before := f.drops("spoofed_source")
		waitStatus(t, f.w2, "worker is suspected", func(s control.Status) bool {
			for range 5 {
				if err := f.forge(from); err != nil {
					t.Fatal(err)
				}
			}
			return slices.Contains(kindsOf(s, "worker"), "standby_sends")
		})
		if f.drops("spoofed_source") <= before {
			t.Error("they are not counted")
		}
	}
	if out, code := ask(f.cp, "drain", "--reason", "test"); code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	waitStatus(t, f.w2, "worker carries it", func(s control.Status) bool {
		return carrier(s, shared) == "worker"
	})
	allowed := func() string { return f.wg(f.Worker2, "show", "meshd-wg", "allowed-ips") }
	eventually(t, "worker may send from it", func() bool {
		_, of, _ := strings.Cut(allowed(), f.public[f.Worker])
		of, _, _ = strings.Cut(of, "\n")
		return strings.Contains(of, shared)
	}, allowed)
	if err := f.forge(from); err != nil {
		t.Fatal(err)
	}
	if payload, _ := receive(t, f.victim); string(payload) != "of the network" {
		t.Errorf("delivered %q", payload)
	}
}

// destinations sends to what is not behind worker2.
func (f *forgery) destinations(t *testing.T) {
	all := []string{"192.168.7.9", "192.168.7.1", "172.18.0.3", "172.18.0.9", "10.244.0.2", "10.244.0.0",
		"8.8.8.8", "224.0.0.1", "255.255.255.255", "172.18.255.255", "10.244.9.9"}
	before := f.drops("wrong_destination")
	for _, to := range all {
		if err := f.forge(udpPacket("10.244.1.2", to, 7000, 64, "lie")); err != nil {
			t.Fatalf("to %s: %v", to, err)
		}
	}
	f.good(t)
	eventually(t, "all are counted", func() bool {
		return f.drops("wrong_destination") >= before+uint64(len(all))
	}, func() string { return fmt.Sprint(status(t, f.w2).Totals.Drops) })
	if got := f.drops("wrong_destination") - before; got != uint64(len(all)) {
		t.Errorf("%d lies are counted as %d", len(all), got)
	}
}

// foreign sends what strangers may: handshakes with a key that is not in the file, and noise.
func (f *forgery) foreign(t *testing.T, stranger *nstest.Host) {
	answers := capture(t, stranger.Namespace, "eth0")
	f.stock(stranger, "10.244.9.0/32", map[string]string{f.public[f.Worker2]: "AllowedIPs = 10.244.2.0/24\n" +
		"Endpoint = 172.18.0.3:51820\n"})
	lies, noise := rawBy(t, stranger.Namespace, "wg0"), listen(t, stranger.Namespace, "172.18.0.9:0")
	b := make([]byte, 148)
	for i := range 100 {
		if _, err := rand.Read(b); err != nil {
			t.Fatal(err)
		}
		copy(b, []byte{byte(1 + i%4), 0, 0, 0}) // a message's type
		send(t, noise, "172.18.0.3:51820", b)
		if err := lies(udpPacket("10.244.1.2", "10.244.2.3", 7000, 64, "lie")); err != nil {
			t.Fatal(err)
		}
	}
	f.good(t)
	silent(t, answers, stranger)
	if out := f.wg(f.Worker2, "show", "meshd-wg", "peers"); strings.Contains(out, f.public[stranger]) {
		t.Error(out)
	}
}

// replayed sends messages of worker again, from elsewhere, as they were, cut and changed.
func (f *forgery) replayed(t *testing.T, stranger *nstest.Host) {
	path, answers := capture(t, f.Worker.Namespace, "eth0"), capture(t, stranger.Namespace, "eth0")
	again := listen(t, stranger.Namespace, "172.18.0.9:0")
	for range 20 {
		f.good(t)
	}
	var messages [][]byte
	for len(messages) < 20 {
		messages = append(messages, bytes.Clone(next(t, path, "a message of worker", func(b []byte) bool {
			return isIPv4(b) && b[14+9] == 17 && netip.AddrFrom4([4]byte(b[26:30])).String() == "172.18.0.4" &&
				len(b) > 14+20+8+32+16
		})[14+20+8:]))
	}
	for i, m := range messages {
		send(t, again, "172.18.0.3:51820", m)
		send(t, again, "172.18.0.3:51820", m[:len(m)-1-i])
		m = bytes.Clone(m)
		m[len(m)-1-i] ^= 1
		send(t, again, "172.18.0.3:51820", m)
		m[8] ^= 0x80 // the counter
		send(t, again, "172.18.0.3:51820", m)
	}
	f.good(t)
	silent(t, answers, stranger)
}
