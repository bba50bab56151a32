package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// save replaces the file as careful editors do, and tells nobody.
func save(t testing.TB, d *nstest.Daemon, doc string) {
	t.Helper()
	if err := os.WriteFile(d.Config+".new", []byte(onEngine(t, doc)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(d.Config+".new", d.Config); err != nil {
		t.Fatal(err)
	}
}

// rewrite changes the file of a daemon, or has it read again if it stays the same, and returns the
// status after the one reload that this causes.
func rewrite(t *testing.T, d *nstest.Daemon, doc string) control.Status {
	t.Helper()
	before := status(t, d).Config.LastReload.At
	if old, err := os.ReadFile(d.Config); err != nil {
		t.Fatal(err)
	} else if string(old) != onEngine(t, doc) {
		save(t, d, doc)
	} else {
		run(t, d.Host.Namespace, "kill", "-HUP", fmt.Sprint(d.PID()))
	}
	return waitStatus(t, d, "reload",
		func(s control.Status) bool { return !s.Config.LastReload.At.Equal(before) })
}

// own gives a daemon a file of its own, so that the others keep theirs.
func (w *world) own(h *nstest.Host, doc string) *nstest.Daemon {
	w.t.Helper()
	d := w.start(h, w.write(doc))
	if err := d.WaitReady(); err != nil {
		w.t.Fatal(err)
	}
	return d
}

const fourth = "[[node]]\nname = \"fourth\"\naddress = \"172.18.0.9\"\n" +
	"subnets = [\"10.244.9.0/24\"]\nroutes = [\"192.168.9.0/24\"]\n"

// An edit takes effect by itself; a bad one changes nothing, is shown with its
// place until it is mended, and going back is no new generation's fault.
func TestEditTakesEffect(t *testing.T) { eachEngine(t, nstest.Waiting, testEditTakesEffect) }

func testEditTakesEffect(t *testing.T) {
	w := newWorld(t)
	d := w.own(w.Worker2, demoFile(t))
	save(t, d, demoFile(t)+fourth)
	s := waitStatus(t, d, "a new peer", func(s control.Status) bool { return s.Config.Generation == 2 })
	want := "+ peer fourth 10.244.9.0/24 192.168.9.0/24|" +
		"+ route 192.168.9.0/24|+ masquerade set mesh 192.168.9.0/24"
	if got := strings.Join(s.Config.LastReload.Changes, "|"); got != want {
		t.Errorf("changes %s", got)
	}
	contains(t, run(t, w.Worker2.Namespace, "ip", "route"), "192.168.9.0/24 dev mesh0")

	before := hostState(t, w.Worker2)
	save(t, d, demoFile(t)+"[[node]]\nname = 7\n")
	s = waitStatus(t, d, "a typo", func(s control.Status) bool { return s.Config.Error != "" })
	if s.Config.Generation != 2 || !strings.Contains(s.Config.Error, d.Config+":") || len(problems(s)) != 1 {
		t.Errorf("%+v, %q", s.Config, s.Warnings)
	}
	out, err := d.Ask("reload")
	if err == nil || !strings.Contains(err.Error(), "exit status 1") ||
		!strings.Contains(err.Error(), "still running generation 2") {
		t.Errorf("reload: %q, %v", out, err)
	}
	sameHostState(t, w.Worker2, before)

	// An editor that saves in place shows an empty file: no typo yet.
	save(t, d, demoFile(t)+fourth)
	waitStatus(t, d, "mended", func(s control.Status) bool { return s.Config.Error == "" })
	rejected := len(d.Events("reload_rejected"))
	if err := os.WriteFile(d.Config, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := d.WaitEvent("file_missing"); err != nil {
		t.Fatal(err)
	}
	save(t, d, demoFile(t)+fourth+"\n")
	waitStatus(t, d, "the whole file", func(s control.Status) bool { return s.Config.Generation == 3 })
	if got := len(d.Events("reload_rejected")); got != rejected {
		t.Errorf("an empty file was taken for an edit:\n%s", d.Log())
	}

	if err := os.Remove(d.Config); err != nil {
		t.Fatal(err)
	}
	waitStatus(t, d, "no file",
		func(s control.Status) bool { return strings.Contains(s.Config.Error, "no such file") })
	save(t, d, demoFile(t)+fourth+"\n")
	s = waitStatus(t, d, "mended", func(s control.Status) bool { return s.Config.Error == "" })
	if s.Config.Generation != 3 || len(problems(s)) != 0 {
		t.Errorf("%+v, %q", s.Config, s.Warnings)
	}
	save(t, d, demoFile(t))
	waitStatus(t, d, "back",
		func(s control.Status) bool { return s.Config.Generation == 4 && len(s.Peers) == 2 })
	if routes := run(t, w.Worker2.Namespace, "ip", "route"); strings.Contains(routes, "192.168.9.0") {
		t.Errorf("routes:\n%s", routes)
	}
}

// plan shows what a reload does, and nothing else; reload does it and says so.
func TestPlanAndReload(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	d := w.own(w.Worker2, demoFile(t))
	if out, err := d.Ask("plan"); err != nil || out != "" {
		t.Errorf("plan of what runs: %q, %v", out, err)
	}
	next := w.write(strings.Replace(demoFile(t), "[network]\n", "[network]\nmtu = 1400\n", 1) + fourth)
	out, err := d.Ask("plan", next)
	if err == nil || !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("plan: %v", err)
	}
	contains(t, out, "+ peer fourth 10.244.9.0/24 192.168.9.0/24\n", "~ mtu 1472 -> 1400\n",
		"+ route 192.168.9.0/24\n")
	if s := status(t, d); s.Config.Generation != 1 || len(s.Peers) != 2 || s.Network.MTU != 1472 {
		t.Errorf("plan changed something: %+v", s)
	}
	bad := w.write("[network]\n")
	if out, err := d.Ask("plan", bad); err == nil || !strings.Contains(err.Error(), "exit status 2") ||
		!strings.Contains(err.Error(), bad+":") {
		t.Errorf("plan of a bad file: %q, %v", out, err)
	}
	doc, err := os.ReadFile(next)
	if err != nil {
		t.Fatal(err)
	}
	save(t, d, string(doc))
	if _, err := d.Ask("reload"); err != nil { // the watch may have been first
		t.Error(err)
	}
	s := waitStatus(t, d, "the plan in force", func(s control.Status) bool { return s.Config.Generation == 2 })
	if len(s.Peers) != 3 || s.Network.MTU != 1400 {
		t.Errorf("%+v", s.Network)
	}
	if out, err := d.Ask("plan", next); err != nil || out != "" {
		t.Errorf("plan of what runs now: %q, %v", out, err)
	}
}

// Whatever happens to the interface, meshd comes back by itself, counts it, and
// does not spin.
func TestInterfaceIsRepaired(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	m := newMesh(t)
	whole := []string{"10.244.2.0/32", "mtu 1472", ",UP,"}
	for i, damage := range []string{
		"link set mesh0 down",
		"addr del 10.244.2.0/32 dev mesh0",
		"route del 10.244.0.0/16 dev mesh0",
		"link set mesh0 mtu 1300",
		"link del mesh0",
		"addr add 10.9.9.9/24 dev mesh0",
	} {
		if err := m.Worker2.IP(damage); err != nil {
			t.Fatal(err)
		}
		s := waitStatus(t, m.w2, damage, func(s control.Status) bool { return s.Network.Repairs > uint64(i) })
		if s.Network.Repairs != uint64(i+1) || len(problems(s)) != 0 || s.Config.Generation != 1 {
			t.Errorf("after %q: %d repairs, %q", damage, s.Network.Repairs, s.Warnings)
		}
		contains(t, run(t, m.Worker2.Namespace, "ip", "addr", "show", "dev", "mesh0"), whole...)
		run(t, m.PodW2b, "ping", "-c", "1", "-W", "2", "10.244.1.2")
	}
	waitEvents(t, m.w2, 6, "repaired")
}

// A smaller or larger underlay changes the MTU of pods' packets, and an own
// address that moves takes the socket with it.
func TestUnderlayChanges(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	m := newMesh(t)
	for _, mtu := range []int{1400, 1500} {
		if err := m.Worker2.IP(fmt.Sprintf("link set eth0 mtu %d", mtu)); err != nil {
			t.Fatal(err)
		}
		waitStatus(t, m.w2, "another MTU", func(s control.Status) bool { return s.Network.MTU == mtu-28 })
		contains(t, run(t, m.Worker2.Namespace, "ip", "link", "show", "dev", "mesh0"),
			fmt.Sprintf("mtu %d ", mtu-28))
	}
	if err := m.Worker2.IP("link set eth0 down"); err != nil {
		t.Fatal(err)
	}
	if err := m.Worker2.IP("addr del 172.18.0.3/16 dev eth0"); err != nil {
		t.Fatal(err)
	}
	waitStatus(t, m.w2, "the address is gone", func(s control.Status) bool {
		return only(s, "host_mismatch") && strings.Contains(s.Health.Problems[0].Remedy, "ip link set eth0 up")
	})
	if err := m.Worker2.IP("link set eth0 up", "addr add 172.18.0.3/16 dev eth0"); err != nil {
		t.Fatal(err)
	}
	waitStatus(t, m.w2, "the address is back", func(s control.Status) bool { return len(problems(s)) == 0 })
	run(t, m.PodW2b, "ping", "-c", "1", "-W", "2", "10.244.1.2")
}

// Everything but the interface's name is taken over live.
func TestEverythingIsLive(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	m := newMesh(t)
	ping := func(what string) {
		t.Helper()
		if out, err := m.PodW2b.Run("ping", "-c", "1", "-W", "2", "10.244.1.2"); err != nil {
			t.Errorf("%s: %s", what, out)
		}
	}
	sent := func() uint64 { return *peer(t, status(t, m.w2), "worker").TxPackets }
	ping("at first")
	before := sent()
	for i, step := range []struct{ doc, want string }{
		{strings.Replace(demoFile(t), "[network]\n", "[network]\nport = 9999\n", 1),
			"~ listening on 172.18.0.3:8285 -> 172.18.0.3:9999"},
		{demoFile(t) + "[dataplane]\nqueues = 3\n", "~ queues 1 -> 3"},
		{demoFile(t) + "[dataplane]\nqueues = 2\noffload = \"off\"\n", "~ dataplane.offload auto -> off"},
		{demoFile(t) + "[dataplane]\nqueues = 2\nspread = true\n", "~ dataplane.spread false -> true"},
		{demoFile(t), "~ queues 2 -> 1"},
	} {
		// One file for all three.
		if err := os.WriteFile(m.w2.Config, []byte(onEngine(t, step.doc)), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, d := range []*nstest.Daemon{m.cp, m.w, m.w2} {
			s := waitStatus(t, d, step.want, func(s control.Status) bool { return s.Config.Generation == i+2 })
			if d == m.w2 && !strings.Contains(strings.Join(s.Config.LastReload.Changes, "|"), step.want) {
				t.Errorf("changes %q, want %s", s.Config.LastReload.Changes, step.want)
			}
			if len(problems(s)) != 0 {
				t.Errorf("%s: %q", step.want, s.Warnings)
			}
		}
		ping(step.want)
	}
	if after := sent(); after != before+5 {
		t.Errorf("counters did not survive: %d packets, then %d", before, after)
	}
	// One on loopback may be there besides, for probes without a checksum.
	if out := run(t, m.Worker2.Namespace, "ss", "-Hulnp", "sport = :8285 and not src 127.0.0.1"); strings.Count(
		out, "\n") != 1 {
		t.Errorf("sockets:\n%s", out)
	}
}

// A file that cannot be applied changes nothing, and says so until it is mended.
func TestBadReload(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	m := newWorld(t)
	m.own(m.Worker, demoFile(t))
	d := m.own(m.Worker2, demoFile(t)) // the others' file stays as it is
	before := hostState(t, m.Worker2)
	for doc, words := range map[string]string{
		strings.Replace(demoFile(t), "cidr = ", "mtu = 7\ncidr = ",
			1): ":4:7: error: network.mtu: 7 is out of range",
		strings.Replace(demoFile(t), "[network]", "[network]\ninterface = \"mesh7\"",
			1): "network.interface: a running meshd cannot change it from mesh0 to mesh7",
		strings.ReplaceAll(demoFile(t), "172.18.0.3", "172.18.0.33"): "local addresses: 172.18.0.3",
	} {
		s := rewrite(t, d, doc)
		if s.Config.Generation != 1 || s.Config.LastReload.OK || !strings.Contains(s.Config.Error, words) ||
			len(problems(s)) != 1 {
			t.Errorf("%s: %+v, %q", words, s.Config, s.Warnings)
		}
	}
	sameHostState(t, m.Worker2, before)
	contains(t, run(t, m.PodW2b, "ping", "-c", "1", "10.244.1.2"), "ttl=60")
	if s := rewrite(t, d, demoFile(t)); s.Config.Generation != 1 || s.Config.Error != "" ||
		len(problems(s)) != 0 {
		t.Errorf("%+v, %q", s.Config, s.Warnings)
	}
}
