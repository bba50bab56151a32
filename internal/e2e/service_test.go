package e2e

import (
	"os"
	"slices"
	"testing"
	"time"

	"example.org/meshd/internal/nstest"
)

// heard waits for the service manager to hear lines, in this order.
func heard(t *testing.T, s *nstest.Service, at int, lines ...string) int {
	t.Helper()
	for _, line := range lines {
		var err error
		if at, err = s.Wait(at, line); err != nil {
			t.Fatal(err)
		}
	}
	return at
}

// heardStatus waits for a line for people that has all words.
func heardStatus(t *testing.T, s *nstest.Service, at int, words ...string) int {
	t.Helper()
	at, err := s.Wait(at, "STATUS=", words...)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// The service manager hears when packets are forwarded, what goes on, of each
// reload, and of the end.
func TestServiceManagerHears(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	file := w.write(demoFile(t))
	other := w.start(w.Worker, file)
	if err := other.WaitReady(); err != nil {
		t.Fatal(err)
	}
	if err := w.Worker2.IP("addr del 172.18.0.3/16 dev eth0"); err != nil {
		t.Fatal(err)
	}
	s := w.manager(w.Worker2, 600*time.Millisecond)
	own := w.write(demoFile(t))
	d := w.startService(s, w.Worker2, own)
	at := heard(t, s, 0, "STATUS=", "EXTEND_TIMEOUT_USEC=")
	for _, line := range s.Heard() {
		if line == "READY=1" || line == "WATCHDOG=1" {
			t.Errorf("%s before packets are forwarded", line)
		}
	}
	if err := w.Worker2.IP("addr add 172.18.0.3/16 dev eth0"); err != nil {
		t.Fatal(err)
	}
	at = heardStatus(t, s, heard(t, s, at, "READY=1"), "worker2", "0 of 2")
	at = heard(t, s, at, "WATCHDOG=1")
	run(t, w.PodW2b, "ping", "-c", "1", "-W", "2", "10.244.1.2")
	at = heardStatus(t, s, at, "worker2", "1 of 2")

	if _, err := d.Ask("reload"); err != nil {
		t.Fatal(err)
	}
	at = heard(t, s, at, "RELOADING=1", "MONOTONIC_USEC=", "STATUS=", "READY=1")
	at = heardStatus(t, s, at, "worker2")
	if err := os.WriteFile(own, []byte(demoFile(t)+"[[node]]\nname = 7\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	at = heardStatus(t, s, heard(t, s, at, "RELOADING=1", "READY=1"), "generation 1", own+":")
	at = heard(t, s, at, "WATCHDOG=1")
	if _, err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	heard(t, s, at, "STOPPING=1")
}

// A packet path that hangs gets no sign of life to the watchdog, though the rest
// of the daemon is well; when it goes on, so does the watchdog.
func TestWatchdogWatchesThePackets(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t).fast()
	file := w.write(demoFile(t) + "[dataplane]\nengine = \"user\"\n") // programs in the kernel would go on
	other := w.start(w.Worker, file)
	s := w.manager(w.Worker2, 600*time.Millisecond)
	d := w.service(s, w.Worker2, file)
	if err := other.WaitReady(); err != nil {
		t.Fatal(err)
	}
	heard(t, s, 0, "WATCHDOG=1")

	// From now on writing to the TUN takes five seconds.
	detach := inject(t, d, "writev:delay_enter=5000000")
	if out, err := w.PodW.Run("ping", "-c", "1", "-W", "1", "10.244.2.3"); err == nil {
		t.Fatalf("the packet path does not hang: %s", out)
	}
	if err := d.WaitEvent("hangs"); err != nil {
		t.Fatal(err)
	}
	at := len(s.Heard())
	if _, err := client(t, d).Status(t.Context()); err != nil { // the rest is well
		t.Error(err)
	}
	if slices.Contains(s.Heard()[at:], "WATCHDOG=1") {
		t.Error("a sign of life while the packet path hangs")
	}
	detach()
	heard(t, s, at, "WATCHDOG=1")
	run(t, w.PodW, "ping", "-c", "1", "-W", "2", "10.244.2.3")
}
