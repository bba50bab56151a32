package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// received returns what an interface has received.
func received(t *testing.T, n *nstest.Namespace, device string) (packets, bytes uint64) {
	t.Helper()
	var links []struct {
		Stats struct {
			RX struct{ Packets, Bytes uint64 }
		} `json:"stats64"`
	}
	if err := json.Unmarshal([]byte(run(t, n, "ip", "-s", "-j", "link", "show", device)), &links); err != nil ||
		len(links) != 1 {
		t.Fatalf("%v, %+v", err, links)
	}
	return links[0].Stats.RX.Packets, links[0].Stats.RX.Bytes
}

// merged is how many bytes a packet has at least, on average, where the kernel merges TCP.
const merged = 5000

// perPacket sends TCP from a pod to one on a host, and returns how many bytes a packet has that reaches the
// pod, on average, and how many of its packets came out of order.
func perPacket(t *testing.T, from, to *nstest.Namespace, address string) (bytes, disordered uint64) {
	t.Helper()
	const size = 8 << 20
	before, _ := received(t, to, "eth0")
	behind := outOfOrder(t, to)
	transfer(t, from, to, address, size)
	after, _ := received(t, to, "eth0")
	return size / (after - before), outOfOrder(t, to) - behind
}

// outOfOrder returns how many packets of TCP had to wait for others that they had overtaken.
func outOfOrder(t *testing.T, n *nstest.Namespace) (packets uint64) {
	t.Helper()
	lines := strings.Split(run(t, n, "cat", "/proc/net/netstat"), "\n")
	at := slices.Index(strings.Fields(lines[0]), "TCPOFOQueue")
	if _, err := fmt.Sscan(strings.Fields(lines[1])[max(at, 0)], &packets); err != nil || at < 0 {
		t.Fatalf("%v: %s", err, lines[:2])
	}
	return packets
}

// TCP that the tc program takes from a wire reaches pods behind a bridge as superpackets, by a pair of
// interfaces that is always as it should be, while meshd runs and while it does not.
func TestKernelEngineMerges(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	w := newWorld(t)
	if err := w.Lab.LikeAWire(w.Hosts()...); err != nil {
		t.Fatal(err)
	}
	// A card makes new packets of what comes by the wire. A veth hands those of the sender on, and a bridge on
	// Linux 6.1 cuts what was made of them, since they still say that they are in a tunnel, unless the sender's
	// kernel has finished their checksums.
	run(t, w.Worker2.Namespace, "ethtool", "-K", "eth0", "tx", "off")
	m := w.startAll(engineFile(t, "kernel", "tcx"))
	known(t, m.w2, "worker")
	known(t, m.w, "worker2")
	const single = 1600 // bytes at most: the pod's packets are of 1472 bytes
	check := func(when string) {
		t.Helper()
		if n, _ := perPacket(t, w.PodW2b, w.PodW, "10.244.1.2:9000"); n < merged {
			t.Errorf("%s: %d bytes a packet", when, n)
		}
	}
	use := func(receive string) {
		t.Helper()
		save(t, m.w, engineFile(t, "kernel", receive))
		if r, err := client(t, m.w).Reload(t.Context()); err != nil || !r.Reload.OK {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	pairs := func() int {
		return strings.Count(run(t, w.Worker.Namespace, "ip", "link"), ": meshd-gro")
	}
	check("at first")

	m.w.Kill()
	check("without a daemon")
	m.w = w.again(m.w)
	check("with the next one")

	for _, damage := range []struct{ does, to string }{{"link del meshd-gro0", "meshd-gro0"},
		{"link set meshd-gro1 down", "meshd-gro1"}} {
		skip := len(m.w.Records())
		if err := w.Worker.IP(damage.does); err != nil {
			t.Fatal(err)
		}
		if _, err := m.w.WaitRecord(skip, "repair of "+damage.to, func(r nstest.Record) bool {
			return r.Event == "repaired" && strings.Contains(r.Fields["what"], damage.to)
		}); err != nil {
			t.Fatal(err)
		}
		check(damage.does)
	}

	use("socket")
	if n := pairs(); n != 0 {
		t.Errorf("%d of the pair with receive = socket", n)
	}
	if err := w.Worker.IP("link add meshd-gro0 type bridge"); err != nil {
		t.Fatal(err)
	}
	use("tcx")
	if n, _ := perPacket(t, w.PodW2b, w.PodW, "10.244.1.2:9000"); n > single {
		t.Errorf("without the pair: %d bytes a packet", n)
	}
	s := status(t, m.w)
	if !only(s, "unmerged") {
		t.Fatalf("%+v", s.Health)
	}
	contains(t, s.Health.Problems[0].Remedy, "ip link del meshd-gro0")
	if err := w.Worker.IP("link del meshd-gro0"); err != nil {
		t.Fatal(err)
	}
	waitStatus(t, m.w, "no warning", func(s control.Status) bool {
		return !slices.Contains(problems(s), "unmerged")
	})
	check("when the name is free")

	if _, err := m.w.Stop(); err != nil {
		t.Error(err)
	}
	check("after the end")
	if _, err := m.w.Ask("cleanup"); err != nil || pairs() != 0 {
		t.Errorf("%v, %d of the pair after cleanup", err, pairs())
	}
}

// Superpackets that come whole, since hosts share memory, need no merging and do not go
// the long way.
func TestKernelEngineTakesSuperpackets(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	w := newWorld(t)
	m := w.startAll(engineFile(t, "kernel", "tcx"))
	known(t, m.w2, "worker")
	known(t, m.w, "worker2")
	transfer(t, w.PodW2b, w.PodW, "10.244.1.2:9000", 64<<20)
	_, whole := received(t, w.Worker.Namespace, "eth0")
	if _, long := received(t, w.Worker.Namespace, "meshd-gro1"); whole < 64<<20 || long > 1<<20 {
		t.Errorf("%d of %d bytes went by the merger", long, whole)
	}
}
