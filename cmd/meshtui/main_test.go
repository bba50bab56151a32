package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/tui"
)

// meshtui runs one command line without a terminal and returns its exit code and
// what it printed.
func meshtui(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	out, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var errs bytes.Buffer
	code = exitCode(run(t.Context(), args, in, out, &errs))
	b, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	return code, string(b), errs.String()
}

// fake is a daemon that answers.
func fake(t *testing.T) (socket string) {
	n := 0
	return fakeOf(t, func() control.Status {
		n++
		return control.Status{Schema: control.Schema, Node: "edge-1", Version: "9.9",
			Config: control.Config{Generation: n},
			Peers:  []control.Peer{{Name: "edge-2", State: control.Down, Address: "192.0.2.2:8285"}}}
	})
}

// fakeOf is a meshd with a status.
func fakeOf(t *testing.T, status func() control.Status) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "meshd.sock")
	events := control.NewEvents()
	events.Add(control.Event{Level: "warn", Message: "it happened"})
	s, err := control.Listen(socket, control.Source{Events: events, Status: status},
		slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return socket
}

// Without a terminal the state is printed once, whatever the flags say about drawing.
func TestWithoutTerminal(t *testing.T) {
	socket := fake(t)
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"by itself": {nil, "edge-1  FAILED: edge-2 is down"},
		"--once":    {[]string{"--once"}, "edge-1  FAILED: edge-2 is down"},
		"--ascii":   {[]string{"--ascii"}, "edge-1  FAILED: edge-2 is down"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := meshtui(t, append(test.args, "--socket", socket)...)
			if code != 0 || errs != "" || !strings.HasPrefix(out, test.want) {
				t.Errorf("%d, %s%s", code, out, errs)
			}
		})
	}
	t.Run("--json", func(t *testing.T) {
		code, out, errs := meshtui(t, "--json", "--socket", socket)
		var s control.Status
		if err := json.Unmarshal([]byte(out), &s); code != 0 || errs != "" || err != nil || s.Node != "edge-1" {
			t.Errorf("%d, %v, %s%s", code, err, out, errs)
		}
	})
}

func TestExitCodes(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	for line, want := range map[string]string{
		"--socket " + none:          "3 meshtui: meshd is not running: no process answers at " + none,
		"--json --socket " + none:   "3 meshtui: meshd is not running",
		"--stream --socket " + none: "3 meshtui: meshd is not running",
		"--once --json":             "2 meshtui: usage: only one of",
		"--once --stream":           "2 meshtui: usage: only one of",
		"--json --stream":           "2 meshtui: usage: only one of",
		"--interval 1ms":            "2 meshtui: usage: --interval must be 100ms to 1h",
		"--interval 2h":             "2 meshtui: usage: --interval must be 100ms to 1h",
		"--nonsense": "2 meshtui: usage: unknown flag: --nonsense\n" +
			"meshtui: `meshtui --help` lists flags and keys",
		"edge-2":                   "2 meshtui: usage: meshtui takes flags and no arguments: \"edge-2\"",
		"--host -oProxyCommand=x":  "2 meshtui: usage: --host needs the name of a host",
		"--interval soon":          "2 meshtui: usage: invalid argument",
		"--interval 0.5 --version": "0 ",
		"--version":                "0 ",
		"-v":                       "0 ",
		"-V":                       "0 ",
		"--help":                   "0 ",
	} {
		t.Run(line, func(t *testing.T) {
			code, out, errs := meshtui(t, strings.Fields(line)...)
			if got := fmt.Sprint(code, " ", errs); !strings.HasPrefix(got, want) || code != 0 && out != "" ||
				strings.Contains(out, "true|false") { // a switch without its values
				t.Errorf("%s%s, not %s", got, out, want)
			}
		})
	}
}

// ssh stands in for the real one: it runs what it is told to on this machine, where
// "meshtui" is this test.
func ssh(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]string{
		"ssh":     "host=$1; shift\n" + script,
		"meshtui": fmt.Sprintf("MESHTUI_TEST_ARGS=\"$*\" exec %s", self),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// TestMain is also what the other end of ssh runs.
func TestMain(m *testing.M) {
	if args, ok := os.LookupEnv("MESHTUI_TEST_ARGS"); ok {
		os.Exit(exitCode(run(context.Background(), strings.Fields(args), os.Stdin, os.Stdout, os.Stderr)))
	}
	os.Exit(m.Run())
}

// The reader of a stream may stop at any time.
func TestStreamEnds(t *testing.T) {
	client := control.NewClient(fake(t))
	reader, writer := io.Pipe()
	done := make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- stream(ctx, client, 100*time.Millisecond, writer) }()
	decoder := json.NewDecoder(reader)
	for _, want := range []string{"hello", "snapshot", "event", "snapshot"} {
		var w control.Watched
		if err := decoder.Decode(&w); err != nil || w.Type != want {
			t.Errorf("%+v, %v, not %s", w, err, want)
		}
	}
	go io.Copy(io.Discard, reader)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	var _ tui.Watcher = client
	var _ tui.Asker = client
}

// Shells propose intervals, and no files where a file makes no sense.
func TestCompletion(t *testing.T) {
	for flag, want := range map[string]string{"--interval": "0.5", "--host": ":36"} {
		t.Run(flag, func(t *testing.T) {
			var out strings.Builder
			cmd := newCommand(os.Stdin, os.Stdout)
			cmd.SetOut(&out)
			cmd.SetArgs([]string{"__complete", flag, ""})
			if err := cmd.Execute(); err != nil {
				t.Fatal(err)
			}
			if offered := strings.Fields(out.String()); !slices.Contains(offered, want) {
				t.Errorf("no %q in %q", want, offered)
			}
		})
	}
}
