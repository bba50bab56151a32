package e2e

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// fromW2ToW are the datagrams from worker2 to worker, in the words of nft.
const fromW2ToW = "add rule bridge path pass ip saddr 172.18.0.3 ip daddr 172.18.0.4 "

// loses has the network between the hosts drop what matches the expressions of nft, until heals.
func (m *mesh) loses(t *testing.T, rules ...string) {
	t.Helper()
	script := "add table bridge path; add chain bridge path pass { type filter hook forward priority 0; }"
	for _, rule := range rules {
		script += "; " + fromW2ToW + rule + " drop"
	}
	run(t, m.Lab.Switch(), "nft", script)
}

// heals has the network pass everything again.
func (m *mesh) heals(t *testing.T) { run(t, m.Lab.Switch(), "nft", "delete table bridge path") }

// pathKinds returns which forms of packets a daemon says that a peer does not get.
func pathKinds(s control.Status, peer string) (kinds []string) {
	for _, kind := range peerProblems(s, peer) {
		if strings.HasPrefix(kind, "path_") {
			kinds = append(kinds, kind)
		}
	}
	slices.Sort(kinds)
	return kinds
}

// Each form of pods' packets that a path does not carry is named, for the right peer, while the peer is
// up; and no longer once the path carries it.
func TestPathLosesForms(t *testing.T) { eachEngine(t, nstest.Waiting, testPathLosesForms) }

func testPathLosesForms(t *testing.T) {
	m := newWorld(t).startAll(often(t))
	waitPeer(t, m.w2, "worker", "up", isIn(control.Up))
	// Pods send with a DSCP value, so it is one that probes have to ask about.
	run(t, m.PodW2a, "ping", "-c", "1", "-Q", "0xb8", "10.244.1.2")
	want := []string{"path_checksum", "path_dscp", "path_large"}
	if engineOf(t) == "user" { // which sends nothing without a checksum
		want = want[1:]
	}
	m.loses(t, "udp checksum 0", "ip dscp 46", "meta length > 1450")
	s := waitStatus(t, m.w2, "the forms that worker does not get", func(s control.Status) bool {
		return slices.Equal(pathKinds(s, "worker"), want)
	})
	if p := peer(t, s, "worker"); p.State != control.Up || *p.Loss > 0.2 || s.Health.Level != "degraded" {
		t.Errorf("%s: %+v", s.Health.Level, p)
	}
	for _, other := range []string{"control-plane", ""} {
		if got := pathKinds(s, other); len(got) > 0 {
			t.Errorf("%q: %q", other, got)
		}
	}
	if got := pathKinds(status(t, m.w), "worker2"); len(got) > 0 {
		t.Errorf("the other direction: %q", got)
	}
	m.heals(t)
	waitStatus(t, m.w2, "a path that carries everything", func(s control.Status) bool {
		return len(pathKinds(s, "worker")) == 0
	})
}

// Where a path drops what programs send, user space sends: pods' packets pass again by themselves.
func TestChecksumIsDropped(t *testing.T) { eachEngine(t, nstest.Waiting, testChecksumIsDropped) }

func testChecksumIsDropped(t *testing.T) {
	m := newWorld(t).startAll(often(t))
	waitPeer(t, m.w2, "worker", "up", isIn(control.Up))
	m.loses(t, "udp checksum 0")
	if engineOf(t) != "user" {
		waitStatus(t, m.w2, "the loss of what programs send", func(s control.Status) bool {
			return slices.Contains(peerProblems(s, "worker"), "path_checksum")
		})
	}
	contains(t, run(t, m.PodW2a, "ping", "-c", "3", "-i", "0.2", "10.244.1.2"), " 0% packet loss")
}

// A path that works one way is no peer that is up: who is not heard is told so.
func TestOneWayPath(t *testing.T) { eachEngine(t, nstest.Waiting, testOneWayPath) }

func testOneWayPath(t *testing.T) {
	m := newWorld(t).startAll(often(t))
	waitPeer(t, m.w2, "worker", "up", isIn(control.Up))
	waitPeer(t, m.w, "worker2", "up", isIn(control.Up))
	m.loses(t, "")
	waitPeer(t, m.w2, "worker", "reached one way only", isIn(control.OneWay))
	waitPeer(t, m.w, "worker2", "down", isIn(control.Down))
	s := waitStatus(t, m.w2, "the problem", func(s control.Status) bool {
		return slices.Contains(peerProblems(s, "worker"), "peer_one_way")
	})
	if got := peerProblems(s, "worker"); slices.Contains(got, "peer_down") {
		t.Errorf("%q", got)
	}
	if _, err := m.w2.Ask("peers", "worker"); err == nil {
		t.Error("`peers worker` says yes")
	}
	m.heals(t)
	waitPeer(t, m.w2, "worker", "up again", isIn(control.Up))
	waitPeer(t, m.w, "worker2", "up again", isIn(control.Up))
}

// A neighbour whose meshd stands still while its programs forward is silent: packets pass both ways. It
// is down once its pods are quiet as well.
func TestSilentNeighbour(t *testing.T) { eachEngine(t, nstest.Waiting, testSilentNeighbour) }

func testSilentNeighbour(t *testing.T) {
	m := newWorld(t).startAll(often(t))
	waitPeer(t, m.w2, "worker", "up", isIn(control.Up))
	waitPeer(t, m.w, "worker2", "up", isIn(control.Up)) // only then its programs send by themselves
	before := peerEvents(t, m.w2, "worker")
	pods := m.PodW.Command("ping", "-i", "0.2", "10.244.2.2")
	if err := pods.Start(); err != nil {
		t.Fatal(err)
	}
	quiet := func() {
		_ = pods.Process.Kill()
		_ = pods.Wait()
	}
	defer quiet()
	if err := syscall.Kill(m.w.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(m.w.PID(), syscall.SIGCONT) }()
	if engineOf(t) == "user" { // then packets of pods stand still, too
		waitPeer(t, m.w2, "worker", "down", isIn(control.Down))
		return
	}
	waitPeer(t, m.w2, "worker", "silent", isIn(control.Silent))
	waitStatus(t, m.w2, "the problem", func(s control.Status) bool {
		return slices.Contains(peerProblems(s, "worker"), "peer_silent")
	})
	for _, args := range [][]string{{"peers", "worker"}, {"wait", "peer:worker"}} {
		if _, err := m.w2.Ask(args...); err != nil {
			t.Errorf("%q: %v", args, err)
		}
	}
	if got := strings.TrimPrefix(peerEvents(t, m.w2, "worker"), before); strings.Contains(got, "peer_down") {
		t.Errorf("events: %s", got)
	}
	quiet()
	waitPeer(t, m.w2, "worker", "down", isIn(control.Down))
}
