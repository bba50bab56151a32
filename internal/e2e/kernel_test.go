package e2e

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// engineFile is the demo's mesh with an engine; probes are often, since it is by them that
// a peer is known to be meshd.
func engineFile(t *testing.T, engine, receive string) string {
	t.Helper()
	return strings.Replace(demoFile(t), "[network]",
		"[probe]\ninterval = \"200ms\"\n[dataplane]\nengine = \""+engine+"\"\nreceive = \""+receive+"\"\n[network]",
		1)
}

// known waits until a daemon knows of a peer that it is meshd.
func known(t *testing.T, d *nstest.Daemon, name string) {
	t.Helper()
	waitPeer(t, d, name, "known as meshd", func(p control.Peer) bool { return p.ConfigMatch != nil })
}

// Hosts with the kernel engine, in each way to receive, and with segmentation offloads of
// the underlay on and off: content arrives as it was sent, by the programs alone.
func TestKernelEngine(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	for _, receive := range []string{"tcx", "xdp", "socket"} {
		for _, wire := range []string{"memory", "wire"} {
			t.Run(receive+"/"+wire, func(t *testing.T) {
				w := newWorld(t)
				if wire == "wire" {
					if err := w.Lab.LikeAWire(w.Hosts()...); err != nil {
						t.Fatal(err)
					}
				}
				m := w.startAll(engineFile(t, "kernel", receive))
				if s := status(t, m.w2); s.Dataplane.Engine != "kernel" || s.Dataplane.Receive != receive {
					t.Fatalf("%+v", s.Dataplane)
				}
				size := int64(128 << 20)
				if receive == "socket" && wire == "wire" { // one call for each packet, in a daemon that looks for races
					size = 64 << 20
				}
				known(t, m.w2, "worker")
				known(t, m.w, "worker2")
				contains(t, run(t, m.PodW2b, "ping", "-c", "3", "-i", "0.2", "10.244.1.2"), "ttl=60", " 0% packet loss")
				before := status(t, m.w2).Dataplane.Calls
				transfer(t, m.PodW2b, m.PodW, "10.244.1.2:9000", size)
				transfer(t, m.PodW, m.PodW2b, "10.244.2.3:9000", size)
				s := status(t, m.w2)
				if p := peer(t, s, "worker"); *p.TxBytes < uint64(size) || *p.RxBytes < uint64(size) {
					t.Errorf("%+v", p)
				}
				for reason, n := range s.Totals.Drops {
					if n != 0 {
						t.Errorf("%d drops of %s", n, reason)
					}
				}
				// What user space has sent and written meanwhile.
				if n := s.Dataplane.Calls["wire_write"].Packets - before["wire_write"].Packets; n > 100 {
					t.Errorf("user space sent %d packets", n)
				}
				if n := s.Dataplane.Calls["tun_write"].Packets - before["tun_write"].Packets; receive != "socket" &&
					n > 100 {
					t.Errorf("user space delivered %d packets", n)
				}
			})
		}
	}
}

// One host with the kernel engine, one with the user engine, one that runs the reference's
// plain loop.
func TestKernelEngineInMixedMesh(t *testing.T) {
	nstest.Share(t, nstest.Busy)
	for _, receive := range ways[1:] {
		t.Run(receive, func(t *testing.T) {
			w := newWorld(t)
			if err := w.Lab.LikeAWire(w.Hosts()...); err != nil {
				t.Fatal(err)
			}
			flannel(t, w.Worker, "10.244.1.0", "172.18.0.4",
				map[string]string{"10.244.0.0/24": "172.18.0.2", "10.244.2.0/24": "172.18.0.3"})
			k := w.own(w.Worker2, engineFile(t, "kernel", receive))
			u := w.own(w.ControlPlane, engineFile(t, "user", "auto"))
			known(t, k, "control-plane")
			known(t, u, "worker2")
			for _, way := range []struct {
				from, to *nstest.Namespace
				address  string
			}{{w.PodW2b, w.PodW, "10.244.1.2"}, {w.PodW, w.PodW2b, "10.244.2.3"}, {w.PodCP, w.PodW2b, "10.244.2.3"},
				{w.PodW2b, w.PodCP, "10.244.0.2"}} {
				contains(t, run(t, way.from, "ping", "-c", "2", "-i", "0.2", way.address), "ttl=60", " 0% packet loss")
				contains(t, run(t, way.from, "ping", "-c", "1", "-s", "4000", way.address), " 0% packet loss")
				transfer(t, way.from, way.to, way.address+":9000", 16<<20)
			}
			drops := status(t, k).Totals.Drops
			if drops["spoofed_source"]+drops["malformed"]+drops["wrong_destination"] != 0 {
				t.Errorf("%v", drops)
			}
		})
	}
}

