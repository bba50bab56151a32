package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// key runs `meshd key` for a host's key, and returns the key that it prints.
func (s *sealed) key(h *nstest.Host, args ...string) string {
	s.t.Helper()
	args = append([]string{"key", "--private-key", filepath.Join(s.keys[h], "private.key")}, args...)
	out, err := exec.Command(meshd, args...).Output()
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// apply puts a file in force on hosts.
func (s *sealed) apply(doc string, all ...*nstest.Daemon) {
	s.t.Helper()
	for _, d := range all {
		if err := os.WriteFile(d.Config, []byte(doc), 0o644); err != nil {
			s.t.Fatal(err)
		}
		if words, code := ask(d, "reload"); code != 0 {
			s.t.Fatalf("exit %d: %s", code, words)
		}
	}
}

// gapSince returns how many packets are missing among those that arrived since a time, and the longest time
// without one.
func (s *timed) gapSince(at time.Time) (lost uint64, gap time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.arrivals[1:] {
		if was, is := s.arrivals[i], s.arrivals[i+1]; is.at.After(at) {
			lost, gap = lost+is.number-was.number-1, max(gap, is.at.Sub(was.at))
		}
	}
	return lost, gap
}

// last returns when the last packet has arrived.
func (s *timed) last() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.arrivals[len(s.arrivals)-1].at
}

// startTalk sends numbers there and back over one connection, until the returned function is called.
func startTalk(t *testing.T, from, to *nstest.Namespace, address string) (finish func()) {
	t.Helper()
	s, err := dialStream(from, to, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.deadline(3 * time.Minute); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan error)
	said := uint64(0)
	go func() {
		for ; ; said++ {
			select {
			case <-stop:
				done <- nil
				return
			case <-time.After(5 * time.Millisecond):
			}
			const size = 8 << 10
			for _, ends := range [][2]net.Conn{{s.Conn, s.server}, {s.server, s.Conn}} {
				if err := errors.Join(sendStream(ends[0], said, size), checkStream(ends[1], said, size)); err != nil {
					done <- err
					return
				}
			}
		}
	}()
	return func() {
		t.Helper()
		close(stop)
		if err := <-done; err != nil || said == 0 {
			t.Errorf("the connection has ended after %d rounds: %v", said, err)
		}
	}
}

// pingsArrive sends pings from one pod to another, and tells whether some of them arrive, whatever becomes of
// the answers.
func pingsArrive(t testing.TB, from, to *nstest.Namespace, address string) bool {
	t.Helper()
	c := capture(t, to, "eth0")
	_ = from.Command("ping", "-c", "5", "-i", "0.05", "-W", "1", address).Run() // fails without answers
	_, err := c.Next(100*time.Millisecond, isEcho)
	return err == nil
}

// isEcho tells whether a frame has an echo request.
func isEcho(f []byte) bool {
	const ethernet, ip, icmp, request = 14, 20, 1, 8
	return len(f) > ethernet+ip && f[12] == 8 && f[13] == 0 && f[ethernet+9] == icmp && f[ethernet+ip] == request
}

// usedKeys returns the key of a peer that is in use, and its next one.
func usedKeys(st control.Status, peer string) (used, next string) {
	for _, p := range st.Peers {
		if p.Name == peer && p.WireGuard != nil {
			used, next = p.WireGuard.PublicKey, p.WireGuard.NextPublicKey
		}
	}
	return used, next
}

