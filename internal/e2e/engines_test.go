package e2e

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"maps"
	"math/rand/v2"
	"net"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/dataplane/udp"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/probe"
)

// engines are [dataplane] keys by the name of an engine.
var engines = map[string]string{
	"auto": "", // the best that the host has
	"user": "engine = \"user\"",
	"tcx":  "engine = \"kernel\"\nreceive = \"tcx\"",
	"xdp":  "engine = \"kernel\"\nreceive = \"xdp\"",
	"fou":  "engine = \"kernel\"\nreceive = \"fou\"",
}

// ways are the engines that tests take turns with: all that this kernel can have. Those with modules have one
// more, "fou".
var ways = []string{"user", "tcx", "xdp"}

// `make test-matrix` runs all tests on each engine.
var onlyEngine = flag.String("engine", "",
	"the engine of meshes that do not ask for one, and the only one of tests that have a turn for each: "+
		"user, tcx or xdp")

// enginesOfTests are the engines of running tests, by their names.
var enginesOfTests sync.Map

// eachEngine runs a test as a subtest for each engine, for what engines do not share.
func eachEngine(t *testing.T, d nstest.Demand, test func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	for _, engine := range ways {
		if *onlyEngine != "" && *onlyEngine != engine {
			continue
		}
		t.Run(engine, func(t *testing.T) {
			nstest.Share(t, d)
			enginesOfTests.Store(t.Name(), engine)
			test(t)
		})
	}
}

// engineOf returns the engine of a test: that of the innermost test around it that has one.
func engineOf(t testing.TB) string {
	for name := t.Name(); ; {
		if engine, ok := enginesOfTests.Load(name); ok {
			return engine.(string)
		}
		at := strings.LastIndex(name, "/")
		if at < 0 {
			return cmp.Or(*onlyEngine, "auto")
		}
		name = name[:at]
	}
}

// onEngine returns a file that asks for the engine of the test, unless it asks for one.
func onEngine(t testing.TB, doc string) string {
	keys := engines[engineOf(t)]
	switch {
	case keys == "" || strings.Contains(doc, "engine = "):
		return doc
	case strings.Contains(doc, "[dataplane]\n"):
		return strings.Replace(doc, "[dataplane]\n", "[dataplane]\n"+keys+"\n", 1)
	}
	return doc + "\n[dataplane]\n" + keys + "\n"
}

// byXDP tells whether hosts receive by XDP in this test. A veth with a program is polled on the
// CPU of whoever sent (veth_xmit in drivers/net/veth.c), so that packets of a flow pass each
// other in the CPUs' backlogs, also where no tunnel is. A card's queue is polled on one CPU:
// by XDP hosts and senders of a lab do as if they had one.
func byXDP(t testing.TB) bool { return engineOf(t) == "xdp" }

// steady runs f on a thread that stays on one CPU. A veth puts what it receives into the backlog of
// the CPU of whoever sent (veth_forward_skb, netif_rx), so what a sender sends before and after the
// scheduler has moved it may arrive in another order, whichever the engine, and without any.
func steady(f func() error) error {
	result := make(chan error, 1)
	go func() {
		defer close(result)    // also when f ends the goroutine, as t.FailNow does
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var may, one unix.CPUSet
		if err := unix.SchedGetaffinity(0, &may); err != nil {
			result <- err
			return
		}
		var cpus []int
		for cpu := 0; len(cpus) < may.Count(); cpu++ {
			if may.IsSet(cpu) {
				cpus = append(cpus, cpu)
			}
		}
		one.Set(cpus[rand.IntN(len(cpus))])
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			result <- err
			return
		}
		result <- f()
	}()
	return <-result
}

// settled waits until the daemons that run know of each other that they are meshd: packets
// that are on their way when the kernel engine learns of it may be overtaken.
func (w *world) settled() {
	w.t.Helper()
	var running []*nstest.Daemon
	for _, d := range w.daemons {
		if d.State() == "running" {
			running = append(running, d)
		}
	}
	for _, d := range running {
		waitStatus(w.t, d, "the others are known", func(s control.Status) bool {
			if s.Dataplane.Engine == "user" {
				return true
			}
			for _, p := range s.Peers {
				there := slices.ContainsFunc(running,
					func(o *nstest.Daemon) bool { return o != d && strings.HasSuffix(o.Host.Name, "-"+p.Name) })
				if there && p.ConfigMatch == nil {
					return false
				}
			}
			return true
		})
	}
}

// unchecked has datagrams of a socket sent as the kernel engine sends its own: without a checksum,
// or its programs leave them to user space, and with meshd's mark, or the guard of a host of the mesh
// drops them.
func unchecked(t *testing.T, conn *net.UDPConn) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NO_CHECK, 1),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(udp.Mark)))
	})
	if err := errors.Join(err, set); err != nil {
		t.Fatal(err)
	}
}

