package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// Encryption that nobody confirms ends by itself on all hosts, and pods reach each other again. Once it is
// confirmed, nothing but the word of a person ends it: a start with a faulty file keeps it, a rollback does
// not.
func TestEncryptionIsConfirmed(t *testing.T) {
	nstest.Share(t, nstest.Busy)
	l := startLive(t)
	for host := range l.all {
		l.edit(host, l.keys)
	}
	change := filepath.Join(l.dir, "change.toml")
	if err := os.WriteFile(change, []byte(l.encrypt), 0o644); err != nil {
		t.Fatal(err)
	}
	// apply has all hosts encrypt, until it is confirmed within a time.
	apply := func(within string) {
		t.Helper()
		for host, d := range l.all {
			l.are(host, control.WireGuardReady)
			l.heard(host)
			onDisk(t, d, "not encrypted", l.keys)
		}
		for _, d := range l.all {
			if _, err := d.Ask("apply", change, "--confirm", within); err != nil {
				t.Fatal(err)
			}
		}
	}
	arrives := func() {
		t.Helper()
		run(t, l.PodW2b, "ping", "-c", "1", "-w", "20", "10.244.1.2")
	}

	apply("20s")
	for host := range l.all {
		waitStatus(t, l.all[host], "it sends nothing bare", func(s control.Status) bool {
			return s.WireGuard != nil && s.WireGuard.State == control.WireGuardSealed
		})
	}
	arrives()
	for host, d := range l.all {
		waitStatus(t, d, "taken back", isTakenBack)
		followed(t, d, l.keys)
		l.are(host, control.WireGuardReady)
	}
	bare := l.leftBare(first)
	arrives()
	if l.leftBare(first) == bare {
		t.Error("what is not encrypted does not leave bare")
	}

	apply("5m")
	for host, d := range l.all {
		if _, err := d.Ask("confirm"); err != nil {
			t.Error(err)
		}
		l.are(host, control.WireGuardSealed)
	}
	// Half an edit, and a power cut.
	d := l.all[first]
	if err := os.WriteFile(d.Config, []byte(l.keys[:len(l.keys)/2]), 0o644); err != nil {
		t.Fatal(err)
	}
	d.Kill()
	if err := l.hosts[first].IP("link del mesh0"); err != nil {
		t.Fatal(err)
	}
	bare = l.leftBare(first)
	d = l.begin(l.hosts[first], d.Config)
	l.all[first] = d
	if err := d.WaitReady(); err != nil {
		t.Fatal(err)
	}
	l.are(first, control.WireGuardSealed)
	arrives()
	if n := l.leftBare(first); n > bare {
		t.Errorf("%d datagrams left bare after the start", n-bare)
	}
	for host, d := range l.all {
		if _, err := d.Ask("rollback"); err != nil {
			t.Error(err)
		}
		onDisk(t, d, "rolled back", l.keys)
		l.are(host, control.WireGuardReady)
	}
	arrives()
}
