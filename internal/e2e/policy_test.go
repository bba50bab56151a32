package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// Docker's way: the host drops what it forwards. Pods reach each other and the
// outside all the same, whether it did before meshd came or does it later.
func TestForwardPolicyDrop(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	drop := func(h *nstest.Host, policy string) {
		t.Helper()
		run(t, h.Namespace, "iptables-nft", "-P", "FORWARD", policy)
	}
	drop(w.Worker2, "DROP")
	m := w.startAll(demoFile(t))
	outside := m.outside()
	serve(t, outside.Namespace, "172.18.0.77:80")
	serve(t, m.PodW, "10.244.1.2:80")
	seenAs(t, m.PodW2b, "10.244.1.2:80", "10.244.2.3")
	seenAs(t, m.PodW2b, "172.18.0.77:80", "172.18.0.3")

	// Bridged packets pass the same chains where br_netfilter is on, as
	// Kubernetes wants it; without the module there is no such setting.
	serve(t, m.PodW2a, "10.244.2.2:80")
	if err := m.Worker2.Sysctl("bridge.bridge-nf-call-iptables", "1"); err != nil &&
		!errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	seenAs(t, m.PodW2b, "10.244.2.2:80", "10.244.2.3")

	foreign := capture(t, m.PodW, "eth0")
	drop(m.Worker, "DROP")
	// The repair is an event away: what is sent again arrives.
	if out, err := m.PodW2b.Run("ping", "-c", "20", "-i", "0.1", "-W", "1", "10.244.1.2"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	next(t, foreign, "a packet of the pod", isIPv4)
	// What is none of ours is still dropped.
	if err := outside.IP("route add 192.0.2.0/24 via 172.18.0.3"); err != nil {
		t.Fatal(err)
	}
	if err := m.Worker2.IP("link add t0 type veth peer name t1", "addr add 192.0.2.1/24 dev t0",
		"link set t0 up", "link set t1 up",
		"neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev t0"); err != nil {
		t.Fatal(err)
	}
	tap := capture(t, m.Worker2.Namespace, "t0")
	_, _ = outside.Run("ping", "-c", "1", "-W", "1", "192.0.2.9")
	if frame, err := tap.Next(100*time.Millisecond, isIPv4); !errors.Is(err, nstest.ErrNoFrame) {
		t.Errorf("a foreign packet was forwarded: % x, %v", frame, err)
	}

	if s := status(t, m.w2); s.Masquerade.Repairs != 0 || len(problems(s)) != 0 {
		t.Errorf("%+v, %q", s.Masquerade, s.Warnings)
	}
	before := run(t, m.Worker2.Namespace, "iptables-nft", "-S", "FORWARD")
	contains(t, before, "-A FORWARD -i mesh0 -m comment --comment meshd -j ACCEPT")
	if _, err := m.w2.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.w2.Ask("cleanup"); err != nil {
		t.Error(err)
	}
	if got := run(t, m.Worker2.Namespace, "iptables-nft", "-S", "FORWARD"); got != "-P FORWARD DROP\n" {
		t.Errorf("left behind:\n%s", got)
	}
}

// The old iptables, which nftables does not see.
func TestForwardPolicyDropLegacy(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	for _, h := range w.Hosts() {
		run(t, h.Namespace, "iptables-legacy", "-P", "FORWARD", "DROP")
	}
	m := w.startAll(demoFile(t))
	contains(t, run(t, m.PodW2b, "ping", "-c", "1", "10.244.1.2"), "ttl=60")
	if _, err := m.w2.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.w2.Ask("cleanup"); err != nil {
		t.Error(err)
	}
	left := func() string { return run(t, m.Worker2.Namespace, "iptables-legacy", "-S", "FORWARD") }
	if got := left(); got != "-P FORWARD DROP\n" {
		t.Errorf("left behind:\n%s", got)
	}
	// What the service has root do for it.
	if _, err := m.w2.Ask("legacy-forward"); err != nil {
		t.Error(err)
	}
	contains(t, left(), "-A FORWARD -i mesh0 ", "-A FORWARD -s 10.244.2.0/24 ")
	save(t, m.w2, demoFile(t)+"[masquerade]\nforward = false\n")
	if _, err := m.w2.Ask("legacy-forward"); err != nil {
		t.Error(err)
	}
	if got := left(); got != "-P FORWARD DROP\n" {
		t.Errorf("left behind:\n%s", got)
	}
}

// A host that does not forward is told of, and changed only on request. Strict
// reverse path filtering is no trouble.
func TestSysctls(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	keys := []string{"ipv4.ip_forward", "ipv6.conf.all.forwarding"}
	for _, key := range keys {
		if err := w.Worker2.Sysctl(key, "0"); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range w.Hosts() {
		if err := errors.Join(h.Sysctl("ipv4.conf.all.rp_filter", "1"), h.Sysctl("ipv4.conf.default.rp_filter",
			"1")); err != nil {
			t.Fatal(err)
		}
	}
	m := w.startAll(dualStack("172.18.0.%d"))
	s := status(t, m.w2)
	if len(problems(s)) != 2 || !strings.Contains(s.Warnings[0], "net.ipv4.ip_forward is 0") ||
		!strings.Contains(s.Warnings[1], "net.ipv6.conf.all.forwarding is 0") {
		t.Errorf("warnings %q", s.Warnings)
	}
	told(t, m.w2, "net.ipv4.ip_forward")
	told(t, m.w2, "net.ipv6.conf.all.forwarding")
	for _, key := range keys {
		if got := run(t, m.Worker2.Namespace, "sysctl", "-n", "net."+key); got != "0\n" {
			t.Errorf("%s was changed to %s", key, got)
		}
	}
	if err := w.Worker2.Sysctl("ipv4.ip_forward", "1"); err != nil {
		t.Fatal(err)
	}
	if s := status(t, m.w2); len(problems(s)) != 1 {
		t.Errorf("warnings %q", s.Warnings)
	}
	if _, err := m.w2.Stop(); err != nil {
		t.Fatal(err)
	}
	d := w.start(w.Worker2, m.w2.Config, "--sysctl")
	if err := d.WaitReady(); err != nil {
		t.Fatal(err)
	}
	if s := status(t, d); len(problems(s)) != 0 {
		t.Errorf("warnings %q", s.Warnings)
	}
	contains(t, run(t, m.Worker2.Namespace, "sysctl", "-n", "net.ipv6.conf.all.forwarding"), "1")
	contains(t, run(t, m.PodW2b, "ping", "-c", "1", "10.244.1.2"), "ttl=60")
	contains(t, run(t, m.PodW2b, "ping", "-c", "1", "fd00:10:244:1::2"), "ttl=60")
	run(t, m.PodW2b, "traceroute", "-n", "-q", "1", "-w", "3", "10.244.1.2")
	if out, err := m.PodW2b.Run("ping", "-c", "1", "-W", "5", "10.244.9.9"); err == nil ||
		!strings.Contains(out, "Destination Net Unreachable") {
		t.Errorf("%v\n%s", err, out)
	}
}

// While another program holds the lock of iptables-legacy, its rules come later: everything else goes on,
// and status says what is missing.
func TestStuckXtablesLock(t *testing.T) {
	nstest.Share(t, nstest.Resting)
	w := newWorld(t)
	run(t, w.Worker2.Namespace, "iptables-legacy", "-P", "FORWARD", "DROP")
	lock, err := os.Create(filepath.Join(t.TempDir(), "lock")) // of this test alone
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\nXTABLES_LOCKFILE=%s exec %s \"$@\"\n", lock.Name(), w.binary)
	w.binary = filepath.Join(w.dir, "meshd")
	if err := os.WriteFile(w.binary, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	s := w.manager(w.Worker2, 3*time.Second)
	d := w.service(s, w.Worker2, w.write(demoFile(t)))
	if err := d.WaitEvent("rules_failed"); err != nil {
		t.Fatal(err)
	}
	docs := []string{demoFile(t) + fourth, demoFile(t)}
	at := len(s.Heard())
	for i := range 60 { // the watchdog hears from meshd once a second
		at = heard(t, s, at, "WATCHDOG=1")
		if i%10 == 0 {
			got := rewrite(t, d, docs[i/10%2])
			if !got.Config.LastReload.OK || !slices.Contains(problems(got), "rules_failed") {
				t.Fatalf("%+v, %+v", got.Config, got.Health)
			}
		}
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	rewrite(t, d, docs[0]) // reading a file looks at these tables at once, whatever the pause after failures
	waitStatus(t, d, "the rules", func(s control.Status) bool { return len(problems(s)) == 0 })
	contains(t, run(t, w.Worker2.Namespace, "iptables-legacy", "-S", "FORWARD"), "-A FORWARD -i mesh0 ")
}
