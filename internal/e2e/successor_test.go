package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// install puts a program in the place of another, as a package manager does.
func install(t *testing.T, content []byte, path string) {
	t.Helper()
	if err := os.WriteFile(path+".new", content, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// Asked to, the program that was installed meanwhile takes over the process of the one
// that runs, with what waits in its queues: ten times under load, nothing is lost but what
// a TUN's queue cannot hold.
func TestInstalledProgramTakesOver(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	const upgrades, rate = 10, 5000
	w := newWorld(t).fast()
	old, err := os.ReadFile(shipped)
	if err != nil {
		t.Fatal(err)
	}
	next := filepath.Join(w.dir, "next")
	if out, err := exec.Command("go", "build", "-ldflags=-X main.version=99.0", "-o", next,
		"example.org/meshd/cmd/meshd").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	higher, err := os.ReadFile(next)
	if err != nil {
		t.Fatal(err)
	}
	w.binary = filepath.Join(w.dir, "meshd")
	install(t, old, w.binary)
	file := w.write(demoFile(t) + "[dataplane]\nqueues = 2\n")
	far := w.start(w.Worker, file)
	if err := far.WaitReady(); err != nil {
		t.Fatal(err)
	}
	s := w.manager(w.Worker2, 0)
	d := w.service(s, w.Worker2, file)
	pid, version := d.PID(), status(t, d).Version
	before := w.overflows()
	traffic := w.newTraffic(rate)
	for i := range upgrades {
		program, want := higher, "99.0"
		if i%2 == 1 {
			program, want = old, version
		}
		install(t, program, w.binary)
		boot, at := status(t, d).BootID, len(s.Heard())
		if err := syscall.Kill(pid, syscall.SIGUSR2); err != nil {
			t.Fatal(err)
		}
		heard(t, s, at, "RELOADING=1", "READY=1")
		heardStatus(t, s, at, "worker2")
		if slices.Contains(s.Heard()[at:], "STOPPING=1") {
			t.Error("the service manager heard of an end")
		}
		now := status(t, d)
		if now.Version != want || now.BootID == boot || d.State() != "running" {
			t.Fatalf("version %q, want %q, boot %s and %s, %s", now.Version, want, boot, now.BootID, d.State())
		}
		if got := s.Stored(); !slices.Equal(got, []string{"tun-0", "tun-1", "udp-0", "udp-1"}) {
			t.Fatalf("kept %q", got)
		}
	}
	waitEvents(t, d, upgrades, "adopted", "sockets", "2", "queues", "2")
	lost, overflows := traffic.finish(), w.overflows().since(before)
	t.Logf("lost %v, in the TUN's queues %v", lost, overflows)
	if lost != overflows {
		t.Errorf("lost %v, in the TUN's queues %v\n%+v\n%+v", lost, overflows, status(t, d).Totals,
			status(t, far).Totals)
	}
}

// Who asks while one program takes over from the other hears what he always heard: a meshd
// that names no file would count as another program, which is sent other packets.
func TestTakeoverIsNoNewsToPeers(t *testing.T) {
	nstest.Share(t, nstest.Busy)
	const takeovers = 5
	w := newWorld(t).fast()
	s, far := w.manager(w.Worker2, 0), w.own(w.Worker, demoFile(t))
	d := w.service(s, w.Worker2, w.write(demoFile(t)))
	known(t, far, "worker2")
	waitPeer(t, far, "worker2", "up", isIn(control.Up))
	if err := far.WaitEvent("peer_up", "peer", "worker2"); err != nil {
		t.Fatal(err)
	}
	before, asker := peerEvents(t, far, "worker2"), client(t, far)
	over, asked := make(chan struct{}), make(chan error)
	go func() {
		for {
			select {
			case <-over:
				asked <- nil
				return
			default:
			}
			if _, err := asker.Ping(t.Context(), control.PingRequest{Peer: "worker2"}); err != nil {
				asked <- err
				return
			}
		}
	}()
	for range takeovers {
		at := len(s.Heard())
		if err := syscall.Kill(d.PID(), syscall.SIGUSR2); err != nil {
			t.Fatal(err)
		}
		heard(t, s, at, "RELOADING=1", "READY=1")
	}
	close(over)
	if err := <-asked; err != nil {
		t.Fatal(err)
	}
	waitPeer(t, far, "worker2", "of the same file",
		func(p control.Peer) bool { return p.ConfigMatch != nil && *p.ConfigMatch })
	if now := peerEvents(t, far, "worker2"); now != before {
		t.Errorf("events: %q, then %q", before, now)
	}
}

// A program that does not start here, or does not accept the file, does not take over:
// the one that runs goes on, and says why.
func TestUnfitProgramDoesNotTakeOver(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	old, err := os.ReadFile(w.binary)
	if err != nil {
		t.Fatal(err)
	}
	w.binary = filepath.Join(w.dir, "meshd")
	install(t, old, w.binary)
	d := w.own(w.Worker2, demoFile(t))
	w.own(w.Worker, demoFile(t))
	boot := status(t, d).BootID
	for program, why := range map[string]string{
		"#!/bin/sh\n" +
			"echo mesh.toml:1:1: error: network.name: not in my time\nexit 1\n": "network.name: not in my time",
		"no program": "exec format error",
	} {
		install(t, []byte(program), w.binary)
		if err := syscall.Kill(d.PID(), syscall.SIGUSR2); err != nil {
			t.Fatal(err)
		}
		if _, err := d.WaitRecord(0, why, func(r nstest.Record) bool {
			return r.Event == "replace_failed" && strings.Contains(r.Fields["error"], why)
		}); err != nil {
			t.Fatal(err)
		}
		run(t, w.PodW, "ping", "-c", "1", "-W", "2", "10.244.2.3")
	}
	install(t, old, w.binary)
	if got := status(t, d); got.BootID != boot {
		t.Errorf("boot %s, then %s", boot, got.BootID)
	}
	out, err := d.Ask("events", "--json")
	if err != nil {
		t.Fatal(err)
	}
	failed := 0
	for line := range strings.Lines(out) {
		var e control.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if e.Kind == "replace_failed" {
			failed++
		}
	}
	if failed != 2 {
		t.Errorf("%d events tell of it\n%s", failed, out)
	}

	// A file that was rejected is not put in force by the way.
	save(t, d, demoFile(t)+"[dataplane]\nengine = \"none\"\n")
	if err := d.WaitEvent("reload_rejected"); err != nil {
		t.Fatal(err)
	}
	skip := len(d.Records())
	if err := syscall.Kill(d.PID(), syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	if _, err := d.WaitNextEvent(skip, "replace_failed"); err != nil {
		t.Fatal(err)
	}
	if got := status(t, d); got.BootID != boot || got.Config.Generation != 1 {
		t.Errorf("boot %s, then %s, %+v", boot, got.BootID, got.Config)
	}
	run(t, w.PodW, "ping", "-c", "1", "-W", "2", "10.244.2.3")
}

// While it waits for an address, meshd may be replaced as often as anybody likes: what the
// service manager keeps of an earlier run is not lost by it.
func TestTakeoverWhileWaiting(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	s := w.manager(w.Worker2, 0)
	w.own(w.Worker, demoFile(t))
	d := w.service(s, w.Worker2, w.write(demoFile(t)))
	if _, err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := w.Worker2.IP("addr del 172.18.0.3/16 dev eth0"); err != nil {
		t.Fatal(err)
	}
	at := len(s.Heard())
	d = w.startService(s, w.Worker2, d.Config)
	for range 3 {
		at = heard(t, s, at, "EXTEND_TIMEOUT_USEC=")
		if err := syscall.Kill(d.PID(), syscall.SIGUSR2); err != nil {
			t.Fatal(err)
		}
		at = heard(t, s, at, "RELOADING=1")
	}
	if err := w.Worker2.IP("addr add 172.18.0.3/16 dev eth0"); err != nil {
		t.Fatal(err)
	}
	heard(t, s, at, "READY=1")
	if err := d.WaitEvent("adopted", "sockets", "1", "queues", "1"); err != nil {
		t.Fatal(err)
	}
	run(t, w.PodW2b, "ping", "-c", "1", "-W", "2", "10.244.1.2")
	if got := s.Stored(); !slices.Equal(got, []string{"tun-0", "udp-0"}) {
		t.Errorf("kept %q", got)
	}
}

// Signals that come while one program takes over from the other do not end meshd; being
// told to end does.
func TestSignalsDuringTakeover(t *testing.T) {
	nstest.Share(t, nstest.Busy)
	w := newWorld(t).fast()
	d := w.own(w.Worker2, demoFile(t))
	const takeovers = 20
	c := client(t, d)
	for i := range takeovers {
		boot := ""
		eventually(t, "it answers", func() bool {
			s, err := c.Status(t.Context())
			boot = s.BootID
			return err == nil
		}, d.Log)
		if err := syscall.Kill(d.PID(), syscall.SIGUSR2); err != nil {
			t.Fatal(err)
		}
		for next, deadline := boot, time.Now().Add(patience); next == boot || next == ""; {
			if time.Now().After(deadline) {
				state := d.State()
				_ = syscall.Kill(d.PID(), syscall.SIGQUIT) // it writes where each goroutine hangs
				_, _ = d.Exit()
				t.Fatalf("after %d takeovers the next does not come: %s\n%s", i, state, d.Log())
			}
			if err := syscall.Kill(d.PID(), []syscall.Signal{syscall.SIGHUP, syscall.SIGUSR2}[i%2]); err != nil {
				t.Fatalf("after %d takeovers: %v, %s\n%s", i, err, d.State(), d.Log())
			}
			if s, err := c.Status(t.Context()); err == nil {
				next = s.BootID
			}
		}
	}
	if err := syscall.Kill(d.PID(), syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Stop(); err != nil && d.State() != "signal: terminated" {
		t.Errorf("%v, %s", err, d.State())
	}
}
