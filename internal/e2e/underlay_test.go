package e2e

import (
	"fmt"
	"strings"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// bareUnderlay joins worker and worker2 by interfaces without Ethernet headers, with the addresses 10.99.0.4
// and 10.99.0.3.
func (w *world) bareUnderlay(t *testing.T) {
	t.Helper()
	relay, err := nstest.NewRelay(w.Worker.Namespace, w.Worker2.Namespace, "l3")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := relay.Close(); err != nil {
			t.Error(err)
		}
	})
	for i, h := range []*nstest.Host{w.Worker2, w.Worker} {
		if err := h.IP("link set l3 up mtu 1500", fmt.Sprintf("addr add 10.99.0.%d/24 dev l3", 3+i)); err != nil {
			t.Fatal(err)
		}
	}
}

// startBoth starts meshd on worker and worker2, and waits until they know each other.
func (w *world) startBoth(t *testing.T, doc string) (d, d2 *nstest.Daemon) {
	t.Helper()
	file := w.write(doc)
	d, d2 = w.start(w.Worker, file), w.start(w.Worker2, file)
	for _, one := range []*nstest.Daemon{d, d2} {
		if err := one.WaitReady(); err != nil {
			t.Fatal(err)
		}
	}
	known(t, d, "worker2")
	known(t, d2, "worker")
	return d, d2
}

// byTUN returns how many packets the user engine of a daemon has moved between the TUN and the underlay.
func byTUN(t *testing.T, d *nstest.Daemon) uint64 {
	t.Helper()
	calls := status(t, d).Dataplane.Calls
	return calls["tun_read"].Packets + calls["tun_write"].Packets
}

// Packets of pods pass by each kind of underlay, and programs move them: by one without Ethernet headers, as
// those of VPNs, and by IPv6 although the host forwards none. What programs move in both directions goes
// on while meshd is stopped. Of IPv4 in IPv6, tcx leaves what comes in to user space.
func TestUnderlays(t *testing.T) {
	eachEngine(t, nstest.Waiting, func(t *testing.T) {
		for _, u := range []struct {
			name, addresses string
			prepare         func(t *testing.T, w *world)
			moved           map[string]int // at most, by user space, of 20 packets each way; 0: all
		}{
			{"without Ethernet", "10.99.0.", func(t *testing.T, w *world) { w.bareUnderlay(t) },
				map[string]int{"tcx": 9, "xdp": 9}},
			{"IPv6 without forwarding", "2001:db8::", func(t *testing.T, w *world) {
				for _, h := range w.Hosts() {
					if err := h.Sysctl("ipv6.conf.all.forwarding", "0"); err != nil {
						t.Fatal(err)
					}
				}
			}, map[string]int{"tcx": 29, "xdp": 9}},
		} {
			t.Run(u.name, func(t *testing.T) {
				w := newWorldMTU(t, 1452)
				u.prepare(t, w)
				d, d2 := w.startBoth(t, strings.ReplaceAll(demoFile(t), "172.18.0.", u.addresses))
				before, most := byTUN(t, d2), u.moved[engineOf(t)]
				ping := func() (string, error) { return w.PodW2b.Run("ping", "-c", "20", "-i", "0.02", "10.244.1.2") }
				out, err := ping()
				if err != nil {
					t.Fatal(err, out)
				}
				var answers uint64 // a busy machine may lose one at the relay of the test
				if _, summary, ok := strings.Cut(out, "transmitted, "); ok {
					fmt.Sscan(summary, &answers)
				}
				s, moved := status(t, d2), int(byTUN(t, d2)-before)
				if p := peer(t, s, "worker"); answers < 10 || *p.RxPackets < answers || *p.TxPackets < answers {
					t.Errorf("%d answers, and %d packets in and %d out", answers, *p.RxPackets, *p.TxPackets)
				}
				if (moved <= most) != (most > 0) || s.Dataplane.Handed["no_underlay_route"] > 0 {
					t.Errorf("user space has moved %d packets, programs take them in by %s and left %v to it",
						moved, s.Dataplane.Receive, s.Dataplane.Handed)
				}
				if err := nstest.StopAll(d, d2); err != nil {
					t.Fatal(err)
				}
				if out, err := ping(); (err == nil) != (most > 0 && most < 20) {
					t.Errorf("while meshd is stopped: %v\n%s", err, out)
				}
			})
		}
	})
}

// Where the file leaves the choice to meshd, the socket takes in what comes by a TUN, which is faster, and
// programs do while meshd is stopped.
func TestTUNUnderlayIsSpared(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	w.bareUnderlay(t)
	doc := strings.ReplaceAll(demoFile(t), "172.18.0.", "10.99.0.") + "[dataplane]\nengine = \"auto\"\n"
	ping := func() { t.Helper(); run(t, w.PodW2b, "ping", "-c", "5", "-i", "0.02", "-W", "2", "10.244.1.2") }
	for range 2 {
		d, d2 := w.startBoth(t, doc)
		s := waitStatus(t, d2, "the kernel engine", func(s control.Status) bool {
			return s.Dataplane.Engine == "kernel"
		})
		if s.Dataplane.Receive != "socket" || s.Dataplane.Reason == "" {
			t.Errorf("%+v", s.Dataplane)
		}
		ping()
		if n := status(t, d2).Dataplane.Calls["tun_write"].Packets; n < 5 {
			t.Errorf("user space has taken %d packets in", n)
		}
		if err := nstest.StopAll(d, d2); err != nil {
			t.Fatal(err)
		}
		ping()
	}
}
