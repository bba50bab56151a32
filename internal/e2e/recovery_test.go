package e2e

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// inject makes a system call of a running daemon do something else, in the words
// of strace's option, until detach is called.
func inject(t *testing.T, d *nstest.Daemon, what string) (detach func()) {
	t.Helper()
	call, _, _ := strings.Cut(what, ":")
	pid := strconv.Itoa(d.PID())
	tracer := d.Host.Command("strace", "-f", "-q", "-p", pid, "-e", "trace="+call, "-e", "inject="+what)
	said := &strings.Builder{}
	tracer.Stderr = said
	if err := tracer.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "strace attaches", func() bool {
		status, err := os.ReadFile("/proc/" + pid + "/status")
		if err != nil {
			t.Fatal(err)
		}
		return !strings.Contains(string(status), "TracerPid:\t0\n")
	}, said.String)
	done := false
	detach = func() {
		if !done {
			done = true
			_ = tracer.Process.Signal(os.Interrupt)
			_ = tracer.Wait() // it says how it was ended
		}
	}
	t.Cleanup(detach)
	return detach
}

// A host whose address is another one now goes on as it was, says so, and moves
// when the file does.
func TestAddressIsReplaced(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	m := newMesh(t)
	if err := m.Worker2.IP("addr del 172.18.0.3/16 dev eth0", "addr add 172.18.0.33/16 dev eth0"); err != nil {
		t.Fatal(err)
	}
	// Peers that have no answer may be problems, too, before it is noticed.
	waitStatus(t, m.w2, "the address is gone", func(s control.Status) bool {
		return slices.ContainsFunc(s.Health.Problems, func(p control.Problem) bool {
			return p.Kind == "host_mismatch" && strings.Contains(p.Text, "172.18.0.33")
		})
	})
	doc := strings.Replace(demoFile(t), `"172.18.0.3"`, `"172.18.0.33"`, 1)
	save(t, m.w2, doc) // one file for all
	for _, d := range []*nstest.Daemon{m.cp, m.w, m.w2} {
		waitStatus(t, d, "the new address",
			func(s control.Status) bool { return s.Config.Generation == 2 && len(problems(s)) == 0 })
	}
	if s := status(t, m.w2); s.Network.Address != "172.18.0.33" {
		t.Errorf("%+v", s.Network)
	}
	run(t, m.PodW2b, "ping", "-c", "1", "-W", "2", "10.244.1.2")
	run(t, m.PodW, "ping", "-c", "1", "-W", "2", "10.244.2.2")
}

// Where another way to the peers is taken, with another MTU, pods' packets fit it.
func TestDefaultRouteMoves(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	if err := w.Worker2.IP("link add eth1 type veth peer name eth1 netns " + w.Worker.Name); err != nil {
		t.Fatal(err)
	}
	for i, h := range []*nstest.Host{w.Worker2, w.Worker} {
		if err := h.IP("link set eth1 mtu 1400 up", fmt.Sprintf("addr add 172.19.0.%d/24 dev eth1",
			3+i)); err != nil {
			t.Fatal(err)
		}
	}
	// The worker is somewhere behind the default route.
	if err := w.Worker.IP("addr add 192.168.77.4/32 dev lo"); err != nil {
		t.Fatal(err)
	}
	if err := w.Worker2.IP("route add default via 172.18.0.4"); err != nil {
		t.Fatal(err)
	}
	m := w.startAll(strings.Replace(demoFile(t), `"172.18.0.4"`, `"192.168.77.4"`, 1))
	run(t, m.PodW2b, "ping", "-c", "1", "-W", "2", "10.244.1.2")
	for _, step := range []struct {
		route string
		mtu   int
	}{{"default via 172.19.0.4", 1400 - 28}, {"default via 172.18.0.4", 1500 - 28}} {
		if err := w.Worker2.IP("route replace " + step.route); err != nil {
			t.Fatal(err)
		}
		s := waitStatus(t, m.w2, step.route, func(s control.Status) bool { return s.Network.MTU == step.mtu })
		if len(problems(s)) != 0 || s.Network.Repairs == 0 {
			t.Errorf("%+v, %q", s.Network, s.Warnings)
		}
		run(t, m.PodW2b, "ping", "-c", "1", "-W", "2", "-M", "do", "-s", strconv.Itoa(step.mtu-28), "10.244.1.2")
	}
}

