package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
)

// steps returns cleanup steps that note their names in order, and fail where an error is given.
func steps(order *[]string, errs map[string]error, firsts ...string) (all []cleanupStep) {
	for _, what := range []string{"a", "b", "c"} {
		all = append(all, cleanupStep{what: what, first: slices.Contains(firsts, what),
			do: func(context.Context, *cleaner) error {
				*order = append(*order, what)
				return errs[what]
			}})
	}
	return all
}

// One step that fails keeps no other from removing what it can, unless it is one on which all
// depend; each error is told.
func TestCleanupSteps(t *testing.T) {
	broken, denied := errors.New("broken"), errors.New("denied")
	for name, test := range map[string]struct {
		errs   map[string]error
		firsts []string
		order  string
		want   []error
	}{
		"all well":       {nil, []string{"a"}, "abc", nil},
		"one fails":      {map[string]error{"b": broken}, nil, "abc", []error{broken}},
		"two fail":       {map[string]error{"a": broken, "c": denied}, nil, "abc", []error{broken, denied}},
		"the first":      {map[string]error{"a": broken, "c": denied}, []string{"a"}, "a", []error{broken}},
		"a later first":  {map[string]error{"b": denied}, []string{"b"}, "ab", []error{denied}},
		"first and well": {map[string]error{"b": denied}, []string{"a"}, "abc", []error{denied}},
	} {
		t.Run(name, func(t *testing.T) {
			var order []string
			err := new(cleaner).run(t.Context(), steps(&order, test.errs, test.firsts...))
			if got := strings.Join(order, ""); got != test.order {
				t.Errorf("steps %s, want %s", got, test.order)
			}
			if (err == nil) != (test.want == nil) {
				t.Errorf("%v", err)
			}
			for _, want := range test.want {
				if !errors.Is(err, want) {
					t.Errorf("%v does not tell of %v", err, want)
				}
			}
		})
	}
}

// What is said of a step names what was removed, and nothing if there was nothing.
func TestRemoving(t *testing.T) {
	failed := errors.New("failed")
	for name, test := range map[string]struct {
		removed bool
		err     error
		want    string
	}{
		"something":       {true, nil, "meshd: removed the rules\n"},
		"nothing":         {false, nil, ""},
		"some, then fail": {true, failed, "meshd: removed the rules\n"},
		"fail":            {false, failed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			do := removing("the rules", func() (bool, error) { return test.removed, test.err })
			if err := do(t.Context(), &cleaner{out: &out}); !errors.Is(err, test.err) || out.String() != test.want {
				t.Errorf("%v, %q", err, &out)
			}
		})
	}
}

// The order is a safety argument: see cleanupSteps.
func TestCleanupOrder(t *testing.T) {
	place := map[string]int{}
	for i, step := range cleanupSteps {
		if _, twice := place[step.what]; twice || step.do == nil {
			t.Errorf("step %q", step.what)
		}
		place[step.what] = i
		if step.first != (i == 0) {
			t.Errorf("step %q ends cleanup if it fails: %v", step.what, step.first)
		}
	}
	for _, pair := range [][2]string{
		{"interfaces", "forwarding"}, {"forwarding", "masquerade rules"}, {"forwarding", "filter rules"},
		{"forwarding", "iptables-legacy rules"}, {"filter rules", "files"},
	} {
		before, known := place[pair[0]]
		after, both := place[pair[1]]
		if !known || !both || before > after {
			t.Errorf("%s are cleaned up after %s", pair[0], pair[1])
		}
	}
}

// A meshd that runs keeps all it has.
func TestCleanupRefuses(t *testing.T) {
	socket := fake(t, control.Source{})
	code, out, errs := meshd("cleanup", "--socket", socket)
	if code != exitNo || out != "" || errs != "meshd: "+errRunning.Error()+"\n" {
		t.Errorf("%d, %q, %q", code, out, errs)
	}
	if _, err := os.Stat(socket); err != nil {
		t.Error(err)
	}
}

// Each file that is removed is told. A file system that does not answer is left and named, after a
// deadline and on Ctrl-C.
func TestInTime(t *testing.T) {
	var out bytes.Buffer
	failed := errors.New("failed")
	c := cleaner{out: &out}
	err := c.inTime(t.Context(), time.Hour, func(report func(string, bool)) error {
		report("/a", false)
		report("/a", true)
		report("/b", false)
		return failed
	})
	if !errors.Is(err, failed) || out.String() != "meshd: removed /a\n" {
		t.Errorf("%v, %q", err, &out)
	}
	for name, test := range map[string]struct {
		patience time.Duration
		signal   bool
		want     error
	}{
		"a deadline": {time.Millisecond, false, context.DeadlineExceeded},
		"a signal":   {time.Hour, true, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			hangs := make(chan struct{})
			defer close(hangs)
			err := c.inTime(ctx, test.patience, func(report func(string, bool)) error {
				report("/hangs", false)
				if test.signal {
					stop()
				}
				<-hangs
				report("/late", true)
				return nil
			})
			if !errors.Is(err, test.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

// Only a socket on which somebody listens is a daemon that runs: not one behind a link, which
// the service may have put there.
func TestCheckStopped(t *testing.T) {
	dir := t.TempDir()
	socket, link := filepath.Join(dir, "s"), filepath.Join(dir, "link")
	file, dead := filepath.Join(dir, "file"), filepath.Join(dir, "dead")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() // it never accepts
	left, err := net.Listen("unix", dead)
	if err != nil {
		t.Fatal(err)
	}
	left.(*net.UnixListener).SetUnlinkOnClose(false)
	if errors.Join(left.Close(), os.Symlink(socket, link), os.WriteFile(file, nil, 0o600)) != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"a link": link, "a file": file, "a dead socket": dead, "nothing": filepath.Join(dir, "none"),
		"no folder": filepath.Join(file, "none"),
	} {
		t.Run(name, func(t *testing.T) {
			if err := checkStopped(t.Context(), path); err != nil {
				t.Error(err)
			}
		})
	}
	if err := checkStopped(t.Context(), socket); !errors.Is(err, errRunning) {
		t.Error(err)
	}
}

// What only the service runs is hidden, and knows its user.
func TestBPFFolder(t *testing.T) {
	if code, _, errs := meshd("bpf-folder"); code != exitUsage {
		t.Errorf("%d, %s", code, errs)
	}
	code, _, errs := meshd("bpf-folder", "no-such-user")
	if code != exitNo || !strings.Contains(errs, "no-such-user") {
		t.Errorf("%d, %s", code, errs)
	}
	unit, err := os.ReadFile(filepath.Join("..", "..", "packaging", "meshd.service"))
	line := "ExecStartPre=-+/usr/bin/meshd bpf-folder meshd"
	if err != nil || !slices.Contains(strings.Split(string(unit), "\n"), line) {
		t.Errorf("the service does not run it: %v", err)
	}
}
