package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// badLine is a fault that the demo's file gets in a line of its own.
const badLine = "mut = 1500\n"

// A host finds half an edit after a power cut. It stays in the mesh with the file that was in force, says
// so, and takes the file once it is mended.
func TestLastGoodFile(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	m := newMesh(t)
	save(t, m.w2, demoFile(t)+badLine)
	waitStatus(t, m.w2, "rejected", func(s control.Status) bool { return only(s, "file_rejected") })
	cut := func(d *nstest.Daemon) {
		t.Helper()
		d.Kill()
		if err := m.Worker2.IP("link del mesh0"); err != nil {
			t.Fatal(err)
		}
	}
	cut(m.w2)

	again := m.again(m.w2)
	if err := again.WaitReady(); err != nil {
		t.Fatal(err)
	}
	s := status(t, again)
	if c := s.Config; c.Source != control.SourceLastGood || c.LastGood.IsZero() || c.LastReload.OK ||
		!strings.Contains(c.Error, again.Config+":") || c.Path != again.Config || !only(s, "last_good_file") {
		t.Errorf("%+v, %q", c, s.Warnings)
	}
	run(t, m.PodW2b, "ping", "-c", "1", "-w", "10", "10.244.1.2")
	waitPeer(t, m.w, "worker2", "runs the same file", func(p control.Peer) bool {
		return p.State == control.Up && p.ConfigMatch != nil && *p.ConfigMatch
	})
	save(t, again, demoFile(t)+fourth)
	waitStatus(t, again, "mended", func(s control.Status) bool {
		return s.Config.Source == control.SourceFile && len(s.Peers) == 3 && len(problems(s)) == 0
	})
	cut(again)

	// With a bad file these starts have nothing to run.
	kept := filepath.Join(again.Socket+".state", "last-good.toml")
	save(t, again, demoFile(t)+badLine)
	t.Run("strict, 78", func(t *testing.T) {
		d, err := m.Worker2.Meshd(m.binary, again.Config, m.dir, "--strict")
		if err != nil {
			t.Fatal(err)
		}
		if code, err := d.Exit(); err != nil || code != 78 {
			d.Kill()
			t.Errorf("%d, %v", code, err)
		}
	})
	for name, damage := range map[string]func() error{
		"a damaged one, 78": func() error { return os.Truncate(kept, 100) },
		"an empty one, 78":  func() error { return os.Truncate(kept, 0) },
		"none, 78":          func() error { return os.Remove(kept) },
	} {
		t.Run(name, func(t *testing.T) {
			before, err := os.ReadFile(kept)
			if err != nil || damage() != nil {
				t.Fatal(err)
			}
			m.exits(m.Worker2, 78, again.Config, again.Config+":", "error: ")
			if err := os.WriteFile(kept, before, 0o644); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// What takes the place of the file for a moment is told and not opened. Repairs, reloads and the end of
// the daemon do not wait for it.
func TestFileThatIsNone(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	d := w.own(w.Worker2, demoFile(t))
	put := func(how func(path string) error) {
		t.Helper()
		if err := os.RemoveAll(d.Config); err != nil {
			t.Fatal(err)
		}
		if err := how(d.Config); err != nil {
			t.Fatal(err)
		}
	}
	fifo := func(path string) error { return syscall.Mkfifo(path, 0o644) }
	for name, how := range map[string]func(path string) error{
		"a FIFO":   fifo,
		"a folder": func(path string) error { return os.Mkdir(path, 0o755) },
		"a device": func(path string) error { return os.Symlink("/dev/zero", path) },
		"a circle": func(path string) error { return os.Symlink(path, path) },
	} {
		t.Run(name, func(t *testing.T) {
			put(how)
			waitStatus(t, d, "rejected", func(s control.Status) bool {
				return s.Config.Generation > 0 && slices.Contains(problems(s), "file_rejected")
			})
			if _, err := d.Ask("reload"); err == nil {
				t.Error("reload accepts it")
			}
			if err := w.Worker2.IP("link del mesh0"); err != nil {
				t.Fatal(err)
			}
			eventually(t, "mesh0 is back", func() bool {
				_, err := w.Worker2.Run("ip", "link", "show", "mesh0")
				return err == nil
			}, d.Log)
			if err := os.RemoveAll(d.Config); err != nil {
				t.Fatal(err)
			}
			save(t, d, demoFile(t))
			waitStatus(t, d, "a file again", func(s control.Status) bool { return len(problems(s)) == 0 })
		})
	}

	// A mount of the file shows it for ever: an edit of what was mounted does not arrive.
	t.Run("a mount of a file that was replaced", func(t *testing.T) {
		elsewhere := d.Config + ".elsewhere"
		if err := os.WriteFile(elsewhere, []byte(onEngine(t, demoFile(t))), 0o644); err != nil {
			t.Fatal(err)
		}
		// In the daemon's own mounts, which end with it.
		run(t, w.Worker2.Namespace, "nsenter", "-t", strconv.Itoa(d.PID()), "-m",
			"mount", "--bind", elsewhere, d.Config)
		if err := os.WriteFile(elsewhere+".new", []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(elsewhere+".new", elsewhere); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Ask("reload"); err != nil {
			t.Error(err)
		}
		waitStatus(t, d, "told", func(s control.Status) bool {
			return slices.Contains(problems(s), "file_detached")
		})
	})

	put(fifo)
	if took, err := d.Stop(); err != nil {
		t.Errorf("%v after %v", err, took)
	}
}
