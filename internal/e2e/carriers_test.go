package e2e

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// lan gives worker and control-plane an interface each on a network behind both, 192.168.7.0/24, and returns
// a
// server there, 192.168.7.9.
func (w *world) lan() *nstest.Namespace {
	w.t.Helper()
	server, err := w.Lab.Empty("server")
	if err == nil {
		err = server.IP("link add br0 type bridge", "addr add 192.168.7.9/24 dev br0", "link set br0 up",
			"route add default via 192.168.7.4")
	}
	if err != nil {
		w.t.Fatal(err)
	}
	for n, h := range map[int]*nstest.Host{4: w.Worker, 2: w.ControlPlane} {
		port := fmt.Sprintf("p%d", n)
		err := errors.Join(h.IP("link add lan0 type veth peer name "+port+" netns "+server.Name,
			fmt.Sprintf("addr add 192.168.7.%d/24 dev lan0", n), "link set lan0 up"),
			server.IP("link set "+port+" master br0", "link set "+port+" up"))
		if err != nil {
			w.t.Fatal(err)
		}
	}
	return server
}

// carrier returns which peer carries a prefix, as a status says; empty if none does.
func carrier(s control.Status, prefix string) string {
	for _, p := range s.Peers {
		if slices.ContainsFunc(p.RouteStates, func(r control.RouteState) bool {
			return r.Prefix == prefix &&
				r.Active
		}) {
			return p.Name
		}
	}
	return ""
}

// ask runs a command of meshd's at a daemon, and returns how it ends.
func ask(d *nstest.Daemon, args ...string) (out string, code int) {
	cmd := exec.Command(meshd, append(args, "--socket", d.Socket)...)
	words, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		return err.Error(), -1
	}
	return string(words), cmd.ProcessState.ExitCode()
}

// A network behind two nodes is reached by the preferred one while that is up and not in maintenance. One
// that falls silent costs what it had in hand; one in maintenance nothing, and its going down is no alarm.
func TestCarriers(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	server := w.lan()
	const prefix = "192.168.7.0/24"
	doc := strings.NewReplacer(`"10.244.1.0/24"]`,
		`"10.244.1.0/24"]`+"\nroutes = [{ prefix = \""+prefix+`", metric = 10 }]`,
		`"10.244.0.0/24"]`, `"10.244.0.0/24"]`+"\nroutes = [\""+prefix+`"]`).Replace(demoFile(t))
	state := t.TempDir()
	startWorker := func() *nstest.Daemon {
		d := w.start(w.Worker, w.write(doc), "--state", state)
		if err := d.WaitReady(); err != nil {
			t.Fatal(err)
		}
		return d
	}
	one := startWorker() // first: another one that was chosen before keeps the prefix for half a minute
	w2, cp := w.own(w.Worker2, doc), w.own(w.ControlPlane, doc)
	carries := func(name string) {
		t.Helper()
		waitStatus(t, w2, name+" carries "+prefix, func(s control.Status) bool {
			return carrier(s,
				prefix) == name
		})
	}
	waitStatus(t, w2, "both are up", func(s control.Status) bool {
		return peer(t, s, "worker").State == "up" && peer(t, s, "control-plane").State == "up"
	})
	carries("worker")
	before := w.overflows()
	s := startTimed(t, w.PodW2b, server, "10.244.2.3:7000", "192.168.7.9:7000", 1000)
	goOn := func() {
		t.Helper()
		was := time.Now()
		eventually(t, "packets arrive", func() bool { return s.since(was) > 200 },
			func() string { return fmt.Sprintf("%+v", status(t, w2)) })
	}

	run(t, w.Lab.Switch(), dropOnPath("")[0], dropOnPath("")[1:]...)
	carries("control-plane")
	goOn()
	run(t, w.Lab.Switch(), healPath[0], healPath[1:]...)
	waitStatus(t, w2, "worker is up", func(s control.Status) bool { return peer(t, s, "worker").State == "up" })
	for range 2 { // half a minute, by design
		if _, err := w2.WaitRecord(0, "back", func(r nstest.Record) bool {
			return r.Event == "carrier_changed" && r.Fields["peer"] == "worker"
		}); err == nil {
			break
		}
	}
	carries("worker")
	goOn()
	cut, _, _ := s.finish()
	most := uint64(4000) + w.overflows().since(before)[0]
	if cut > most {
		t.Errorf("%d packets were lost", cut)
	}

	before = w.overflows()
	s = startTimed(t, w.PodW2b, server, "10.244.2.3:7001", "192.168.7.9:7001", 1000)
	if out, code := ask(one, "drain", "--wait", "--for", "1h", "--reason", "new disk"); code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	if got := carrier(status(t, w2), prefix); got != "control-plane" {
		t.Errorf("%q carries the prefix, though worker waited for it to go", got)
	}
	waitStatus(t, w2, "status tells of the maintenance", func(s control.Status) bool {
		p := peer(t, s, "worker")
		return p.State == "draining" && p.Drain != nil && p.Drain.Reason == "new disk" && p.Drain.Until != nil &&
			p.Drain.By != "" && s.Health.Level == control.OK
	})
	goOn()
	if lost, _, _ := s.finish(); lost > w.overflows().since(before)[0] {
		t.Errorf("the maintenance cost %d packets", lost)
	}
	if out, code := ask(w2, "peers", "worker"); code != 0 {
		t.Errorf("exit %d: %s", code, out)
	}
	if _, err := one.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := w.Worker.IP("link del mesh0"); err != nil { // programs go on without it
		t.Fatal(err)
	}
	waitStatus(t, w2, "it is down, without an alarm", func(s control.Status) bool {
		return peer(t, s, "worker").State == "down" && s.Health.Level == control.OK &&
			slices.Contains(peerProblems(s, "worker"), "peer_maintained")
	})

	one = startWorker()
	waitStatus(t, w2, "it comes back in maintenance", func(s control.Status) bool {
		p := peer(t, s, "worker")
		return p.State == "draining" && carrier(s, prefix) == "control-plane"
	})
	if out, code := ask(cp, "drain", "--wait", "--timeout", "3s"); code != 6 {
		t.Errorf("no other node can take over, and drain --wait ends with %d: %s", code, out)
	}
	for _, d := range []*nstest.Daemon{cp, one} {
		if out, code := ask(d, "undrain"); code != 0 {
			t.Fatalf("exit %d: %s", code, out)
		}
	}
	waitStatus(t, w2, "all is as before", func(s control.Status) bool {
		return peer(t, s, "worker").State == "up" && peer(t, s, "control-plane").State == "up" &&
			s.Health.Level == control.OK
	})
}