// The same packets are counted in the same units by every engine: those that pass, those that
// are lost, and why.
func TestEnginesCountTheSame(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	var want control.Status
	for _, engine := range ways {
		w := newWorld(t)
		unfiltered(t, w.Worker2)
		m := w.startAll(demoFile(t) + "[dataplane]\n" + engines[engine] + "\n[probe]\ninterval = \"200ms\"\n")
		known(t, m.w2, "worker")
		known(t, m.w, "worker2")
		for _, size := range []string{"0", "56", "1444", "4000"} {
			run(t, m.PodW2b, "ping", "-c", "5", "-i", "0.01", "-s", size, "10.244.1.2")
			run(t, m.PodW, "ping", "-c", "5", "-i", "0.01", "-s", size, "10.244.2.3")
		}
		run(t, m.Worker2.Namespace, "ping", "-c", "1", "10.244.1.0") // TUN to TUN
		if out, err := m.PodW2b.Run("ping", "-c", "1", "-W", "1", "10.244.77.1"); err == nil {
			t.Errorf("%s", out)
		}
		if out, err := m.PodW2b.Run("ping", "-c", "1", "-W", "1", "-t", "2", "10.244.1.2"); err == nil {
			t.Errorf("%s", out)
		}
		// From another node's pod.
		if err := rawSender(t, m.PodW2b, false)(udpPacket("10.244.0.2", "10.244.1.2", 7000, 64,
			"foreign")); err != nil {
			t.Fatal(err)
		}
		victim, liar := listen(t, m.PodW2b, "10.244.2.3:7000"), listen(t, m.Worker.Namespace, "172.18.0.4:0")
		unchecked(t, liar)
		for _, datagram := range [][]byte{
			udpPacket("10.244.0.2", "10.244.2.3", 7000, 62, "spoofed"), udpPacket("10.244.1.2", "10.244.0.2", 7000, 62,
				"not ours"),
			udpPacket("10.244.1.2", "10.244.2.3", 7000, 1, "expired"), []byte("malformed"), udpPacket("10.244.1.2",
				"10.244.2.3", 7000, 62, "good"),
		} {
			send(t, liar, "172.18.0.3:8285", datagram)
		}
		if payload, _ := receive(t, victim); string(payload) != "good" {
			t.Errorf("%q", payload)
		}

		// User space counts what the programs leave to it, in its own time.
		dropped := func(s control.Status) (n uint64) {
			for _, drops := range s.Totals.Drops {
				n += drops
			}
			return n
		}
		const drops = 7 // two that expire, an unassigned, a foreign, a spoofed, a wrong and a malformed one
		// Forty replies and requests of three sizes in one piece and of one in three, a reply of the TUN, and a
		// good one: what was written is counted a moment after a pod may have read it.
		const delivered = 3*10 + 3*10 + 1 + 1
		// Probes that this host forwards count as received, so they must not stand for what is awaited.
		probes := forwardedTo(t, m.w, "worker2") + forwardedTo(t, m.cp, "worker2")
		got := waitStatus(t, m.w2, "all packets are counted", func(s control.Status) bool {
			return dropped(s) >= drops && *s.Totals.RxPackets >= delivered+probes
		})
		if wanted := map[string]string{"user": "user"}[engine]; cmp.Or(wanted, "kernel") != got.Dataplane.Engine {
			t.Errorf("%+v", got.Dataplane)
		}
		if n := got.Totals.Unattributed["foreign_source"]; n != 1 {
			t.Errorf("%d packets with a foreign source: %v", n, got.Totals)
		}
		if engine != "user" && got.Dataplane.Handed["no_route"] == 0 {
			t.Errorf("handed %v", got.Dataplane.Handed)
		}
		if engine == "user" {
			want = got
			continue
		}
		totals := want.Totals
		for i, p := range got.Peers {
			q := want.Peers[i]
			// Now and then the peer asks by a probe that this host forwards, which counts as received.
			if n := int64(*p.RxPackets) - int64(*q.RxPackets); max(n, -n) <= 20 {
				bytes := n * int64(packet.EchoHeaders(false)+probe.PayloadSize)
				q.RxPackets, q.RxBytes = p.RxPackets, new(uint64(int64(*q.RxBytes)+bytes))
				totals.RxPackets = new(*totals.RxPackets + uint64(n))
				totals.RxBytes = new(*totals.RxBytes + uint64(bytes))
			}
			if *p.RxPackets != *q.RxPackets || *p.RxBytes != *q.RxBytes || *p.TxPackets != *q.TxPackets ||
				*p.TxBytes != *q.TxBytes || !maps.Equal(p.Drops, q.Drops) {
				t.Errorf("%s, peer %s:\n%+v, but with the user engine\n%+v", engine, p.Name, p, q)
			}
		}
		if a, b := got.Totals, totals; !reflect.DeepEqual(a, b) {
			t.Errorf("%s:\n%+v, but with the user engine\n%+v", engine, a, b)
		}
	}
}

// Without a word about it in the file the engine is the best that the host has, and it says
// which and why.
func TestEngineByItself(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	m := newWorld(t).startAll(demoFile(t) + "[dataplane]\nengine = \"auto\"\n")
	s := status(t, m.w2)
	t.Logf("engine %s: %s", s.Dataplane.Engine, s.Dataplane.Reason)
	if (s.Dataplane.Engine == "kernel") != (s.Dataplane.Reason == "") {
		t.Errorf("%+v", s.Dataplane)
	}
	var asked control.Status
	if out, err := m.w2.Ask("status", "--json"); err != nil || json.Unmarshal([]byte(out), &asked) != nil ||
		!reflect.DeepEqual(asked.Config, s.Config) || !reflect.DeepEqual(asked.Network, s.Network) {
		t.Errorf("`meshd status --json`: %v\n%s", err, out)
	}
	if text, err := m.w2.Ask("status"); err != nil || !strings.Contains(text, "\nengine   "+s.Dataplane.Engine) {
		t.Errorf("%v\n%s", err, text)
	}
	known(t, m.w2, "worker")
	run(t, m.PodW2b, "ping", "-c", "1", "10.244.1.2")
}

// captureTUN is capture on the TUN of a daemon's host; from now on it sees all that passes,
// whichever engine forwards.
func captureTUN(t *testing.T, d *nstest.Daemon) *nstest.Capture {
	t.Helper()
	c := capture(t, d.Host.Namespace, "mesh0")
	waitStatus(t, d, "the capture is known",
		func(s control.Status) bool { return s.Dataplane.Engine == "user" || s.Dataplane.Captured })
	return c
}
