package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	"example.org/meshd/internal/budget"
	"example.org/meshd/internal/nstest"
)

func TestCursorAt(t *testing.T) {
	for said, want := range map[string][2]int{
		"\x1b[24;80R": {80, 24}, "j\x1b[50;132Rq": {132, 50}, "\x1b[1;1R": {1, 1},
		"": {}, "\x1b[24;80": {}, "\x1b[0;0R": {}, "\x1b[99999;1R": {}, "\x1b[5000;80R": {}, "\x1b[?24;80R": {},
	} {
		t.Run(said, func(t *testing.T) {
			column, line, ok := cursorAt([]byte(said))
			if ok != (want != [2]int{}) || ok && (column != want[0] || line != want[1]) {
				t.Errorf("%d columns, %d lines, %v", column, line, ok)
			}
		})
	}
}

// A terminal may say anything.
func FuzzCursorAt(f *testing.F) {
	f.Add([]byte("\x1b[24;80R"))
	f.Fuzz(func(t *testing.T, said []byte) {
		defer budget.Of(t)()
		if column, line, ok := cursorAt(said); ok && (!sensible(column) || !sensible(line)) {
			t.Errorf("%d columns, %d lines", column, line)
		}
	})
}

// A terminal that tells no size, as one at a serial line, has a picture all the same: of the size that the
// environment or the terminal itself says, or the usual one.
func TestTerminalWithoutASize(t *testing.T) {
	for name, test := range map[string]struct {
		columns, lines string
		answer         string // to the question where the cursor is
		width          int
	}{
		"it says nothing":      {"", "", "", 80},
		"the environment does": {"100", "30", "", 100},
		"the terminal does":    {"", "", "\x1b[26;90R", 90},
		"nonsense":             {"0", "-3", "\x1b[0;0R", 80},
	} {
		t.Run(name, func(t *testing.T) {
			for variable, value := range map[string]string{"TERM": "vt220", "LC_ALL": "C", "COLUMNS": test.columns,
				"LINES": test.lines} {
				t.Setenv(variable, value)
			}
			master, tty, err := nstest.OpenPTY(0, 0)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			args := []string{"--socket", fake(t)}
			go func() { done <- run(ctx, args, tty, tty, &bytes.Buffer{}) }()
			said := watch(t, master, test.answer, "FAILED", "quit")
			cancel()
			go func() { _, _ = master.WriteTo(&bytes.Buffer{}) }() // else the program waits to write
			if err := <-done; err != nil {
				t.Error(err)
			}
			tty.Close()
			master.Close()
			if i := bytes.IndexFunc(said, func(r rune) bool { return r >= 0x80 }); i >= 0 {
				t.Errorf("not ASCII: %q", said[i:])
			}
			if bytes.Contains(said, []byte("\x1b[31m")) || bytes.Contains(said, []byte("\x1b[1;")) {
				t.Errorf("colours: %q", said)
			}
			if rule := strings.Repeat("-", test.width); !bytes.Contains(said, []byte(rule)) ||
				bytes.Contains(said, []byte(rule+"-")) {
				t.Errorf("the picture is not %d wide: %q", test.width, said)
			}
		})
	}
}

// watch reads what a program draws until all words are there, and answers where the cursor is.
func watch(t *testing.T, master *os.File, answer string, words ...string) (said []byte) {
	t.Helper()
	buffer := make([]byte, 65536)
	for missing := true; missing; {
		n, err := master.Read(buffer)
		if err != nil {
			t.Fatalf("%v after %q", err, said)
		}
		if said = append(said, buffer[:n]...); answer != "" && bytes.Contains(said, []byte("\x1b[6n")) {
			if _, err := master.WriteString(answer); err != nil {
				t.Fatal(err)
			}
			answer = ""
		}
		missing = false
		for _, w := range words {
			missing = missing || !bytes.Contains(said, []byte(w))
		}
	}
	return said
}
