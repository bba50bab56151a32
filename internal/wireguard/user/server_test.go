package user

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	wireguardtun "golang.zx2c4.com/wireguard/tun"
)

// A helper takes the place of a dead one and of nothing else, and only its user may connect.
func TestListen(t *testing.T) {
	socket := func(t *testing.T, path string) *net.UnixListener {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		t.Cleanup(func() { l.Close() })
		return l
	}
	for name, test := range map[string]struct {
		before func(t *testing.T, path string)
		works  bool
		want   error // of one that does not work; nil: any
	}{
		"nothing there":  {func(*testing.T, string) {}, true, nil},
		"a dead process": {func(t *testing.T, path string) { socket(t, path).Close() }, true, nil},
		"a live process": {func(t *testing.T, path string) { socket(t, path) }, false, ErrRuns},
		"a file":         {func(t *testing.T, path string) { _ = os.WriteFile(path, nil, 0o600) }, false, nil},
		"another helper": {func(t *testing.T, path string) {
			s, err := listen(filepath.Dir(path), "wg")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(s.close)
		}, false, ErrRuns},
	} {
		t.Run(name, func(t *testing.T) {
			folder := filepath.Join(t.TempDir(), "wireguard")
			if err := os.Mkdir(folder, 0o700); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(folder, "wg.sock")
			test.before(t, path)
			s, err := listen(folder, "wg")
			if (err == nil) != test.works || test.want != nil && !errors.Is(err, test.want) {
				t.Fatalf("%v", err)
			}
			if err != nil {
				return
			}
			info, err := os.Stat(path)
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the socket: %v, %v", info, err)
			}
			s.close()
			if _, err := os.Lstat(path); !os.IsNotExist(err) {
				t.Errorf("after the end: %v", err)
			}
		})
	}
}

// Without a device a conversation ends at once, and so do open ones when the helper ends.
func TestServer(t *testing.T) {
	s, err := listen(t.TempDir(), "wg")
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.run(ctx) }()
	conn, err := net.Dial("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if text, err := io.ReadAll(conn); err != nil || len(text) > 0 {
		t.Errorf("%q, %v", text, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Faults of one kind are one line, however many there are; the next one tells how many there were.
func TestFaultsAreFew(t *testing.T) {
	var text bytes.Buffer
	now := time.Unix(1700000000, 0)
	f := &faults{log: slog.New(slog.NewTextHandler(&text, nil)), now: func() time.Time { return now },
		kinds: map[string]*fault{}}
	for n := range 1000 {
		f.report("write failed: %d", n)
		f.report("read failed: %d", n)
	}
	now = now.Add(quiet)
	f.report("write failed: %d", 7)
	out := text.String()
	if n := strings.Count(out, "\n"); n != 3 || !strings.Contains(out, "write failed: 7") ||
		!strings.Contains(out, "more=999") {
		t.Errorf("%d lines:\n%s", n, out)
	}
}

// News of the MTU that nobody has read yet are one, and none comes after Close.
func TestQueueEvents(t *testing.T) {
	q := &queue{Device: closer{}, events: make(chan wireguardtun.Event, 1)}
	events := q.Events()
	q.changed()
	q.changed()
	if err := errors.Join(q.Close(), q.Close()); err != nil {
		t.Error(err)
	}
	q.changed()
	n := 0
	for e := range events {
		if n++; e != wireguardtun.EventMTUUpdate {
			t.Errorf("event %v", e)
		}
	}
	if n != 1 {
		t.Errorf("%d events", n)
	}
}

// closer is a TUN that can only be closed.
type closer struct{ wireguardtun.Device }

func (closer) Close() error { return nil }