// An underlay link that comes and goes needs no repair, and costs no more than
// what is sent meanwhile.
func TestLinkFlaps(t *testing.T) { eachEngine(t, nstest.Waiting, testLinkFlaps) }

func testLinkFlaps(t *testing.T) {
	w := newWorld(t).fast()
	d, _ := w.own(w.Worker2, demoFile(t)), w.own(w.Worker, demoFile(t))
	w.settled()
	traffic := w.newTrafficOf(1000, true) // without a route the kernel engine hands packets over, which are late
	before := descriptors(t, d)
	for range 20 {
		if err := w.Worker2.IP("link set eth0 down"); err != nil {
			t.Fatal(err)
		}
		if err := w.Worker2.IP("link set eth0 up"); err != nil {
			t.Fatal(err)
		}
	}
	run(t, w.PodW2b, "ping", "-c", "1", "-w", "10", "10.244.1.2")
	// What was lost meanwhile is told for half a minute, and is all that is told.
	s := waitStatus(t, d, "all is well", func(s control.Status) bool {
		return (len(problems(s)) == 0 || only(s, "drops_growing")) && descriptors(t, d) <= before+1
	})
	if s.Config.Generation != 1 || s.Network.MTU != 1472 {
		t.Errorf("%+v", s)
	}
	if lost := traffic.finish(); lost[0] == 0 {
		t.Error("the link did not flap")
	}
	// There is no control-plane here, and where this takes long that is told, as is the state of the peer.
	if slices.ContainsFunc(d.Records(), func(r nstest.Record) bool {
		return r.Level == "ERROR" && !strings.HasPrefix(r.Event, "peer_")
	}) {
		t.Errorf("%s", d.Log())
	}
}

// A socket that the kernel does not serve is replaced by another one, and packets
// go on; sending that fails for want of memory costs those packets alone, counted.
func TestSocketErrors(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t).fast()
	file := w.write(demoFile(t) + "[dataplane]\nengine = \"user\"\n")
	d, far := w.start(w.Worker2, file), w.start(w.Worker, file)
	for _, d := range []*nstest.Daemon{d, far} {
		if err := d.WaitReady(); err != nil {
			t.Fatal(err)
		}
	}
	detach := inject(t, d, "recvmmsg:error=ENOMEM")
	if out, err := w.PodW.Run("ping", "-c", "1", "-W", "1", "10.244.2.3"); err == nil {
		t.Errorf("nothing was injected: %s", out)
	}
	// Nothing arrives until then, so there is something to receive.
	s := waitStatus(t, d, "a new socket", func(s control.Status) bool { return s.Network.Repairs > 0 })
	if err := d.WaitEvent("repaired"); err != nil {
		t.Fatal(err)
	}
	if why := d.Events("repaired"); !strings.Contains(why[0].Fields["what"], unix.ENOMEM.Error()) {
		t.Errorf("%v", why)
	}
	detach()
	run(t, w.PodW, "ping", "-c", "3", "-w", "10", "10.244.2.3")
	if len(problems(s)) != 0 {
		t.Errorf("%q", s.Warnings)
	}

	detach = inject(t, d, "sendmmsg:error=ENOMEM")
	if out, err := w.PodW2b.Run("ping", "-c", "2", "-i", "0.1", "-W", "1", "10.244.1.2"); err == nil {
		t.Errorf("nothing was injected: %s", out)
	}
	s = waitStatus(t, d, "send errors",
		func(s control.Status) bool { return peer(t, s, "worker").Drops["send_error"] == 2 })
	detach()
	run(t, w.PodW2b, "ping", "-c", "1", "-W", "2", "10.244.1.2")
	if again := status(t, d); s.Totals.Drops["send_error"] != 2 || len(problems(again)) != 0 {
		t.Errorf("%+v, %q", s.Totals, again.Warnings)
	}
}