// A node changes its key while packets flow: connections live, and what is lost is lost between the first
// handshake with the new key and the moment when the others have seen it. The old key opens nothing then.
func TestKeyRotation(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	s := newSealed(t)
	s.binary = shipped
	doc, host := s.file(), s.Worker2
	all := s.runAll(doc)
	d, others := all[2], all[:2]
	name := status(t, d).Node
	out := startTimed(t, s.PodW2b, s.PodW, "10.244.2.3:7000", "10.244.1.2:7000", 2000)
	in := startTimed(t, s.PodW, s.PodW2a, "10.244.1.2:7001", "10.244.2.2:7001", 2000)
	finish := startTalk(t, s.PodW, s.PodW2b, "10.244.2.3:7002")
	bystander := func() (at time.Time) {
		t.Helper()
		name := status(t, all[1]).Node
		waitStatus(t, all[0], "two other nodes have a session", func(st control.Status) bool {
			w := peer(t, st, name).WireGuard
			if w != nil && w.LatestHandshake != nil {
				at = *w.LatestHandshake
			}
			return !at.IsZero()
		})
		return at
	}
	session := bystander()

	was, full := time.Now(), s.overflowsOf("meshd-wg")
	before := full // a queue that is full in one step may show in what arrives in the next one
	report := func(step string) {
		t.Helper()
		s.arrive(out, step)
		s.arrive(in, step)
		missed := s.overflowsOf("meshd-wg").since(before)
		for i, stream := range []*timed{out, in} {
			lost, gap := stream.gapSince(was)
			t.Logf("%s: stream %d lost %d packets, %d found a full queue, gap %v", step, i, lost, missed[i], gap)
			if lost > missed[i] && step != "taken" {
				t.Errorf("%s: stream %d lost %d packets, and %d found a full queue", step, i, lost, missed[i])
			}
		}
		was, before, full = time.Now(), full, s.overflowsOf("meshd-wg")
	}

	next := s.key(host, "--next")
	if again := s.key(host, "--next", "--public"); again != next || next == s.public[host] {
		t.Fatalf("the next key of %s is %s, then %s", s.public[host], next, again)
	}
	line := fmt.Sprintf("public_key = %q\n", s.public[host])
	s.apply(strings.Replace(doc, line, line+"next_"+strings.Replace(line, s.public[host], next, 1), 1), all...)
	for _, o := range others {
		if used, listed := usedKeys(status(t, o), name); used != s.public[host] || listed != next {
			t.Errorf("before the change %s uses %s and %s, want %s and %s", o.Host.Name, used, listed, s.public[host],
				next)
		}
	}
	report("listed")

	if got := s.key(host, "--activate"); got != next {
		t.Fatalf("activated %s, want %s", got, next)
	}
	for _, one := range all {
		if err := one.WaitEvent("key_rotated"); err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range others {
		waitStatus(t, o, "the new key is in use", func(st control.Status) bool {
			used, _ := usedKeys(st, name)
			return used == next
		})
	}
	waitStatus(t, d, "the host has the new key", func(st control.Status) bool {
		return st.WireGuard != nil && st.WireGuard.PublicKey == next
	})
	report("taken")

	doc = strings.Replace(doc, s.public[host], next, 1)
	s.apply(doc, all...)
	for _, o := range others {
		if used, listed := usedKeys(status(t, o), name); used != next || listed != "" {
			t.Errorf("after the change %s uses %s and %q, want %s", o.Host.Name, used, listed, next)
		}
		peers, err := o.Host.WG("show", "meshd-wg", "peers")
		if err != nil || strings.Contains(peers, s.public[host]) || !strings.Contains(peers, next) {
			t.Errorf("peers of %s, %v:\n%s", o.Host.Name, err, peers)
		}
	}
	report("done")
	finish()
	// Where both call at once, one of them may call again: 5 s later, and up to a third of a second
	// (RekeyTimeout of wireguard-go). That is no session that the change of a key has cost.
	again := func(d time.Duration) bool { return d >= 5*time.Second && d < 6*time.Second }
	if after := bystander(); !after.Equal(session) && !again(after.Sub(session)) {
		t.Errorf("the session of two other nodes was of %v, and is of %v", session, after)
	}
	out.finish()
	in.finish()

	if !pingsArrive(t, s.PodW2b, s.PodW, "10.244.1.2") {
		t.Error("no ping arrives with the new key")
	}
	d.Kill()
	s.oldKeyIsStrange(host)
	s.run(host, doc)
	s.revoked(doc, next, others)
}

// revoked has others forget worker2, which goes on sending: a node that is not in the file any more is a
// stranger at once.
func (s *sealed) revoked(doc, key string, others []*nstest.Daemon) {
	s.t.Helper()
	t := s.t.(*testing.T)
	// On its way to the pod, or to the clock that its arrival is compared with.
	const late = 500 * time.Millisecond
	stream := startTimed(t, s.PodW2b, s.PodW, "10.244.2.3:7003", "10.244.1.2:7003", 2000)
	s.arrive(stream, "the start")
	nodes := slices.DeleteFunc(strings.Split(doc, "[[node]]"),
		func(node string) bool { return strings.Contains(node, key) })
	s.apply(strings.Join(nodes, "[[node]]"), others...)
	was := time.Now()
	if pingsArrive(t, s.PodW2b, s.PodW, "10.244.1.2") { // takes a second longer than that
		t.Error("pings of a removed node arrive")
	}
	if n := stream.since(was.Add(late)); n > 0 {
		t.Errorf("%d packets of a removed node have arrived", n)
	}
	t.Logf("the last packet of the removed node came %v after the reload", stream.last().Sub(was))
	s.apply(doc, others...) // which the end of the stream needs
	s.arrive(stream, "its return")
	stream.finish()
}

// oldKeyIsStrange checks that whoever has the old key of worker2, on which no meshd runs, is a stranger.
func (s *sealed) oldKeyIsStrange(host *nstest.Host) {
	s.t.Helper()
	for _, test := range []struct {
		file    string
		arrives bool
	}{{"private.key.old", false}, {"private.key", true}} {
		file := filepath.Join(s.keys[host], test.file)
		if text, err := host.WG("set", "meshd-wg", "private-key", file); err != nil {
			s.t.Fatalf("%v: %s", err, text)
		}
		if pingsArrive(s.t, s.PodW2b, s.PodW, "10.244.1.2") != test.arrives {
			s.t.Errorf("with %s, pings arrive: %v", test.file, !test.arrives)
		}
	}
}
