package main

import (
	"bytes"
	"context"
	"os"
	"reflect"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/nstest"
)

// terminal is one that nobody looks at. It is read all the time, as a real one is.
type terminal struct {
	master, tty *os.File
	seen        chan []byte
}

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	master, tty, err := nstest.OpenPTY(80, 24)
	if err != nil {
		t.Fatal(err)
	}
	d := &terminal{master, tty, make(chan []byte, 1000)}
	go func() {
		for buffer := make([]byte, 65536); ; {
			n, err := master.Read(buffer)
			if err != nil { // it was closed
				close(d.seen)
				return
			}
			d.seen <- bytes.Clone(buffer[:n])
		}
	}()
	t.Cleanup(func() {
		tty.Close()
		master.Close()
	})
	return d
}

// waits until words have been drawn.
func (d *terminal) waits(t *testing.T, words string) {
	t.Helper()
	var all []byte
	for deadline := time.After(30 * time.Second); !bytes.Contains(all, []byte(words)); {
		select {
		case b, ok := <-d.seen:
			if all = append(all, b...); !ok {
				t.Fatalf("closed after %q", all)
			}
		case <-deadline:
			t.Fatalf("no %q in %q", words, all)
		}
	}
}

func (d *terminal) settings(t *testing.T) *unix.Termios {
	t.Helper()
	s, err := unix.IoctlGetTermios(int(d.tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// On a terminal it is a dashboard, until a key or a signal ends it; then the terminal is as
// it was.
func TestDashboard(t *testing.T) {
	for name, end := range map[string]func(d *terminal, signal func()){
		"by a key":    func(d *terminal, _ func()) { _, _ = d.master.WriteString("q") },
		"by a signal": func(_ *terminal, signal func()) { signal() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TERM", "xterm")
			d := newTerminal(t)
			before := d.settings(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			args := []string{"--socket", fake(t)}
			go func() { done <- run(ctx, args, d.tty, d.tty, &bytes.Buffer{}) }()
			d.waits(t, "FAILED")
			end(d, cancel)
			if err := <-done; err != nil {
				t.Error(err)
			}
			if after := d.settings(t); !reflect.DeepEqual(before, after) {
				t.Errorf("the terminal is %+v, not %+v", after, before)
			}
		})
	}
}

// A terminal that cannot move its cursor gets text.
func TestDumbTerminal(t *testing.T) {
	t.Setenv("TERM", "dumb")
	d := newTerminal(t)
	if err := run(t.Context(), []string{"--socket", fake(t)}, d.tty, d.tty, &bytes.Buffer{}); err != nil {
		t.Error(err)
	}
	d.waits(t, "never heard")
}