// More news of the host than the kernel keeps for us (ENOBUFS) hides no damage.
func TestLostNews(t *testing.T) {
	nstest.Share(t, nstest.Busy)
	m := newMesh(t)
	var lines []string
	for i := range 30000 {
		lines = append(lines, fmt.Sprintf("route add 198.%d.%d.%d/32 dev eth0", 18+i>>16, i>>8&255, i&255))
	}
	// All in one go, in which the damage is one of many.
	lines = slices.Insert(lines, 20000, "route del 10.244.0.0/16 dev mesh0")
	if err := m.Worker2.IP(lines...); err != nil {
		t.Fatal(err)
	}
	waitStatus(t, m.w2, "repaired",
		func(s control.Status) bool { return s.Network.Repairs == 1 && len(problems(s)) == 0 })
	contains(t, run(t, m.Worker2.Namespace, "ip", "route", "show", "10.244.0.0/16"), "dev mesh0")
	run(t, m.PodW2b, "ping", "-c", "1", "-W", "2", "10.244.1.2")
}

// A restart renames the interface, whether the last run was killed or the service manager holds queues
// of the old one. Nothing of the old name is left.
func TestInterfaceRenamed(t *testing.T) { eachEngine(t, nstest.Waiting, testInterfaceRenamed) }

func testInterfaceRenamed(t *testing.T) {
	w := newWorld(t)
	w.own(w.Worker, demoFile(t))
	named := func(name string) string {
		return strings.Replace(demoFile(t), "[network]\n", "[network]\ninterface = \""+name+"\"\n", 1)
	}
	d := w.own(w.Worker2, demoFile(t))
	pins := len(w.Lab.Pins())
	renamed := func(old, name string) {
		t.Helper()
		waitEvents(t, d, 1, "interface_renamed", "old", old, "new", name)
		if now := hostState(t, w.Worker2); strings.Contains(now, old) || !strings.Contains(now, name) {
			t.Errorf("%s is left on the host:\n%s", old, now)
		}
		if now := w.Lab.Pins(); len(now) != pins {
			t.Errorf("%d folders of pins became %v", pins, now)
		}
		known(t, d, "worker")
		contains(t, run(t, w.PodW2b, "ping", "-c", "1", "10.244.1.2"), "ttl=60")
	}
	d.Kill()
	save(t, d, named("mesh7"))
	if _, err := d.Ask("run", "--check", "-c", d.Config); err != nil {
		t.Errorf("an installer's check: %v", err)
	}
	d = w.again(d)
	renamed("mesh0", "mesh7")
	if _, err := d.Stop(); err != nil {
		t.Fatal(err)
	}

	s := w.manager(w.Worker2, 0)
	d = w.service(s, w.Worker2, d.Config)
	if got := rewrite(t, d, named("mesh8")); got.Config.LastReload.OK ||
		!strings.Contains(got.Config.Error, "`systemctl restart meshd`") {
		t.Errorf("the reload: %+v", got.Config)
	}
	if _, err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	d = w.service(s, w.Worker2, d.Config)
	renamed("mesh7", "mesh8")
	if got := s.Stored(); !slices.Equal(got, []string{"tun-0", "udp-0"}) {
		t.Errorf("the service manager holds %q", got)
	}
}

// An idle TUN of another program is replaced; one that somebody needs is not.
func TestForeignTUN(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	file := w.write(demoFile(t))
	for _, needed := range []string{"addr add 192.0.2.1/24 dev mesh0",
		"route add 192.0.2.0/24 dev mesh0 table 7"} {
		if err := w.Worker2.IP("tuntap add mesh0 mode tun", "link set mesh0 up", needed); err != nil {
			t.Fatal(err)
		}
		w.exits(w.Worker2, 1, file, "`ip link del mesh0`", "nmcli connection delete")
		if err := w.Worker2.IP("link del mesh0"); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Worker2.IP("tuntap add mesh0 mode tun", "link set mesh0 up"); err != nil {
		t.Fatal(err)
	}
	d := w.start(w.Worker2, file)
	if err := d.WaitReady(); err != nil {
		t.Fatal(err)
	}
	waitEvents(t, d, 1, "interface_replaced", "interface", "mesh0")
}
