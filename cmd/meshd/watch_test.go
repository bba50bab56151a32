package main

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// console returns both ends of a terminal: where keys are typed, and what a program has.
func console(t *testing.T) (keys, terminal *os.File) {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keys.Close() })
	if err := unix.IoctlSetPointerInt(int(keys.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(keys.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return keys, terminal
}

// settings are those of a terminal.
func settings(t *testing.T, terminal *os.File) unix.Termios {
	t.Helper()
	s, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *s
}

// A key q ends a watch, no other key does, and the terminal is as before whatever ends it.
func TestQuitting(t *testing.T) {
	for name, test := range map[string]struct {
		typed string
		quits bool
	}{"q": {"q", true}, "Q behind others": {"xyz\x1b[AQ", true}, "other keys": {"x \r", false}} {
		t.Run(name, func(t *testing.T) {
			keys, terminal := console(t)
			before := settings(t, terminal)
			parent, end := context.WithTimeout(t.Context(), 10*time.Second)
			defer end()
			ctx, restore := quitting(parent, terminal)
			if now := settings(t, terminal); now.Lflag&(unix.ICANON|unix.ECHO) != 0 || now.Lflag&unix.ISIG == 0 {
				t.Errorf("keys wait for a line's end, are shown, or Ctrl-C is no signal: %#x", now.Lflag)
			}
			if _, err := keys.WriteString(test.typed); err != nil {
				t.Fatal(err)
			}
			if !test.quits {
				for waiting := 1; waiting > 0; { // until all of them were read
					var err error
					if waiting, err = unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCINQ); err != nil {
						t.Fatal(err)
					}
				}
				end()
			}
			<-ctx.Done()
			if quit := parent.Err() == nil; quit != test.quits {
				t.Errorf("q was seen: %v", quit)
			}
			restore()
			if now := settings(t, terminal); now != before {
				t.Errorf("the terminal is not as before: %+v, not %+v", now, before)
			}
		})
	}
}

// Without a terminal there is nothing to read keys of, and nothing to give back.
func TestQuittingWithoutATerminal(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if _, err := writer.WriteString("q"); err != nil || writer.Close() != nil {
		t.Fatal(err)
	}
	for _, in := range []*os.File{nil, reader} {
		ctx, restore := quitting(t.Context(), in)
		if err := ctx.Err(); err != nil {
			t.Errorf("%v: %v", in, err)
		}
		restore()
	}
}
