// Command install is `make test-package`: it installs the packages of dist/ as people
// do. Two hosts with a real systemd, made of Debian's own packages and joined by a wire,
// install the .deb, are configured, upgraded under load, hurt, and left without a trace.
// Real firewalls, network managers and Docker run beside meshd there. A third host installs
// the .rpm with dnf, and the binaries of other machines are started. The steps are also the
// rows of docs/packages.md, which a run can write (-page).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// main reads the flags. A signal ends the step in progress; the machines are stopped all the same.
func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	t := &trial{ctx: ctx}
	flag.StringVar(&t.dist, "dist", "dist", "where the packages are")
	flag.StringVar(&t.previous, "previous", "bin/previous", "where `make previous` has put the version before")
	flag.StringVar(&t.work, "work", "/var/tmp/meshd-install",
		"where roots are made; its debootstrapped base is kept for the next time")
	flag.StringVar(&t.page, "page", "", "`file` to write with what each step did and saw")
	only := flag.Bool("prepare", false, "only make the base, which needs no packages")
	ansible := flag.Bool("ansible", false, "only play docs/ansible.md")
	flag.Parse()
	if *ansible {
		steps, besides = bookSteps, nil
	}
	if err := t.run(*only); err != nil {
		fmt.Fprintf(os.Stderr, "install: %v\n", err)
		os.Exit(1)
	}
}

// A step is one thing that must be so. Those after it build on it.
type step struct {
	what string // what the packages promise
	how  string // what the step does, for the page

	// do returns what it saw, in words and figures of this run.
	do    func(*trial) (seen string, err error)
	alone bool // it counts lost packets, and other work may lose some
}

// trial is what the steps work with.
type trial struct {
	ctx                  context.Context
	dist, previous, work string
	page                 string // where to write the table, if anywhere
	base                 string // a root of Debian, never booted
	a, b                 *machine

	mu     sync.Mutex // guards booted, for steps that run beside others
	booted []*machine
}

// one returns the package of dist that a pattern finds.
func (t *trial) one(pattern string) (string, error) {
	found, err := filepath.Glob(filepath.Join(t.dist, pattern))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("%d packages %s in %s: run `make package`", len(found), pattern, t.dist)
	}
	return found[0], nil
}

// run makes the base and plays the steps, or only makes the base.
func (t *trial) run(only bool) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("this needs root")
	}
	t.base = filepath.Join(t.work, "base")
	if err := os.MkdirAll(t.work, 0o755); err != nil {
		return err
	}
	defer func() {
		for _, m := range t.booted {
			err = errors.Join(err, m.stop())
		}
	}()
	if err := t.prepare(); err != nil || only {
		return err
	}
	rows, err := t.playAll()
	if err != nil {
		t.journals()
		return err
	}
	fmt.Printf("%d passed, 0 failed\n", len(rows))
	if t.page != "" {
		return t.write(rows)
	}
	return nil
}

// playAll plays the steps in order, and ends at the first that fails: those after it build on it.
// Beside them it plays what needs neither of the two hosts, until a step must be alone.
func (t *trial) playAll() (rows []row, err error) {
	beside := make(chan error, 1)
	var aside []row
	go func() {
		defer close(beside) // whoever receives later has nil at once
		for _, s := range besides {
			r, err := t.play(s)
			if err != nil {
				beside <- err
				return
			}
			aside = append(aside, r)
		}
	}()
	for _, s := range steps {
		if s.alone {
			err = errors.Join(err, <-beside)
		}
		var r row
		if err == nil {
			r, err = t.play(s)
		}
		if err != nil {
			return nil, errors.Join(err, <-beside)
		}
		rows = append(rows, r)
	}
	err = <-beside
	return append(rows, aside...), err
}

// play does a step, and says how long it took and what it saw.
func (t *trial) play(s step) (row, error) {
	began := time.Now()
	seen, err := s.do(t)
	if err != nil {
		return row{}, fmt.Errorf("%s: %w", s.what, err)
	}
	fmt.Printf("ok  %-66s %5.1f s\n    %s\n", s.what, time.Since(began).Seconds(), seen)
	return row{s, seen}, nil
}

// journals shows the last that meshd has said on each host.
func (t *trial) journals() {
	for _, m := range t.booted {
		log, _ := m.run("journalctl", "-u", "meshd", "-u", "meshd-file", "--no-pager", "-n", "40")
		fmt.Printf("-- %s\n%s", m.name, log)
	}
}
