package e2e

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/nstest"
)

// fast makes the world's daemons those that users have.
func (w *world) fast() *world {
	w.binary = shipped
	return w
}

// A thousand reloads that add and remove other peers lose not one packet of
// 20,000 a second in each direction, and none overtakes another.
func TestReloadsLoseNothing(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	w := newWorld(t).fast()
	d, _ := w.own(w.Worker2, demoFile(t)), w.own(w.Worker, demoFile(t))
	client := client(t, d)
	docs := []string{demoFile(t) + fourth, demoFile(t)}
	// A TUN holds 500 packets, 25 ms of this. Where other programs keep meshd from the CPU for
	// longer, it overflows without a reload, too; then fewer packets a second are sent.
	generation := 1
	for _, try := range []struct{ reloads, rate int }{{1000, 20000}, {250, 5000}, {250, 1000}} {
		before := w.overflows()
		traffic := w.newTraffic(try.rate)
		began := time.Now()
		for i := range try.reloads {
			save(t, d, docs[i%2])
			if r, err := client.Reload(t.Context()); err != nil || !r.Reload.OK {
				t.Fatalf("reload %d: %+v, %v", i, r, err)
			}
			generation++
			// The next try has to prove it anyway. An even number leaves the first file in force.
			if i%50 == 49 && w.overflows() != before {
				break
			}
		}
		t.Logf("%d of %d reloads in %v", generation-1, try.reloads, time.Since(began).Round(time.Millisecond))
		lost, overflows := traffic.finish(), w.overflows().since(before)
		if s := status(t, d); s.Config.Generation != generation || len(s.Peers) != 2 {
			t.Errorf("generation %d, not %d; %d peers", s.Config.Generation, generation, len(s.Peers))
		}
		if lost != overflows {
			t.Fatalf("lost %v, in the TUN's queues %v\n%+v", lost, overflows, status(t, d).Totals)
		}
		if lost == [2]uint64{} {
			return
		}
	}
	t.Error("TUNs overflow whatever is sent: this machine is too busy to tell")
}

// overflows is what the kernel dropped because the TUN's queue was full.
type overflows [2]uint64

// overflows returns them for worker2 and worker.
func (w *world) overflows() overflows { return w.overflowsOf("mesh0") }

// overflowsOf is overflows for an interface.
func (w *world) overflowsOf(device string) (o overflows) {
	w.t.Helper()
	for i, h := range []*nstest.Host{w.Worker2, w.Worker} {
		var links []struct {
			Stats64 struct {
				Tx struct{ Dropped uint64 }
			}
		}
		if err := json.Unmarshal([]byte(run(w.t, h.Namespace, "ip", "-s", "-j", "link", "show", device)),
			&links); err != nil {
			w.t.Fatal(err)
		}
		o[i] = links[0].Stats64.Tx.Dropped
	}
	return o
}

func (o overflows) since(before overflows) [2]uint64 {
	return [2]uint64{o[0] - before[0], o[1] - before[1]}
}

// swapped gives control-plane and worker each other's subnet.
var swapped = strings.NewReplacer(`"10.244.0.0/24"`, `"10.244.1.0/24"`, `"10.244.1.0/24"`, `"10.244.0.0/24"`)

// A subnet that moves to another node moves at one packet boundary: up to it all
// packets go one way, from then on all go the other.
func TestChangedPeerMovesAtOnce(t *testing.T) {
	eachEngine(t, nstest.Loaded, testChangedPeerMovesAtOnce)
}

func testChangedPeerMovesAtOnce(t *testing.T) {
	w := newWorld(t).fast()
	if err := w.Lab.LikeAWire(w.Worker2); err != nil { // packets, not superpackets
		t.Fatal(err)
	}
	d := w.own(w.Worker2, demoFile(t))
	wire := capture(t, w.Worker2.Namespace, "eth0")
	moved := swapped.Replace(demoFile(t))
	stop, ended := make(chan struct{}), make(chan error, 1)
	f := newFlow(t, w.PodW2b, w.PodW, "10.244.2.3:7000", "10.244.1.2:7000")
	go func() { ended <- steady(func() error { return f.send(5000, stop) }) }()

	// The number of the next packet on the wire, and the host it goes to.
	read := func() (uint64, byte) {
		const outer, inner = 14 + 28, 28
		frame := next(t, wire, "a numbered packet", func(b []byte) bool {
			return len(b) == outer+inner+64 && string(b[30:33]) == "\xac\x12\x00"
		})
		return binary.BigEndian.Uint64(frame[outer+inner:]), frame[33]
	}
	for i := uint64(0); i < 1000; i++ {
		if number, to := read(); number != i || to != 4 {
			t.Fatalf("packet %d went to .%d as number %d", number, to, i)
		}
	}
	save(t, d, moved)
	at, to := uint64(0), byte(4)
	for i := uint64(1000); at == 0 || i < at+1000; i++ {
		number, host := read()
		if number != i {
			t.Fatalf("packet %d was number %d on the wire", number, i)
		}
		if host != to {
			if at != 0 || host != 2 {
				t.Fatalf("packet %d went to .%d", i, host)
			}
			at, to = i, host
		}
	}
	t.Logf("moved at packet %d", at)
	f.over <- nil
	close(stop)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// service lets a service manager start a daemon and waits until it is ready.
func (w *world) service(s *nstest.Service, h *nstest.Host, file string) *nstest.Daemon {
	w.t.Helper()
	skip := len(s.Heard())
	d := w.startService(s, h, file)
	if _, err := s.Wait(skip, "READY=1"); err != nil {
		w.t.Fatal(errors.Join(err, d.WaitReady()))
	}
	return d
}

func (w *world) manager(h *nstest.Host, watchdog time.Duration) *nstest.Service {
	w.t.Helper()
	s, err := nstest.NewService(w.dir, h.Name, watchdog)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := s.Close(); err != nil {
			w.t.Error(err)
		}
	})
	return s
}

