package e2e

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// kinds returns the kinds of a daemon's events so far.
func kinds(t testing.TB, d *nstest.Daemon) (all string) {
	t.Helper()
	if err := client(t, d).Events(t.Context(), 0, false, func(e control.Event) error {
		all += e.Kind + " "
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// The file knows the address that this host will have, but the host does not have it
// yet: what was rejected for that is applied when it does, without anybody asking.
func TestFileFirstAddressLater(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	m := newMesh(t)
	doc := strings.Replace(demoFile(t), `"172.18.0.3"`, `"172.18.0.33"`, 1)
	save(t, m.w2, doc)
	waitStatus(t, m.w2, "rejected",
		func(s control.Status) bool { return slices.Contains(problems(s), "reload_pending") })
	if err := m.Worker2.IP("addr del 172.18.0.3/16 dev eth0", "addr add 172.18.0.33/16 dev eth0"); err != nil {
		t.Fatal(err)
	}
	s := waitStatus(t, m.w2, "the new address",
		func(s control.Status) bool { return s.Network.Address == "172.18.0.33" && len(problems(s)) == 0 })
	if s.Config.Generation != 2 || !s.Config.LastReload.OK {
		t.Errorf("%+v", s.Config)
	}
	run(t, m.PodW2b, "ping", "-c", "1", "-w", "10", "10.244.1.2")
}

// What is read while the host waits for an address is waited with; a file that is bad
// is said to be, and reload answers at once.
func TestEditWhileWaiting(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	far := strings.ReplaceAll(demoFile(t), "172.18.0.3", "172.18.0.33")
	d := w.start(w.Worker2, w.write(far))
	if err := d.WaitEvent("waiting"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Ask("reload"); err == nil ||
		!strings.Contains(err.Error(), "the file is good, but nothing is forwarded yet") {
		t.Errorf("reload while waiting: %v", err)
	}
	save(t, d, far+"x = 1\n")
	s := waitStatus(t, d, "a typo", func(s control.Status) bool { return s.Config.Error != "" })
	if !strings.Contains(s.Config.Error, d.Config+":") || len(problems(s)) != 2 {
		t.Errorf("%+v, %q", s.Config, s.Warnings)
	}
	save(t, d, demoFile(t))
	if err := d.WaitReady(); err != nil {
		t.Fatal(err)
	}
	if s := status(t, d); s.Node != "worker2" || s.Config.Generation != 1 || !s.Config.LastReload.OK ||
		len(problems(s)) != 0 {
		t.Errorf("%+v, %q", s.Config, s.Warnings)
	}
	save(t, d, demoFile(t)+fourth)
	waitStatus(t, d, "an edit afterwards",
		func(s control.Status) bool { return s.Config.Generation == 2 && len(s.Peers) == 3 })
}

// A node that is named has all addresses until it has its own, and again when that
// goes.
func TestNamedNodeGetsItsAddress(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	file := w.write(demoFile(t))
	if err := w.Worker2.IP("addr del 172.18.0.3/16 dev eth0"); err != nil {
		t.Fatal(err)
	}
	d, other := w.start(w.Worker2, file, "--node", "worker2"), w.start(w.Worker, file)
	for _, d := range []*nstest.Daemon{d, other} {
		if err := d.WaitReady(); err != nil {
			t.Fatal(err)
		}
	}
	waitEvents(t, d, 1, "forwarding", "listening", "0.0.0.0:8285")
	for range 3 {
		if err := w.Worker2.IP("addr add 172.18.0.3/16 dev eth0"); err != nil {
			t.Fatal(err)
		}
		waitStatus(t, d, "well", func(s control.Status) bool { return len(problems(s)) == 0 })
		run(t, w.PodW2b, "ping", "-c", "1", "-w", "10", "10.244.1.2")
		if err := w.Worker2.IP("addr del 172.18.0.3/16 dev eth0"); err != nil {
			t.Fatal(err)
		}
		waitStatus(t, d, "on all addresses", func(s control.Status) bool {
			return only(s, "address_elsewhere")
		})
	}
	if strings.Contains(kinds(t, d), "repair_failed") {
		t.Errorf("%s", d.Log())
	}
}

// What happens to the underlay is said in events, also where nothing is to be mended.
func TestUnderlayIsInEvents(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	d := w.own(w.Worker2, demoFile(t))
	if err := w.Worker2.IP("addr del 172.18.0.3/16 dev eth0"); err != nil {
		t.Fatal(err)
	}
	waitStatus(t, d, "address lost",
		func(control.Status) bool { return strings.Contains(kinds(t, d), "address_lost ") })
	if err := w.Worker2.IP("addr add 172.18.0.3/16 dev eth0"); err != nil {
		t.Fatal(err)
	}
	waitStatus(t, d, "address back",
		func(control.Status) bool { return strings.Contains(kinds(t, d), "address_back ") })
	// The route to the peers went with the address and came back, which was noticed or was
	// too short: what is damaged now is repaired by a plan of all that is there.
	skip := len(d.Records())
	if err := w.Worker2.IP("route del 10.244.0.0/16 dev mesh0"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.WaitRecord(skip, "repair of the mesh's route", func(r nstest.Record) bool {
		return r.Event == "repaired" && strings.Contains(r.Fields["what"], "10.244.0.0/16")
	}); err != nil {
		t.Fatal(err)
	}
	gone := func() int { return len(repairsOf(d, "- underlay 172.18.0.0/16 dev eth0")) }
	back := func() int { return len(repairsOf(d, "+ underlay 172.18.0.0/16 dev eth0")) }
	before, were, came := status(t, d).Network.Repairs, gone(), back()
	if err := w.Worker2.IP("link set eth0 down"); err != nil {
		t.Fatal(err)
	}
	waitStatus(t, d, "down", func(control.Status) bool { return gone() == were+1 })
	if err := w.Worker2.IP("link set eth0 up"); err != nil {
		t.Fatal(err)
	}
	waitStatus(t, d, "up", func(control.Status) bool { return back() == came+1 })
	waitStatus(t, d, "counted", func(s control.Status) bool { return s.Network.Repairs == before+2 })
}

// Where inotify has no room for us the file is read all the same.
func TestFileCannotBeWatched(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	auto := demoFile(t) + "[dataplane]\nengine = \"auto\"\n" // the kernel engine needs more privileges
	file, socket := w.write(auto), filepath.Join(t.TempDir(), "meshd.sock")
	// A user namespace of its own has limits of its own.
	script := `echo 0 > /proc/sys/user/max_inotify_instances &&
		ip link set lo up && ip addr add 172.18.0.3/32 dev lo && exec "$@"`
	d, err := w.Worker2.MeshdBy([]string{"unshare", "-Urn", "sh", "-c", script, "sh"}, meshd, file,
		filepath.Dir(socket))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Kill()
	if err := d.WaitEvent("watch_failed"); err != nil {
		t.Fatal(err)
	}
	save(t, d, auto+fourth)
	s := waitStatus(t, d, "an edit", func(s control.Status) bool { return s.Config.Generation == 2 })
	if !slices.Contains(problems(s), "file_unwatched") {
		t.Errorf("%q", s.Warnings)
	}
	if s.Dataplane.Engine != "user" || !strings.Contains(s.Dataplane.Reason, "CAP_BPF") {
		t.Errorf("%+v", s.Dataplane)
	}
}

// Nodes whose pods have no family in common are not down: nothing can be asked.
func TestNoCommonFamily(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	doc := strings.Replace(dualStack("172.18.0.%d"), `subnets = ["10.244.1.0/24", "fd00:10:244:1::/64"]`,
		`subnets = ["fd00:10:244:1::/64"]`, 1)
	doc = strings.Replace(doc, `subnets = ["10.244.2.0/24", "fd00:10:244:2::/64"]`,
		`subnets = ["10.244.2.0/24"]`, 1) + "[probe]\ninterval = \"100ms\"\n"
	m := w.startAll(doc)
	waitPeer(t, m.w2, "control-plane", "up", isIn(control.Up))
	s := status(t, m.w2)
	if p := peer(t, s, "worker"); p.State != control.Unknown || p.ProbesTx != 0 {
		t.Errorf("%+v", p)
	}
	if !slices.ContainsFunc(s.Health.Problems, func(p control.Problem) bool {
		return p.Kind == "subnet_families" && p.Peer == "worker"
	}) {
		t.Errorf("%q", s.Warnings)
	}
}
