// Command install is `make test-package`: it installs the packages of dist/ as people
// do. Two hosts with a real systemd, made of Debian's own packages and joined by a wire,
// install the .deb, are configured, upgraded under load, hurt, and left without a trace;
// the .rpm goes into a root of its own, and the binaries of other machines are started.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// main reads the flags. A signal ends the step in progress; the machines are stopped all the same.
func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	dist := flag.String("dist", "dist", "where the packages are")
	work := flag.String("work", "/var/tmp/meshd-install",
		"where roots are made; its debootstrapped base is kept for the next time")
	only := flag.Bool("prepare", false, "only make the base, which needs no packages")
	flag.Parse()
	if err := run(ctx, *dist, *work, *only); err != nil {
		fmt.Fprintf(os.Stderr, "install: %v\n", err)
		os.Exit(1)
	}
}

// A step is one thing that must be so. Those after it build on it.
type step struct {
	what  string
	do    func(*trial) error
	alone bool // it counts lost packets, and other work may lose some
}

// trial is what the steps work with.
type trial struct {
	ctx        context.Context
	dist, work string
	base       string // a root of Debian, never booted
	a, b       *machine
	notes      []string // figures, for the end
}

// note keeps a figure for the end, where it is not lost among the steps.
func (t *trial) note(format string, args ...any) {
	t.notes = append(t.notes, fmt.Sprintf(format, args...))
}

// one returns the package of dist that a pattern finds.
func (t *trial) one(pattern string) (string, error) {
	found, err := filepath.Glob(filepath.Join(t.dist, pattern))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("%d packages %s in %s: run `make package`", len(found), pattern, t.dist)
	}
	return found[0], nil
}

// run plays all steps in order and ends at the first that fails: those after it build on it.
func run(ctx context.Context, dist, work string, only bool) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("this needs root")
	}
	t := &trial{ctx: ctx, dist: dist, work: work, base: filepath.Join(work, "base")}
	if err := os.MkdirAll(work, 0o755); err != nil {
		return err
	}
	defer func() {
		for _, m := range []*machine{t.a, t.b} {
			if m != nil {
				err = errors.Join(err, m.stop())
			}
		}
	}()
	if err := t.prepare(); err != nil || only {
		return err
	}
	beside := t.begin()
	for _, s := range steps {
		if s.alone {
			// Nothing runs beside a step that counts packets. The channel is closed then, so later steps do
			// not wait.
			err = errors.Join(err, <-beside)
		}
		if err == nil {
			err = t.play(s)
		}
		if err != nil {
			<-beside
			t.journals()
			return err
		}
	}
	for _, n := range t.notes {
		fmt.Println("    " + n)
	}
	fmt.Printf("%d passed, 0 failed\n", len(steps)+len(besides))
	return nil
}

// play does a step and says how long it took.
func (t *trial) play(s step) error {
	began := time.Now()
	if err := s.do(t); err != nil {
		return fmt.Errorf("%s: %w", s.what, err)
	}
	fmt.Printf("ok  %-62s %5.1f s\n", s.what, time.Since(began).Seconds())
	return nil
}

// begin does what needs no host, one after the other, beside the first steps. Whoever
// receives from the channel waits for it; later receivers have nil.
func (t *trial) begin() <-chan error {
	ended := make(chan error, 1)
	go func() {
		defer close(ended)
		for _, s := range besides {
			if err := t.play(s); err != nil {
				ended <- err
				return
			}
		}
	}()
	return ended
}

// journals shows the last that meshd has said on each host.
func (t *trial) journals() {
	for _, m := range []*machine{t.a, t.b} {
		if m != nil {
			log, _ := m.run("journalctl", "-u", "meshd", "--no-pager", "-n", "40")
			fmt.Printf("-- %s\n%s", m.name, log)
		}
	}
}

// prepare makes the base by debootstrap, unless an earlier run has. Where each run begins on
// a fresh machine, its work folder is the artefact to keep.
func (t *trial) prepare() error {
	const packages = "systemd,systemd-sysv,dbus,iproute2,iputils-ping,procps,nftables,firewalld,ufw," +
		"libpam-systemd" // for firewalld: debootstrap does not know that it provides default-logind
	complete := filepath.Join(t.base, "complete")
	if made, err := os.ReadFile(complete); err == nil && string(made) == packages {
		return nil
	}
	if err := os.RemoveAll(t.base); err != nil {
		return err
	}
	if out, err := exec.CommandContext(t.ctx, "debootstrap", "--variant=minbase", "--include="+packages,
		"bookworm", t.base).CombinedOutput(); err != nil {
		return fmt.Errorf("debootstrap: %w\n%s", err, tail(string(out)))
	}
	// Only the steps about firewalls have one.
	if out, err := exec.CommandContext(t.ctx, "systemctl", "--root="+t.base, "disable", "firewalld",
		"ufw").CombinedOutput(); err != nil {
		return fmt.Errorf("disable the firewalls: %w\n%s", err, tail(string(out)))
	}
	// Last, so that a run that was killed in between does not leave half a base to the next.
	return os.WriteFile(complete, []byte(packages), 0o644)
}

// copyOf makes a root of its own.
func (t *trial) copyOf(name string) (root string, err error) {
	root = filepath.Join(t.work, name)
	if err := os.RemoveAll(root); err != nil {
		return "", err
	}
	if out, err := exec.CommandContext(t.ctx, "cp", "-a", t.base, root).CombinedOutput(); err != nil {
		return "", fmt.Errorf("copy %s: %w\n%s", t.base, err, out)
	}
	return root, nil
}

// tail returns the last lines of a long output.
func tail(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