// Restarted by a service manager that keeps descriptors, as systemd does for
// `systemctl restart` and a package's upgrade, meshd loses nothing: what comes
// meanwhile waits in the kernel.
func TestRestartLosesNothing(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	const restarts, rate = 10, 5000
	w := newWorld(t).fast()
	file := w.write(demoFile(t) + "[dataplane]\nqueues = 2\n")
	far := w.start(w.Worker, file)
	if err := far.WaitReady(); err != nil {
		t.Fatal(err)
	}
	s := w.manager(w.Worker2, 0)
	d := w.service(s, w.Worker2, file)
	want := []string{"tun-0", "tun-1", "udp-0", "udp-1"}
	before := w.overflows()
	traffic := w.newTraffic(rate)
	for range restarts {
		if got := s.Stored(); !slices.Equal(got, want) {
			t.Fatalf("kept %q", got)
		}
		if _, err := d.Stop(); err != nil {
			t.Fatal(err)
		}
		d = w.service(s, w.Worker2, file)
		waitEvents(t, d, 1, "adopted", "sockets", "2", "queues", "2")
	}
	// A TUN's queue holds 100 ms of this.
	if lost, overflows := traffic.finish(), w.overflows().since(before); lost != overflows {
		t.Errorf("lost %v, in the TUN's queues %v\n%+v\n%+v", lost, overflows, status(t, d).Totals,
			status(t, far).Totals)
	}
	if s := status(t, d); len(problems(s)) != 0 || s.Network.Repairs != 0 {
		t.Errorf("%q, %d repairs", s.Warnings, s.Network.Repairs)
	}
}

// What was left and does not fit any more is not used, and not kept: a queue that
// nobody reads would swallow packets.
func TestLeftDescriptorsThatDoNotFit(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	s := w.manager(w.Worker2, 0)
	file := w.write(demoFile(t) + "[dataplane]\nqueues = 3\n")
	d := w.service(s, w.Worker2, file)
	for _, step := range []struct {
		doc             string
		sockets, queues string // that are taken over
		kept            []string
	}{
		{strings.Replace(demoFile(t), "[network]\n", "[network]\nport = 9999\n", 1), "0", "1", []string{"tun-0",
			"udp-0"}},
		// With the interface deleted meanwhile: that of another name has its routes now.
		{strings.Replace(demoFile(t), "[network]\n", "[network]\ninterface = \"other0\"\n", 1), "0", "0",
			[]string{"tun-0", "udp-0"}},
		{strings.Replace(demoFile(t), "[network]\n", "[dataplane]\nqueues = 2\n[network]\ninterface = \"other0\"\n",
			1), "1", "1", []string{"tun-0", "tun-1", "udp-0", "udp-1"}},
	} {
		if _, err := d.Stop(); err != nil {
			t.Fatal(err)
		}
		if step.queues == "0" {
			if err := w.Worker2.IP("link del mesh0"); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(file, []byte(onEngine(t, step.doc)), 0o644); err != nil {
			t.Fatal(err)
		}
		d = w.service(s, w.Worker2, file)
		waitEvents(t, d, 1, "adopted", "sockets", step.sockets, "queues", step.queues)
		if got := s.Stored(); !slices.Equal(got, step.kept) {
			t.Errorf("kept %q, want %q", got, step.kept)
		}
	}
}

// Killed and started again without a service manager, nothing leaves in the clear
// meanwhile, and packets flow again.
func TestKilledLeaksNothing(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	w := newWorld(t).fast()
	far := w.own(w.Worker, demoFile(t))
	d := w.own(w.Worker2, demoFile(t))
	// Pods' packets that miss the mesh would go this way.
	if err := w.Worker2.IP("route add default via 172.18.0.1"); err != nil {
		t.Fatal(err)
	}
	run(t, w.Worker2.Namespace, "nft",
		`add table ip seen; add chain ip seen out { type filter hook postrouting priority 300; };
		add counter ip seen leaks; add rule ip seen out oifname "eth0" ip daddr 10.244.0.0/16 counter name leaks`)
	traffic := w.newTraffic(5000)
	for range 5 {
		d.Kill()
		contains(t, run(t, w.Worker2.Namespace, "ip", "route", "get", "10.244.1.2"), "dev mesh0")
		d = w.start(w.Worker2, d.Config)
		if err := d.WaitReady(); err != nil {
			t.Fatal(err)
		}
		run(t, w.PodW2b, "ping", "-c", "1", "-W", "2", "10.244.1.2")
	}
	lost := traffic.finish()
	switch kernel := status(t, d).Dataplane.Engine == "kernel"; {
	case kernel && lost != [2]uint64{}:
		t.Errorf("lost %v, though the programs stay", lost)
	case !kernel && (lost[0] == 0 || lost[1] == 0):
		t.Errorf("lost %v: nothing was in flight", lost)
	}
	contains(t, run(t, w.Worker2.Namespace, "nft", "list", "counter", "ip", "seen", "leaks"),
		"packets 0 bytes 0")
	if s := status(t, far); s.Totals.Drops["unknown_sender"]+s.Totals.Drops["spoofed_source"] != 0 {
		t.Errorf("%+v", s.Totals)
	}
}
