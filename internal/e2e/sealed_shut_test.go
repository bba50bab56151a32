package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// Once packets were encrypted, no start has them travel bare: neither a bad file, nor a last good one that
// does not encrypt, nor both gone after a reboot. Only an edit of the file does, at once.
func TestNoStartUndoesEncryption(t *testing.T) {
	nstest.Share(t, nstest.Busy)
	s := newSealed(t)
	clear, doc := demoFile(t), s.file()
	// Whatever is not stopped leaves by the default route, to a host that has the pods.
	s.ip(s.Worker2, "route add default via 172.18.0.4")
	pod, other := podAt{s.PodW2b, "10.244.2.3"}, podAt{s.PodW, "10.244.1.2"}
	up := func(all ...*nstest.Daemon) {
		t.Helper()
		for i, name := range []string{"worker", "worker2"} {
			waitPeer(t, all[i], name, "up", func(p control.Peer) bool { // up alone may be of before
				return p.State == control.Up && (p.WireGuard == nil || p.WireGuard.LatestHandshake != nil)
			})
		}
		meet(t, pod, other)
	}

	w, w2 := s.run(s.Worker, clear), s.run(s.Worker2, clear)
	up(w2, w)
	state := w2.Socket + ".state"
	lastGood := filepath.Join(state, "last-good.toml")
	old, err := os.ReadFile(lastGood)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []*nstest.Daemon{w, w2} {
		s.helper(d.Host)
		save(t, d, doc)
		waitStatus(t, d, "encrypts", func(st control.Status) bool {
			return st.WireGuard != nil && st.WireGuard.Implementation != ""
		})
	}
	up(w2, w)
	watch := s.watchBare("10.244.2.3", "10.244.1.2")
	leak := func() {
		t.Helper()
		if out, err := s.PodW2b.Run("ping", "-c", "3", "-i", "0.05", "-W", "1", "10.244.1.2"); err == nil {
			t.Errorf("%s", out)
		}
		if out, err := s.Worker2.Run("ping", "-c", "1", "-W", "1", "10.244.1.2"); err == nil {
			t.Errorf("%s", out)
		}
	}

	// A bad file, and a last good one of before.
	w2.Kill()
	save(t, w2, doc+badLine)
	if err := os.WriteFile(lastGood, old, 0o644); err != nil {
		t.Fatal(err)
	}
	w2 = s.begin(s.Worker2, w2.Config)
	if err := w2.WaitReady(); err != nil {
		t.Fatal(err)
	}
	st := waitStatus(t, w2, "shut", func(st control.Status) bool {
		return slices.Contains(problems(st), "shut")
	})
	if st.Health.Level != control.Failed || st.Config.Source != control.SourceLastGood {
		t.Errorf("%+v, %+v", st.Health, st.Config)
	}
	leak()
	save(t, w2, doc)
	up(w2, w)

	// A reboot with nothing to run. What the kernel tells of packets from before, such as that a neighbour has
	// not answered, no reboot would leave.
	watch.end(t)
	w2.Kill()
	if helper := s.helpers[s.Worker2]; helper != nil { // nil: the kernel encrypts
		helper.Kill()
	}
	save(t, w2, doc+badLine)
	for _, line := range []string{"link del mesh0", "link del meshd-wg", "route flush type unreachable"} {
		_ = s.Worker2.IP(line) // as far as it is there
	}
	run(t, s.Worker2.Namespace, "nft", "flush", "ruleset")
	if err := os.Remove(lastGood); err != nil {
		t.Fatal(err)
	}
	d := s.begin(s.Worker2, w2.Config)
	if code, err := d.Exit(); err != nil || code != 78 {
		t.Errorf("exit %d, %v", code, err)
	}
	watch = s.watchBare("10.244.2.3", "10.244.1.2")
	if out := run(t, s.Worker2.Namespace, "ip", "route", "show", "type", "unreachable"); !strings.Contains(out,
		"10.244.0.0/16") {
		t.Errorf("routes:\n%s", run(t, s.Worker2.Namespace, "ip", "route"))
	}
	leak()
	watch.end(t)

	// Going back is an edit.
	s.helper(s.Worker2)
	save(t, w2, doc)
	w2 = s.begin(s.Worker2, w2.Config)
	if err := w2.WaitReady(); err != nil {
		t.Fatal(err)
	}
	up(w2, w)
	for _, d := range []*nstest.Daemon{w, w2} {
		save(t, d, clear)
		waitStatus(t, d, "does not encrypt", func(st control.Status) bool { return st.WireGuard == nil })
	}
	up(w2, w)
	for _, h := range []*nstest.Host{s.Worker, s.Worker2} {
		// The process in user space has made its interface again, and waits.
		if out, _ := h.Run("ip", "addr", "show", "meshd-wg"); strings.Contains(out, ",UP") ||
			strings.Contains(out, "inet") {
			t.Errorf("%s", out)
		}
	}
}
