package page

import (
	"bytes"
	"cmp"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/text"
)

// terminal is one of a size.
func terminal(t *testing.T, width, height uint16) *os.File {
	t.Helper()
	f, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	size := unix.Winsize{Col: width, Row: height}
	if err := unix.IoctlSetWinsize(int(f.Fd()), unix.TIOCSWINSZ, &size); err != nil {
		t.Fatal(err)
	}
	return f
}

// Only a terminal has a size and colours, and it gets them past the writer that makes text safe.
func TestOn(t *testing.T) {
	wide, serial := terminal(t, 132, 50), terminal(t, 0, 0)
	var pipe bytes.Buffer
	for name, test := range map[string]struct {
		out  io.Writer
		env  map[string]string
		to   io.Writer
		want Options
	}{
		"a terminal": {text.NewWriter(wide), map[string]string{"TERM": "xterm"}, wide,
			Options{Width: 132, Height: 50, Colour: true}},
		"no colours": {text.NewWriter(wide), map[string]string{"TERM": "xterm", "NO_COLOR": "1"}, wide,
			Options{Width: 132, Height: 50}},
		"a dumb one": {text.NewWriter(wide), map[string]string{"TERM": "dumb"}, wide,
			Options{Width: 132, Height: 50}},
		"a serial line": {text.NewWriter(serial), map[string]string{"TERM": "vt220"}, serial,
			Options{Width: 80, Height: 24}},
		"a locale of ASCII": {text.NewWriter(wide), map[string]string{"TERM": "linux", "LC_ALL": "C"}, wide,
			Options{Width: 132, Height: 50, Colour: true, ASCII: true}},
		"a serial line that was told": {text.NewWriter(serial), map[string]string{"TERM": "", "COLUMNS": "100",
			"LINES": "30"}, serial, Options{Width: 100, Height: 30}},
		"nonsense": {text.NewWriter(serial), map[string]string{"TERM": "", "COLUMNS": "-1", "LINES": "x"}, serial,
			Options{Width: 80, Height: 24}},
		"a pipe": {&pipe, map[string]string{"TERM": "xterm", "COLUMNS": "100"}, &pipe, Options{}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, variable := range []string{"NO_COLOR", "COLUMNS", "LINES", "TERM"} {
				t.Setenv(variable, test.env[variable])
			}
			t.Setenv("LC_ALL", cmp.Or(test.env["LC_ALL"], "C.UTF-8"))
			if to, o := On(test.out); to != test.to || o != test.want {
				t.Errorf("%v, %+v", to, o)
			}
		})
	}
	safe := text.NewWriter(&pipe)
	if to, o := On(safe); to != safe || o != (Options{}) {
		t.Errorf("a safe pipe: %v, %+v", to, o)
	}
}

// A page takes the place of the one before on a screen, and follows it in a pipe.
func TestShow(t *testing.T) {
	ten := func(w io.Writer, _ Options) error {
		_, err := io.WriteString(w, strings.Repeat("line\n", 10))
		return err
	}
	for name, test := range map[string]struct {
		o     Options
		lines int
		more  bool
	}{
		"a pipe":         {Options{}, 11, false},
		"a screen":       {Options{Width: 80, Height: 24}, 10, false},
		"a low screen":   {Options{Width: 80, Height: 5}, 4, true},
		"a lower screen": {Options{Width: 80, Height: 1}, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			if err := Show(&b, test.o, ten); err != nil {
				t.Fatal(err)
			}
			moves := strings.HasPrefix(b.String(), "\x1b[H")
			if strings.Count(b.String(), "\n") != test.lines || moves != (test.o.Height > 0) ||
				strings.Contains(b.String(), " more lines") != test.more {
				t.Errorf("%q", &b)
			}
		})
	}
	for _, o := range []Options{{}, {Height: 9}} {
		failing := func(io.Writer, Options) error { return errFull }
		if Show(io.Discard, o, failing) == nil || Show(full{}, o, ten) == nil {
			t.Errorf("%+v: an error is lost", o)
		}
	}
}
