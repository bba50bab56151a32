package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// code returns the exit code of a command that failed.
func code(err error) int {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	return -1
}

// onDisk checks what the file of a daemon has.
func onDisk(t *testing.T, d *nstest.Daemon, when, want string) {
	t.Helper()
	if got, err := os.ReadFile(d.Config); err != nil || string(got) != want {
		t.Errorf("%s: %v, the file has\n%s", when, err, got)
	}
}

// followed runs what a unit of root runs when the record of what was applied changes on disk, which is soon
// after the daemon tells of it, until the file has the wanted text.
func followed(t *testing.T, d *nstest.Daemon, want string) {
	t.Helper()
	var got []byte
	eventually(t, "the file follows", func() bool {
		_, err := d.Ask("follow-file")
		if err == nil {
			got, err = os.ReadFile(d.Config)
		}
		if err != nil {
			t.Fatal(err)
		}
		return string(got) == want
	}, func() string { return string(got) })
}

// A change cuts this host off from its peer. Nobody confirms it, and meshd goes back: by itself, and after a
// kill that came before its time was over. The file on disk follows with root's next command.
func TestChangeThatIsNotConfirmed(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	before := onEngine(t, demoFile(t))
	d, other := w.own(w.Worker2, demoFile(t)), w.own(w.Worker, demoFile(t))
	waitPeer(t, d, "worker", "up", func(p control.Peer) bool { return p.State == control.Up })
	cut := before + "[[allow]]\nfrom = [\"worker2\"]\nto = [\"worker2\"]\n"
	change := filepath.Join(w.dir, "change.toml")
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(change, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put(cut)
	if _, err := d.Ask("apply", change, "--confirm", "3s"); err != nil {
		t.Fatal(err)
	}
	onDisk(t, d, "applied by root", cut)
	s := status(t, d)
	if p := s.Config.Pending; p == nil || p.By != "root" || p.SHA256 != s.Config.SHA256 ||
		s.Config.Generation != 2 {
		t.Errorf("%+v, %+v", p, s.Config)
	}
	if _, err := w.PodW.Run("ping", "-c", "1", "-w", "1", "10.244.2.2"); err == nil {
		t.Error("the change does not do what it should")
	}
	waitStatus(t, d, "taken back", isTakenBack)
	run(t, w.PodW, "ping", "-c", "1", "-w", "10", "10.244.2.2")
	onDisk(t, d, "meshd may not write it", cut)
	if _, err := d.Ask("confirm"); code(err) != 1 {
		t.Errorf("a late confirm: %v", err)
	}
	if _, err := d.Ask("reload"); err != nil || status(t, d).Config.SHA256 == s.Config.SHA256 {
		t.Errorf("a reload applies what was taken back: %v", err)
	}
	followed(t, d, before)

	// A power cut between apply and confirm.
	if _, err := d.Ask("apply", change, "--confirm", "4s"); err != nil {
		t.Fatal(err)
	}
	d.Kill()
	d = w.again(d)
	if p := status(t, d).Config.Pending; p == nil || p.LeftSeconds > 4 {
		t.Errorf("after a kill: %+v", p)
	}
	waitStatus(t, d, "taken back", isTakenBack)
	run(t, w.PodW, "ping", "-c", "1", "-w", "10", "10.244.2.2")
	followed(t, d, before)

	// The time is over while no meshd runs: it never runs the change again.
	if _, err := d.Ask("apply", change, "--confirm", "1s"); err != nil {
		t.Fatal(err)
	}
	d.Kill()
	eventually(t, "the change's time is over", func() bool {
		return past(t, d, change)
	}, d.Log)
	d = w.again(d)
	if s := status(t, d); s.Config.Generation != 1 || !isTakenBack(s) {
		t.Errorf("%+v, %q", s.Config, problems(s))
	}
	historyOf(t, d, "taken_back/", "apply/taken_back", "taken_back/", "apply/taken_back", "taken_back/",
		"apply/taken_back", "start/")
	_ = other
}

// isTakenBack tells whether a change was taken back and the file still has it.
func isTakenBack(s control.Status) bool {
	return s.Config.Source == control.SourceApplied && slices.Contains(problems(s), "change_taken_back")
}

// past tells whether the second is over that a change had.
func past(t *testing.T, d *nstest.Daemon, file string) bool {
	t.Helper()
	change, err := os.Stat(d.Socket + ".state/change")
	if err != nil {
		t.Fatal(err)
	}
	mark := file + ".mark"
	if err := os.WriteFile(mark, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	now, err := os.Stat(mark)
	return err == nil && now.ModTime().Sub(change.ModTime()).Seconds() > 1
}

// historyOf checks how and with what outcome files came into force, the newest first.
func historyOf(t *testing.T, d *nstest.Daemon, want ...string) {
	t.Helper()
	all := filesOf(t, d)
	for i, f := range all {
		if i >= len(want) || f.Cause+"/"+f.Outcome != want[i] {
			t.Errorf("file %d: %s/%s, want %q", f.Number, f.Cause, f.Outcome, want)
		}
	}
	if len(all) != len(want) || !all[0].InForce {
		t.Errorf("%d files, want %d", len(all), len(want))
	}
}

// filesOf returns the history of a daemon, the newest file first.
func filesOf(t *testing.T, d *nstest.Daemon) []control.File {
	t.Helper()
	doc, err := d.Ask("history", "--json")
	if err != nil {
		t.Fatal(err)
	}
	var all control.Files
	if err := json.Unmarshal([]byte(doc), &all); err != nil {
		t.Fatal(err)
	}
	return all.Files
}

// What is confirmed stays; earlier files come back by their numbers; an edit by hand is the newest word.
func TestChangeThatIsConfirmed(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	d := w.own(w.Worker2, demoFile(t))
	change := filepath.Join(w.dir, "change.toml")
	for _, text := range []string{onEngine(t, demoFile(t)) + fourth, "[network]\n"} {
		if err := os.WriteFile(change, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if text == "[network]\n" {
			if _, err := d.Ask("apply", change); code(err) != 1 {
				t.Errorf("a faulty file: %v", err)
			}
			continue
		}
		if _, err := d.Ask("apply", change, "--confirm", "1m"); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Ask("confirm"); err != nil {
			t.Error(err)
		}
		onDisk(t, d, "confirmed", text)
	}
	if s := status(t, d); s.Config.Pending != nil || s.Config.Generation != 2 ||
		s.Config.Source != control.SourceFile {
		t.Errorf("%+v", s.Config)
	}
	if out, err := d.Ask("diff", "1"); code(err) != 1 {
		t.Errorf("%v: %s", err, out)
	} else {
		contains(t, out, "--- file 1\n+++ file 2\n", "+name = \"fourth\"\n")
	}
	if _, err := d.Ask("rollback"); err != nil {
		t.Error(err)
	}
	onDisk(t, d, "rolled back", onEngine(t, demoFile(t)))
	if _, err := d.Ask("apply", change+".none"); code(err) != 1 {
		t.Errorf("a file that there is not: %v", err)
	}
	if _, err := d.Ask("rollback", "2", "--confirm", "1m"); err != nil {
		t.Error(err)
	}
	save(t, d, demoFile(t)+"# by hand\n")
	waitStatus(t, d, "the edit", func(s control.Status) bool {
		return s.Config.Pending == nil && len(s.Peers) == 2 && s.Config.Generation == 5
	})
	historyOf(t, d, "edit/", "rollback/superseded", "rollback/", "apply/confirmed", "start/")
}
