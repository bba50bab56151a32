package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// exits waits for a daemon that must give up, with the right code, with what its last
// words have to name (places, addresses, commands), and a kernel as it was before.
func (w *world) exits(h *nstest.Host, code int, file string, words ...string) {
	w.t.Helper()
	before := hostState(w.t, h)
	d, err := h.Meshd(meshd, file, w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	got, err := d.Exit()
	if err != nil {
		d.Kill()
		w.t.Fatal(err)
	}
	if got != code {
		w.t.Errorf("exit code %d, want %d\n%s", got, code, d.Log())
	}
	contains(w.t, d.Log(), words...)
	sameHostState(w.t, h, before)
}

// hostState is what meshd may touch on a host, less the link-local IPv6 that
// the kernel brings up in its own time.
func hostState(t testing.TB, h *nstest.Host) string {
	t.Helper()
	var kept []string
	for _, ask := range []string{"ip -o link", "ip -o addr", "ip route show table all",
		"ip -6 route show table main", "nft -s list ruleset"} {
		words := strings.Fields(ask)
		// Only what it found: ip(8) complains of namespaces that other tests are just making.
		out, err := h.Command(words[0], words[1:]...).Output()
		if err != nil {
			t.Fatalf("%s: %v", ask, err)
		}
		// Tables that were made anew are the last ones.
		tables := strings.SplitAfter(nstest.SortSets(string(out)), "\n}\n")
		slices.Sort(tables)
		for line := range strings.Lines(strings.Join(tables, "")) {
			// Whose a table is, nft looks up elsewhere, and may not find
			line, _, _ = strings.Cut(line, " # progname ")
			if !strings.Contains(line, "fe80:") && !strings.Contains(line, "ff00::/8") {
				kept = append(kept, line)
			}
		}
	}
	return strings.Join(kept, "")
}

// sameHostState fails the test with the lines that came or went since before.
func sameHostState(t testing.TB, h *nstest.Host, before string) {
	t.Helper()
	after := hostState(t, h)
	if after == before {
		return
	}
	less := func(these, those string) (lines []string) {
		others := slices.Collect(strings.Lines(those))
		for line := range strings.Lines(these) {
			if !slices.Contains(others, line) {
				lines = append(lines, line)
			}
		}
		return lines
	}
	t.Errorf("%s is not as it was: gone %q, new %q; now:\n%s", h.Name, less(before, after), less(after, before),
		after)
}

func TestBadStarts(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	demo := demoFile(t)
	replace := func(old, new string) string {
		if !strings.Contains(demo, old) {
			t.Fatalf("no %q in the demo's file", old)
		}
		return w.write(strings.Replace(demo, old, new, 1))
	}

	t.Run("every fault of a bad file, 78", func(t *testing.T) {
		file := replace(`cidr = "10.244.0.0/16"`, "cidr = \"10.244.0.1/16\"\nmtu = 10\nfoo = 1")
		w.exits(w.Worker2, 78, file,
			file+":4:8: error: network.cidr: ", file+":5:7: error: network.mtu: ", file+":6:1: error: network.foo: ")
	})
	t.Run("no file, 78", func(t *testing.T) {
		w.exits(w.Worker2, 78, "/nonexistent/mesh.toml", "/nonexistent/mesh.toml: error: ")
	})
	t.Run("two nodes are this host, 78", func(t *testing.T) {
		if err := w.Worker2.IP("addr add 172.18.0.4/16 dev eth0"); err != nil {
			t.Fatal(err)
		}
		w.exits(w.Worker2, 78, w.write(demo), "worker (172.18.0.4), worker2 (172.18.0.3)", "--node NAME",
			"172.18.0.3, 172.18.0.4")
		if err := w.Worker2.IP("addr del 172.18.0.4/16 dev eth0"); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("the port is taken", func(t *testing.T) {
		conn := listen(t, w.Worker2.Namespace, "172.18.0.3:8285")
		w.exits(w.Worker2, 1, w.write(demo), "172.18.0.3:8285: address already in use")
		conn.Close()
	})
	t.Run("a foreign route", func(t *testing.T) {
		if err := w.Worker2.IP("route add 10.244.0.0/16 via 172.18.0.99"); err != nil {
			t.Fatal(err)
		}
		w.exits(w.Worker2, 1, w.write(demo), "10.244.0.0/16 via 172.18.0.99 dev eth0 proto boot",
			"ip route del 10.244.0.0/16")
		if err := w.Worker2.IP("route del 10.244.0.0/16"); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a foreign interface", func(t *testing.T) {
		if err := w.Worker2.IP("link add mesh0 type bridge"); err != nil {
			t.Fatal(err)
		}
		w.exits(w.Worker2, 1, w.write(demo), "`ip link del mesh0`")
		if err := w.Worker2.IP("link del mesh0"); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("too small for IPv6, 78", func(t *testing.T) {
		if err := w.Worker2.IP("link set eth0 mtu 1300"); err != nil {
			t.Fatal(err)
		}
		w.exits(w.Worker2, 78, w.write(dualStack("172.18.0.%d")), "1300", "1272", "1280")
	})
}

// meshdWith runs meshd on worker2 behind another program and returns its exit
// code and its words.
func (w *world) meshdWith(wrapper ...string) (code int, words string) {
	w.t.Helper()
	args := append(wrapper[1:], meshd, "run", "-c", w.write(demoFile(w.t)), "--socket",
		filepath.Join(w.dir, "other.sock"))
	cmd := w.Worker2.Command(wrapper[0], args...)
	out, err := cmd.CombinedOutput()
	if _, isExit := err.(*exec.ExitError); err != nil && !isExit {
		w.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

func TestMissingPrivileges(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	code, words := w.meshdWith("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
	if lines := strings.Count(strings.TrimSpace(words), "\n") + 1; code != 4 || lines != 1 ||
		!strings.Contains(words, "needs the capability CAP_NET_ADMIN: run it as root") {
		t.Errorf("exit code %d:\n%s", code, words)
	}
	code, words = w.meshdWith("unshare", "-m", "sh", "-c", `mount -t tmpfs none /dev/net && exec "$0" "$@"`)
	if code != 1 || !strings.Contains(words, "load the driver with `modprobe tun`") {
		t.Errorf("exit code %d:\n%s", code, words)
	}
}

// An edge box at boot has no address yet: meshd waits, says so everywhere, and
// goes on by itself.
func TestWaitsForItsAddress(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	if err := w.Worker2.IP("addr del 172.18.0.3/16 dev eth0"); err != nil {
		t.Fatal(err)
	}
	d := w.start(w.Worker2, w.write(demoFile(t)))
	if err := d.WaitEvent("waiting"); err != nil {
		t.Fatal(err)
	}
	// All that it has
	contains(t, d.Events("waiting")[0].Fields["reason"], "10.244.2.1, 2001:db8::3, fd00:10:244:2::1")
	s := status(t, d)
	if s.Node != "" || !only(s, "no_address") {
		t.Errorf("status %+v", s)
	}
	if out, err := d.Ask("route", "10.244.1.2"); err == nil ||
		!strings.Contains(out, "nothing is forwarded yet") {
		t.Errorf("%q, %v", out, err)
	}
	if err := w.Worker2.IP("addr add 172.18.0.3/16 dev eth0"); err != nil {
		t.Fatal(err)
	}
	if err := d.WaitReady(); err != nil {
		t.Fatal(err)
	}
	if s := status(t, d); s.Node != "worker2" || len(problems(s)) != 0 {
		t.Errorf("status %+v", s)
	}
}

func TestStopsWhileWaiting(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	d := w.start(w.Worker2, w.write(strings.ReplaceAll(demoFile(t), "172.18.0.3", "172.18.0.33")))
	if err := d.WaitEvent("waiting"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Stop(); err != nil {
		t.Errorf("%v\n%s", err, d.Log())
	}
}

// --node decides where the address cannot: two daemons behind addresses that
// the hosts do not have (as behind 1:1 NAT) still find each other.
func TestNodeByName(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	if err := w.Worker2.IP("addr add 172.18.0.4/16 dev lo"); err != nil { // would be two nodes
		t.Fatal(err)
	}
	file := w.write(demoFile(t))
	d := w.start(w.Worker2, file, "--node", "worker2")
	if err := d.WaitReady(); err != nil {
		t.Fatal(err)
	}
	if s := status(t, d); s.Node != "worker2" || s.Network.Address != "172.18.0.3" {
		t.Errorf("status %+v", s)
	}
	far := w.start(w.Worker, w.write(strings.ReplaceAll(demoFile(t), "172.18.0.4", "203.0.113.4")), "--node",
		"worker")
	if err := far.WaitReady(); err != nil {
		t.Fatal(err)
	}
	waitEvents(t, far, 1, "forwarding", "listening", "0.0.0.0:8285")
	told(t, far, "203.0.113.4")

	w.exitsWithNode("nobody", 78)
}

func (w *world) exitsWithNode(node string, code int) {
	w.t.Helper()
	d, err := w.ControlPlane.Meshd(meshd, w.write(demoFile(w.t)), w.dir, "--node", node)
	if err != nil {
		w.t.Fatal(err)
	}
	if got, err := d.Exit(); err != nil || got != code {
		w.t.Errorf("exit code %d, %v", got, err)
	}
	contains(w.t, d.Log(), node)
}

// Under load from both sides SIGTERM ends the daemon by itself; the TUN stays
// and, without the kernel engine, swallows what pods send, and a new daemon takes it over.
func TestStopUnderLoad(t *testing.T) {
	nstest.Share(t, nstest.Busy)
	m := newWorld(t).startAll(demoFile(t) + "[dataplane]\nengine = \"user\"\n")
	stop := make(chan struct{})
	var loads sync.WaitGroup
	load := func(n *nstest.Namespace, to string) {
		conn := listen(t, n, ":0")
		loads.Go(func() {
			for end := time.After(30 * time.Second); ; {
				select {
				case <-stop:
					return
				case <-end:
					return
				default:
					// Errors come while no daemon runs.
					_, _ = conn.WriteToUDPAddrPort(make([]byte, 1000), netip.MustParseAddrPort(to))
				}
			}
		})
	}
	listen(t, m.PodW, "10.244.1.2:7000")
	listen(t, m.PodW2b, "10.244.2.3:7000")
	load(m.PodW2b, "10.244.1.2:7000")
	load(m.PodW, "10.244.2.3:7000")
	waitStatus(t, m.w2, "load",
		func(s control.Status) bool { return *s.Totals.RxPackets > 1000 && *s.Totals.TxPackets > 1000 })
	took, err := m.w2.Stop()
	if err != nil {
		t.Errorf("%v\n%s", err, m.w2.Log())
	}
	t.Logf("stopped in %v", took)
	close(stop)
	loads.Wait()

	contains(t, run(t, m.Worker2.Namespace, "ip", "route"), "10.244.0.0/16 dev mesh0 ")
	contains(t, run(t, m.Worker2.Namespace, "ip", "addr", "show", "mesh0"), "10.244.2.0/32")
	eth := capture(t, m.Worker2.Namespace, "eth0")
	if out, err := m.PodW2b.Run("ping", "-c", "2", "-i", "0.2", "-W", "1", "10.244.1.2"); err == nil {
		t.Errorf("answered without a daemon:\n%s", out)
	}
	run(t, m.Worker2.Namespace, "ping", "-c", "1", "-s", "300", "172.18.0.4")
	next(t, eth, "the host's own ping", func(f []byte) bool {
		if isIPv4(f) && netip.AddrFrom4([4]byte(f[30:34])).String() == "10.244.1.2" {
			t.Errorf("a pod's packet in the clear: % x", f)
		}
		return isIPv4(f) && len(f) == 14+28+300
	})

	again := m.start(m.Worker2, m.w2.Config)
	if err := again.WaitReady(); err != nil {
		t.Fatal(err)
	}
	contains(t, run(t, m.PodW2b, "ping", "-c", "1", "10.244.1.2"), "ttl=60")
}

// A route into a peer's subnet that is not ours is said in status, and a hangup
// reads the file again.
func TestWarnsAndGoesOn(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	if err := w.Worker2.IP("route add 10.244.1.128/25 via 172.18.0.99"); err != nil {
		t.Fatal(err)
	}
	d := w.start(w.Worker2, w.write(demoFile(t)))
	if err := d.WaitReady(); err != nil {
		t.Fatal(err)
	}
	const route = "10.244.1.128/25 via 172.18.0.99 dev eth0 proto boot"
	if s := status(t, d); !only(s, "route_shadowed") || !strings.Contains(s.Health.Problems[0].Text, route) {
		t.Errorf("warnings %q", s.Warnings)
	}
	told(t, d, route)
	run(t, w.Worker2.Namespace, "kill", "-HUP", fmt.Sprint(d.PID()))
	if err := d.WaitEvent("reloaded", "cause", "SIGHUP", "generation", "1"); err != nil {
		t.Error(err)
	}
}

func TestSecondDaemonIsRefused(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	m := newMesh(t)
	before := hostState(t, m.Worker2)
	d, err := m.Worker2.Meshd(meshd, m.w2.Config, m.dir)
	if err != nil {
		t.Fatal(err)
	}
	if code, err := d.Exit(); err != nil || code != 1 {
		t.Errorf("exit code %d, %v", code, err)
	}
	contains(t, d.Log(), d.Socket) // is what another one has

	// With a socket and a port of its own it finds the interface in use.
	other := strings.Replace(demoFile(t), "[network]\n", "[network]\nport = 9999\n", 1)
	if d, err = m.Worker2.Meshd(meshd, m.write(other), t.TempDir()); err != nil {
		t.Fatal(err)
	}
	if code, err := d.Exit(); err != nil || code != 1 {
		t.Errorf("exit code %d, %v", code, err)
	}
	contains(t, d.Log(), `"mesh0"`)
	if out, err := d.Ask("cleanup"); err == nil || !strings.Contains(err.Error(), "a running meshd uses it") {
		t.Errorf("cleanup under a daemon with another socket: %q, %v", out, err)
	}
	sameHostState(t, m.Worker2, before)
	contains(t, run(t, m.PodW2b, "ping", "-c", "1", "10.244.1.2"), "ttl=60")
}

func TestCleanup(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	if err := w.Worker2.IP("route add 198.51.100.0/24 via 172.18.0.99"); err != nil {
		t.Fatal(err)
	}
	run(t, w.Worker2.Namespace, "nft",
		"add table inet firewall { set allowed { type ipv4_addr; elements = { 192.0.2.1 }; }; "+
			"chain fw { type filter hook forward priority 10; policy drop; ip saddr @allowed accept; }; "+
			"chain nat { type nat hook postrouting priority 100; }; }")
	run(t, w.Worker2.Namespace, "iptables-nft", "-P", "FORWARD", "DROP")
	run(t, w.Worker2.Namespace, "iptables-nft", "-A", "FORWARD", "-s", "192.0.2.0/24", "-j", "ACCEPT")
	before := hostState(t, w.Worker2)
	file := w.write(strings.Replace(dualStack("172.18.0.%d"), "subnets = [\"10.244.1.0/24\"",
		"routes = [\"192.168.7.0/24\"]\nsubnets = [\"10.244.1.0/24\"", 1))
	d := w.start(w.Worker2, file)
	if err := d.WaitReady(); err != nil {
		t.Fatal(err)
	}
	contains(t, run(t, w.Worker2.Namespace, "ip", "route"), "192.168.7.0/24 dev mesh0 ")
	if out, err := d.Ask("cleanup"); err == nil ||
		!strings.Contains(err.Error(), "meshd is running: stop it first") {
		t.Errorf("cleanup under a running daemon: %q, %v", out, err)
	}
	if _, err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(d.Socket); !os.IsNotExist(err) {
		t.Errorf("the control socket is left: %v", err)
	}
	// What an encrypted mesh leaves; this kernel may have no WireGuard, so a TUN stands for its interface.
	if err := w.Worker2.IP("tuntap add meshd-wg mode tun", "link set meshd-wg alias meshd up",
		"route add 10.244.9.0/24 dev meshd-wg proto 85"); err != nil {
		t.Fatal(err)
	}
	// A stranger's file gives no name to go by: the mark on the interface does.
	for _, config := range []string{"/nonexistent.toml", file} {
		d.Config = config
		if _, err := d.Ask("cleanup"); err != nil {
			t.Error(err)
		}
		sameHostState(t, w.Worker2, before)
	}
}
