package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// often is the demo's file with probes ten times a second.
func often(t testing.TB) string { return demoFile(t) + "[probe]\ninterval = \"100ms\"\n" }

// waitPeer waits until a daemon has a peer as it should be.
func waitPeer(t testing.TB, d *nstest.Daemon, name, what string, ok func(control.Peer) bool) control.Peer {
	t.Helper()
	return peer(t, waitStatus(t, d, name+" "+what, func(s control.Status) bool {
		for _, p := range s.Peers {
			if p.Name == name {
				return ok(p)
			}
		}
		return false
	}), name)
}

func isIn(state string) func(control.Peer) bool {
	return func(p control.Peer) bool { return p.State == state }
}

// peerEvents returns the kinds of a daemon's events about a peer, in order. What happens to several peers at
// once is one event with all their names.
func peerEvents(t testing.TB, d *nstest.Daemon, name string) (kinds string) {
	t.Helper()
	return eventsAbout(t, client(t, d), name)
}

// eventsAbout is peerEvents for a client that asks again and again.
func eventsAbout(t testing.TB, asker *control.Client, name string) (kinds string) {
	t.Helper()
	if err := asker.Events(t.Context(), 0, false, func(e control.Event) error {
		if e.Peer == name || slices.Contains(strings.Fields(e.Fields["peers"]), name) {
			kinds += e.Kind + " "
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return kinds
}

// waitPeerEvents waits until the kinds of a daemon's events about a peer, which short replaces, are as they
// should be. What happens to peers is gathered for a second: status shows it earlier.
func waitPeerEvents(t testing.TB, d *nstest.Daemon, name, want string, short *strings.Replacer) {
	t.Helper()
	asker, got := client(t, d), ""
	eventually(t, "the events of "+name, func() bool {
		got = short.Replace(eventsAbout(t, asker, name))
		return got == want
	}, func() string { return fmt.Sprintf("%s, want %s", got, want) })
}

// A peer that dies goes stale, then down; it comes back by itself; each is one event.
func TestPeerComesAndGoes(t *testing.T) { eachEngine(t, nstest.Waiting, testPeerComesAndGoes) }

func testPeerComesAndGoes(t *testing.T) {
	// Stale is who has not answered three times: a machine with other work may keep one of the
	// daemons from the CPU for the third of a second that it would be with `often`.
	m := newWorld(t).startAll(demoFile(t) + "[probe]\ninterval = \"300ms\"\n")
	for _, d := range []*nstest.Daemon{m.cp, m.w2} {
		p := waitPeer(t, d, "worker", "up",
			func(p control.Peer) bool { return p.State == control.Up && p.ConfigMatch != nil })
		if !*p.ConfigMatch || p.Version == "" || p.RTTMS == nil || *p.RTTMS <= 0 || p.Since == nil ||
			p.ProbesRx == 0 {
			t.Errorf("%+v", p)
		}
	}
	m.w.Kill()
	if err := m.w2.WaitEvent("peer_stale", "peer", "worker"); err != nil {
		t.Fatal(err)
	}
	down := waitPeer(t, m.w2, "worker", "down", isIn(control.Down))
	if down.LastSeen == nil || down.Loss == nil || *down.Loss == 0 || down.Since.Before(*down.LastSeen) {
		t.Errorf("%+v", down)
	}
	if _, err := m.w2.Ask("ping", "worker", "--count", "1"); err == nil {
		t.Error("the dead answers")
	}
	if _, err := m.w2.Ask("peers", "worker"); err == nil {
		t.Error("`peers worker` says yes")
	}
	w := m.start(m.Worker, m.w.Config)
	if _, err := m.w2.Ask("wait", "peer:worker"); err != nil {
		t.Error(err)
	}
	waitPeer(t, w, "worker2", "up", isIn(control.Up))
	// When its questions come before its first answer, as on a busy machine, it is silent meanwhile.
	short := strings.NewReplacer("peer_file_matches ", "", "peer_down peer_silent ", "peer_down ")
	waitPeerEvents(t, m.w2, "worker", "peer_up peer_stale peer_down peer_up ", short)
	// Who was up all the time
	waitPeerEvents(t, m.w2, "control-plane", "peer_up ", short)
	// Nothing of all this is traffic, but forwarded probes of peers: to this host they are pods' packets.
	const forwarded = 20 + 8 + 80 // an echo with a payload of meshd's
	if s := status(t, m.w2); *s.Totals.RxBytes != forwarded**s.Totals.RxPackets || *s.Totals.TxPackets != 0 {
		t.Errorf("%+v", s.Totals)
	}
}

var pingTime = regexp.MustCompile(`rtt min/avg/max/mdev = [\d.]+/([\d.]+)/`)

// On a way that takes its time, RTT is what the kernel's ping says.
func TestRTTIsThatOfPing(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	w := newWorld(t)
	if err := w.Worker.Delay(5 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	m := w.startAll(often(t))
	waitPeer(t, m.w2, "worker", "measured", func(p control.Peer) bool { return p.ProbesRx >= 30 })
	// A busy machine adds to some packets: what both say at the same time is the same, sooner or later.
	for deadline := time.Now().Add(nstest.Patience); ; {
		kernel := pinged(t, m.Worker2)
		p := peer(t, status(t, m.w2), "worker")
		if *p.RTTMS < 10 || *p.RTTMinMS < 10 || *p.RTTMinMS > *p.RTTMS || *p.RTTP95MS < *p.RTTMS {
			t.Fatalf("RTT %.2f (%.2f to %.2f) ms", *p.RTTMS, *p.RTTMinMS, *p.RTTP95MS)
		}
		t.Logf("RTT %.2f ms, ping says %.2f ms", *p.RTTMS, kernel)
		if *p.RTTMS > 0.8*kernel && *p.RTTMS < 1.2*kernel {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("RTT is not what ping says")
		}
	}
	out, err := m.w2.Ask("ping", "worker", "--count", "3", "-i", "100ms")
	if err != nil || !strings.Contains(out, "3 sent, 3 received, 0% loss") ||
		!strings.Contains(out, "108 bytes from worker: seq=1 time=") {
		t.Errorf("%v\n%s", err, out)
	}
}

// pinged returns the mean of round-trip times in ms that the kernel's ping finds from a host to the node
// "worker", in the mesh.
func pinged(t testing.TB, from *nstest.Host) float64 {
	t.Helper()
	found := pingTime.FindStringSubmatch(run(t, from.Namespace, "ping", "-c", "30", "-i", "0.1", "10.244.1.0"))
	if found == nil {
		t.Fatal("ping does not say")
	}
	mean, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return mean
}

// What is lost on the way back is shown as such, and says nothing of other peers.
func TestLossIsShown(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	m := &mesh{world: w}
	// An answer is late after that, on a busy machine too
	asks := demoFile(t) + "[probe]\ninterval = \"200ms\"\n"
	m.w2 = w.own(w.Worker2, asks)
	m.w, m.cp = w.own(w.Worker, demoFile(t)+"[probe]\ninterval = \"0s\"\n"), w.own(w.ControlPlane, asks)
	run(t, m.Worker2.Namespace, "nft",
		"add table ip lossy; add chain ip lossy in { type filter hook prerouting priority raw; }; "+
			"add rule ip lossy in ip saddr 172.18.0.4 udp dport 8285 numgen inc mod 2 == 0 drop")
	waitStatus(t, m.w2, "worker is up with every second answer lost, and more than another", func(
		s control.Status) bool {
		// What comes too late on a busy machine is lost of both alike.
		p, other := peer(t, s, "worker"), peer(t, s, "control-plane")
		return p.ProbesTx >= 60 && p.State == control.Up && *p.Loss >= 0.4 && other.Loss != nil &&
			*p.Loss-*other.Loss >= 0.2
	})
	// Who does not ask knows who was heard.
	if p := peer(t, status(t, m.w), "worker2"); p.State != control.Up || p.RTTMS != nil || p.Loss != nil ||
		p.ProbesTx != 0 {
		t.Errorf("%+v", p)
	}
}

// A changed file on one node is seen by the others.
func TestDriftIsSeen(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	a, b := w.own(w.Worker2, often(t)), w.own(w.Worker, often(t))
	matches := func(want bool) func(control.Peer) bool {
		return func(p control.Peer) bool { return p.ConfigMatch != nil && *p.ConfigMatch == want }
	}
	waitPeer(t, a, "worker", "has the same file", matches(true))
	// Another text of the same meaning is the same file: only its hash differs.
	save(t, b, often(t)+"# a comment\n")
	waitPeer(t, a, "worker", "has another text", func(p control.Peer) bool {
		return p.ConfigSHA256 != "" && p.ConfigSHA256 != status(t, a).Config.SHA256 && *p.ConfigMatch
	})
	const changed = "[metrics]\nlisten = \"127.0.0.1:9285\"\n"
	save(t, b, often(t)+changed)
	p := waitPeer(t, a, "worker", "has another file", matches(false))
	// Peers may hear of a file a moment before the node itself says that it is in force.
	waitStatus(t, b, "the file that its peer has heard of",
		func(s control.Status) bool { return s.Config.SHA256 == p.ConfigSHA256 })
	waitPeer(t, b, "worker2", "has another file", matches(false))
	save(t, a, often(t)+changed)
	waitPeer(t, a, "worker", "has the same file again", matches(true))
	waitPeerEvents(t, a, "worker", "peer_file_matches peer_file_differs peer_file_matches ",
		strings.NewReplacer("peer_up ", "", "peer_stale ", "", "peer_silent ", "", "peer_one_way ", "",
			"peer_down ", ""))
	if out, err := a.Ask("status"); err != nil || !strings.Contains(out, "same") {
		t.Errorf("%v\n%s", err, out)
	}
}

// A neighbour that runs plain flannel is up, with an RTT: its kernel answers.
func TestFlannelIsUp(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	flannel(t, w.Worker, "10.244.1.0", "172.18.0.4", map[string]string{"10.244.2.0/24": "172.18.0.3"})
	d := w.own(w.Worker2, often(t))
	p := waitPeer(t, d, "worker", "up", isIn(control.Up))
	if p.RTTMS == nil || p.ConfigMatch != nil || p.ConfigSHA256 != "" || p.Version != "" || *p.Loss > 0.5 {
		t.Errorf("%+v", p)
	}
	if out, err := d.Ask("ping", "worker", "--count", "2", "-i", "50ms"); err != nil ||
		!strings.Contains(out, " 0% loss") {
		t.Errorf("%v\n%s", err, out)
	}
	contains(t, run(t, w.PodW2b, "ping", "-c", "1", "10.244.1.2"), " 0% packet loss")
}

// A question of one node is answered to that node, with as many bytes, and the
// host's kernel sees neither.
func TestProbesStayWithMeshd(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	m := newWorld(t).startAll(often(t))
	eth, tun := capture(t, m.Worker2.Namespace, "eth0"), capture(t, m.Worker2.Namespace, "mesh0")
	const usual, large = 108, 1472 // some are as large as the path, to see whether it carries them
	ways := map[string]bool{}
	for len(ways) < 4 {
		f, err := eth.Next(10*time.Second, func(f []byte) bool { return isIPv4(f) && isProbe(f) })
		if err != nil {
			t.Fatal(err)
		}
		inner := f[14+28:]
		ways[fmt.Sprint(net.IP(f[26:30]), " ", net.IP(f[30:34]), " reply ", inner[20] == 0)] = true
		if n := len(inner); n != usual && n != large || bytes.Count(f, []byte("meshd\x00\x01\n")) != 1 {
			t.Errorf("%d bytes: % x", len(f), f)
		}
	}
	// Those that the host has to forward are for its kernel, see TestForwardedProbesEndHere.
	direct := func(f []byte) bool { return isProbe(f) && !bytes.Equal(f[16:20], []byte{10, 244, 2, 254}) }
	if f, err := tun.Next(time.Second, direct); err == nil {
		t.Errorf("on the TUN: % x", f)
	}
	// The neighbours' own pings are none of meshd's business.
	contains(t, run(t, m.Worker.Namespace, "ping", "-c", "1", "10.244.2.0"), " 0% packet loss")
}

// A ping that is too large for the path says so.
func TestPingTooLarge(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	m := newMesh(t)
	waitPeer(t, m.w2, "worker", "up", isIn(control.Up))
	if out, err := m.w2.Ask("ping", "worker", "--count", "1", "-s", "1444"); err != nil ||
		!strings.Contains(out, "1472 bytes from worker") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := m.w2.Ask("ping", "worker", "--count", "1", "-s", "56"); err != nil ||
		!strings.Contains(out, "108 bytes from worker") { // never less
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := m.w2.Ask("ping", "worker", "-s", "1445"); err == nil ||
		!strings.Contains(err.Error(), "at most 1444 bytes") {
		t.Errorf("%v\n%s", err, out)
	}
}

// Readiness is what is true at this moment.
func TestReadiness(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	if err := w.Worker2.IP("addr del 172.18.0.3/16 dev eth0"); err != nil {
		t.Fatal(err)
	}
	d := w.start(w.Worker2, w.write(demoFile(t)))
	if err := d.WaitEvent("waiting"); err != nil {
		t.Fatal(err)
	}
	c := client(t, d)
	if err := c.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "waiting for an address") {
		t.Errorf("ready without an address: %v", err)
	}
	if err := w.Worker2.IP("addr add 172.18.0.3/16 dev eth0"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Ask("wait", "ready", "--timeout", "20s"); err != nil {
		t.Fatal(err)
	}
	// It is mended soon, so the question may come too late, but not always.
	var unready error
	for deadline := time.Now().Add(20 * time.Second); unready == nil; unready = c.Ready(t.Context()) {
		if time.Now().After(deadline) {
			t.Fatal("always ready, though its TUN is down")
		}
		if err := w.Worker2.IP("link set mesh0 down"); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(unready.Error(), "mesh0 is down") {
		t.Error(unready)
	}
	if _, err := d.Ask("wait", "ready", "--timeout", "20s"); err != nil {
		t.Error(err)
	}
}

// What history says happened is what the counters say.
func TestHistoryAddsUp(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	m := newWorld(t).startAll(often(t))
	c := client(t, m.w2)
	waitPeer(t, m.w2, "worker", "up", isIn(control.Up))
	waitSum := func(peer string, want float64) {
		t.Helper()
		var h control.History
		for deadline := time.Now().Add(20 * time.Second); ; {
			var err error
			if h, err = c.History(t.Context(), peer, "5m"); err != nil {
				t.Fatal(err)
			}
			sum, rtt := 0.0, false
			for i := range h.TxPackets {
				if h.TxPackets[i] != nil {
					sum += *h.TxPackets[i]
				}
				rtt = rtt || h.RTTMS[i] != nil && *h.RTTMS[i] > 0
			}
			if sum == want && (rtt || peer == "") {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("history of %q has %v packets, not %v: %+v", peer, sum, want, h)
			}
		}
	}
	waitSum("", 0)
	run(t, m.PodW2b, "ping", "-c", "10", "-i", "0.05", "10.244.1.2")
	run(t, m.PodW2b, "ping", "-c", "5", "-i", "0.05", "10.244.0.2")
	waitSum("worker", 10)
	waitSum("control-plane", 5)
	waitSum("", 15)
	if _, err := c.History(t.Context(), "nobody", "5m"); !errors.Is(err, control.ErrNoPeer) {
		t.Errorf("%v", err)
	}
}
