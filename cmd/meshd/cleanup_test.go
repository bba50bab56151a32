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
)

// What was removed is told; a file system that does not answer is left, by its name, and so is
// cleaning up when somebody ends it.
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

	ctx, stop := context.WithCancel(t.Context())
	for name, test := range map[string]struct {
		patience time.Duration
		reached  func()
		want     error
	}{
		"a deadline": {time.Millisecond, func() {}, context.DeadlineExceeded},
		"a signal":   {time.Hour, stop, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			hangs := make(chan struct{})
			defer close(hangs)
			err := c.inTime(ctx, test.patience, func(report func(string, bool)) error {
				report("/hangs", false)
				test.reached()
				<-hangs
				report("/late", true)
				return nil
			})
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), "does not answer") {
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
	for _, path := range []string{link, file, dead, filepath.Join(dir, "none"), filepath.Join(file, "none")} {
		if err := checkStopped(t.Context(), path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
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