// The engine changes while packets flow, both ways, again and again.
func TestKernelEngineLive(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	w := newWorld(t).fast()
	d := w.own(w.Worker2, engineFile(t, "user", "tcx"))
	w.own(w.Worker, engineFile(t, "kernel", "xdp"))
	known(t, d, "worker")
	before := w.overflows()
	traffic := w.newTrafficOf(2000, true)
	for i := range 20 {
		engine := []string{"kernel", "user"}[i%2]
		save(t, d, engineFile(t, engine, []string{"tcx", "xdp"}[i/2%2]))
		if r, err := client(t, d).Reload(t.Context()); err != nil || !r.Reload.OK {
			t.Fatalf("%+v, %v", r, err)
		}
		if got := status(t, d).Dataplane.Engine; got != engine {
			t.Fatalf("engine %q", got)
		}
		run(t, w.PodW2b, "ping", "-c", "1", "-W", "2", "10.244.1.2")
	}
	if lost, overflows := traffic.finish(), w.overflows().since(before); lost != overflows {
		t.Errorf("lost %v, in the TUN's queues %v\n%+v", lost, overflows, status(t, d).Totals)
	}
}

// Packets flow on while no meshd runs, and through its start: killed, stopped, and begun
// again, nothing is lost. What was pinned goes with `meshd cleanup`.
func TestKernelEngineOutlivesDaemon(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	for _, receive := range []string{"tcx", "xdp"} {
		t.Run(receive, func(t *testing.T) {
			w := newWorld(t).fast()
			m := w.startAll(engineFile(t, "kernel", receive))
			known(t, m.w2, "worker")
			known(t, m.w, "worker2")
			traffic := w.newTrafficOf(20000, true)
			for range 3 {
				m.w2.Kill()
				run(t, w.PodW2b, "ping", "-c", "3", "-i", "0.2", "10.244.1.2")
				m.w2 = w.again(m.w2)
				run(t, w.PodW2b, "ping", "-c", "3", "-i", "0.2", "10.244.1.2")
			}
			if _, err := m.w2.Stop(); err != nil {
				t.Error(err)
			}
			run(t, w.PodW2b, "ping", "-c", "3", "-i", "0.2", "10.244.1.2")
			m.w2 = w.again(m.w2)
			known(t, m.w2, "worker")
			if lost := traffic.finish(); lost != ([2]uint64{}) {
				t.Errorf("lost %v\n%+v", lost, status(t, m.w2))
			}

			if _, err := m.w2.Stop(); err != nil {
				t.Error(err)
			}
			before := w.Lab.Pins()
			if _, err := m.w2.Ask("cleanup"); err != nil {
				t.Error(err)
			}
			if after := w.Lab.Pins(); len(before) != 3 || len(after) != 2 {
				t.Errorf("pinned before %v, after %v", before, after)
			}
			if out, err := w.Worker2.Run("ip", "link", "show", "eth0"); err != nil || strings.Contains(out, "xdp") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// again starts a daemon that has ended.
func (w *world) again(d *nstest.Daemon) *nstest.Daemon {
	w.t.Helper()
	next := w.start(d.Host, d.Config)
	if err := next.WaitReady(); err != nil {
		w.t.Fatal(err)
	}
	return next
}

// Peers behind different interfaces of the underlay are all served by the programs.
func TestKernelEngineOnSeveralUnderlays(t *testing.T) {
	nstest.Share(t, nstest.Busy)
	for _, receive := range []string{"tcx", "xdp"} {
		t.Run(receive, func(t *testing.T) {
			w := newWorld(t)
			if err := w.Worker2.IP("link add eth1 type veth peer name eth1 netns "+w.ControlPlane.Name,
				"link set eth1 up", "route add 172.18.0.2/32 dev eth1 src 172.18.0.3"); err != nil {
				t.Fatal(err)
			}
			if err := w.ControlPlane.IP("link set eth1 up",
				"route add 172.18.0.3/32 dev eth1 src 172.18.0.2"); err != nil {
				t.Fatal(err)
			}
			if err := w.Lab.LikeAWire(w.Hosts()...); err != nil {
				t.Fatal(err)
			}
			m := w.startAll(engineFile(t, "kernel", receive))
			known(t, m.w2, "worker")
			known(t, m.w2, "control-plane")
			known(t, m.w, "worker2")
			known(t, m.cp, "worker2")
			before := status(t, m.w2).Dataplane.Calls
			bytes := map[string]uint64{}
			for _, device := range []string{"eth0", "eth1"} {
				_, bytes[device] = received(t, w.Worker2.Namespace, device)
			}
			const size = 16 << 20
			for _, way := range []struct {
				pod     *nstest.Namespace
				address string
			}{{w.PodW, "10.244.1.2"}, {w.PodCP, "10.244.0.2"}} {
				transfer(t, w.PodW2b, way.pod, way.address+":9000", size)
				transfer(t, way.pod, w.PodW2b, "10.244.2.3:9000", size)
			}
			for _, device := range []string{"eth0", "eth1"} {
				if _, n := received(t, w.Worker2.Namespace, device); n-bytes[device] < size {
					t.Errorf("%d bytes came by %s", n-bytes[device], device)
				}
			}
			s := status(t, m.w2)
			if s.Dataplane.Receive != receive {
				t.Errorf("%+v", s.Dataplane)
			}
			for _, kind := range []string{"wire_write", "tun_write"} {
				if n := s.Dataplane.Calls[kind].Packets - before[kind].Packets; n > 100 {
					t.Errorf("user space moved %d packets (%s)", n, kind)
				}
			}
		})
	}
}

// While no meshd runs the programs follow the underlay: a neighbour with another MAC
// address, a route that goes and comes back.
func TestKernelEngineFollowsUnderlay(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	m := w.startAll(engineFile(t, "kernel", "tcx"))
	known(t, m.w2, "worker")
	known(t, m.w, "worker2")
	m.w2.Kill()
	if err := w.Worker.IP("link set eth0 down", "link set eth0 address 02:00:00:00:77:01",
		"link set eth0 up"); err != nil {
		t.Fatal(err)
	}
	run(t, w.PodW2b, "ping", "-c", "1", "-w", "20", "10.244.1.2")
	if err := w.Worker2.IP("route del 172.18.0.0/16 dev eth0"); err != nil {
		t.Fatal(err)
	}
	if out, err := w.PodW2b.Run("ping", "-c", "1", "-W", "1", "10.244.1.2"); err == nil {
		t.Errorf("without a route: %s", out)
	}
	if err := w.Worker2.IP("route add 172.18.0.0/16 dev eth0"); err != nil {
		t.Fatal(err)
	}
	run(t, w.PodW2b, "ping", "-c", "1", "-w", "5", "10.244.1.2")
	again := w.again(m.w2)
	known(t, again, "worker")
	run(t, w.PodW2b, "ping", "-c", "1", "-w", "5", "10.244.1.2")
}

// A peer that became another program while no meshd ran is served by user space again: its
// kernel would drop what the programs send to a meshd.
func TestKernelEngineMeetsFlannel(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	m := w.startAll(engineFile(t, "kernel", "tcx"))
	known(t, m.w2, "worker")
	m.w2.Kill()
	if _, err := m.w.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := m.w.Ask("cleanup"); err != nil {
		t.Error(err)
	}
	flannel(t, w.Worker, "10.244.1.0", "172.18.0.4", map[string]string{"10.244.2.0/24": "172.18.0.3"})
	again := w.again(m.w2)
	waitPeer(t, again, "worker", "up", func(p control.Peer) bool { return p.State == "up" })
	before := status(t, again).Dataplane.Handed["plain_peer"]
	transfer(t, w.PodW2b, w.PodW, "10.244.1.2:9000", 1<<20)
	if s := status(t, again); s.Dataplane.Engine != "kernel" || s.Dataplane.Handed["plain_peer"] == before {
		t.Errorf("%+v", s.Dataplane)
	}
}

// What a meshd with another layout has pinned is not taken over: it goes, and packets flow.
func TestKernelEngineOfAnotherLayout(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	d := w.own(w.Worker2, engineFile(t, "kernel", "xdp"))
	w.own(w.Worker, engineFile(t, "kernel", "tcx"))
	known(t, d, "worker")
	d.Kill()
	var other string
	for _, folder := range w.Lab.Pins() {
		number, err := w.Worker2.Run("stat", "-L", "-c", "%i", "/proc/self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(filepath.Base(folder), "net-"+strings.TrimSpace(number)+"-") {
			begins, _, _ := strings.Cut(folder, "-v")
			other = begins + "-v0"
			if err := os.Rename(folder, other); err != nil {
				t.Fatal(err)
			}
		}
	}
	if other == "" {
		t.Fatalf("nothing of worker2 among %v", w.Lab.Pins())
	}
	again := w.again(d)
	known(t, again, "worker")
	if pins := w.Lab.Pins(); slices.Contains(pins, other) || len(pins) != 2 {
		t.Errorf("%v", pins)
	}
	run(t, w.PodW2b, "ping", "-c", "1", "10.244.1.2")
	if s := status(t, again); s.Dataplane.Engine != "kernel" || s.Dataplane.Receive != "xdp" {
		t.Errorf("%+v", s.Dataplane)
	}
}

// With spread each flow has an outer source port of its own and keeps it, so that receivers
// can spread what comes over their CPUs; without, all are sent from the mesh's port.
func TestKernelEngineSpreads(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	m := w.startAll(
		strings.Replace(engineFile(t, "kernel", "tcx"), "[dataplane]", "[dataplane]\nspread = true", 1))
	known(t, m.w2, "worker")
	wire := capture(t, w.Worker.Namespace, "eth0")
	listen(t, w.PodW, "10.244.1.2:7000")
	var flows []*net.UDPConn
	for range 20 {
		flows = append(flows, listen(t, w.PodW2b, "10.244.2.3:0"))
	}
	ports := func() map[uint16]bool {
		t.Helper()
		all := map[uint16]bool{}
		for i, flow := range flows {
			payload := fmt.Sprintf("of flow %02d", i)
			first := uint16(0)
			for range 3 {
				send(t, flow, "10.244.1.2:7000", []byte(payload))
				outer := next(t, wire, payload, endsWith(payload))[14+20:]
				source, destination := binary.BigEndian.Uint16(outer), binary.BigEndian.Uint16(outer[2:])
				if first == 0 {
					first = source
				}
				if source != first || destination != 8285 {
					t.Errorf("flow %d: %d, then %d, to %d", i, first, source, destination)
				}
			}
			all[first] = true
		}
		return all
	}
	all := ports()
	for port := range all {
		if port < 49152 {
			t.Errorf("port %d", port)
		}
	}
	if len(all) < 15 {
		t.Errorf("20 flows have %d ports", len(all))
	}
	save(t, m.w2, engineFile(t, "kernel", "tcx"))
	if r, err := client(t, m.w2).Reload(t.Context()); err != nil || !r.Reload.OK {
		t.Fatalf("%+v, %v", r, err)
	}
	if all := ports(); len(all) != 1 || !all[8285] {
		t.Errorf("without spread: %v", all)
	}
}
