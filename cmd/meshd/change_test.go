package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/source"
)

// reloading serves a daemon whose reloads end in one way.
func reloading(t *testing.T, result control.ReloadResult, err error) (socket string) {
	result.Schema = control.Schema
	return fake(t, control.Source{Reload: func(context.Context, string) (control.ReloadResult, error) {
		return result, err
	}})
}

func TestReload(t *testing.T) {
	twoPeers := []control.Change{
		{Op: "+", Kind: "peer", Subject: "edge-4", New: "10.244.4.0/24"},
		{Op: "~", Kind: "peer", Subject: "edge-2", Field: "address", Old: "172.18.0.4", New: "172.18.0.9"},
		{Op: "~", Kind: "peer", Subject: "edge-2", Field: "routes", Old: "none", New: "192.168.7.0/24"},
		{Op: "~", Kind: control.SettingChange, Subject: "probe.interval", Old: "1s", New: "2s"},
	}
	for name, test := range map[string]struct {
		result control.ReloadResult
		err    error
		want   line
	}{
		"changes": {
			control.ReloadResult{Generation: 13, Reload: control.Reload{OK: true, DurationMS: 41.4,
				Details: twoPeers[:1]}}, nil,
			line{stdout: "generation 13 applied in 41 ms: +1 peer\n"},
		},
		"changes of all kinds": {
			control.ReloadResult{Generation: 14, Reload: control.Reload{OK: true, DurationMS: 5, Details: twoPeers,
				More: 7}}, nil,
			line{stdout: "generation 14 applied in 5 ms: +1 peer, ~1 peer, ~1 probe.interval, 7 more\n"},
		},
		"nothing": {
			control.ReloadResult{Generation: 14, Reload: control.Reload{OK: true, DurationMS: 0.6,
				Details: []control.Change{}}}, nil,
			line{stdout: "generation 14 applied in 1 ms: nothing changed\n"},
		},
		"rejected": {
			control.ReloadResult{Generation: 12,
				Reload: control.Reload{Error: "a.toml:1:1: error: x\na.toml:2:1: error: y"}}, nil,
			line{code: exitNo, stderr: "a.toml:1:1: error: x\na.toml:2:1: error: y\nstill running generation 12\n"},
		},
		"not tried": {
			control.ReloadResult{}, errors.New("the daemon is stopping"),
			line{code: exitNo, stderr: "meshd: the daemon is stopping\n"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			test.want.args = []string{"reload"}
			test.want.try(t, reloading(t, test.result, test.err))
		})
	}
}

// A script gets the API's object, and the same exit code.
func TestReloadJSON(t *testing.T) {
	for name, reload := range map[string]control.Reload{
		"applied":  {OK: true, Details: []control.Change{{Op: "+", Kind: "peer", Subject: "a"}}, More: 2},
		"rejected": {Error: "x", Changes: []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, _ := meshd("reload", "--json", "--socket", reloading(t, control.ReloadResult{Generation: 3,
				Reload: reload}, nil))
			got := decode[control.ReloadResult](t, out)
			if (code == 0) != reload.OK || got.Generation != 3 || got.Reload.OK != reload.OK ||
				got.Reload.More != reload.More ||
				len(got.Reload.Details) != len(reload.Details) || got.Reload.Error != reload.Error {
				t.Errorf("%d, %+v", code, got)
			}
		})
	}
}

// A daemon that does not send values is not read by its sentences.
func TestOlderDaemonsReload(t *testing.T) {
	socket := raw(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"schema":1,"generation":13,"reload":{"ok":true,"duration_ms":41,
			"changes":["+ peer edge-4 10.244.4.0/24","and 7 more"]}}`)
	})
	line{args: []string{"reload"}, stdout: "generation 13 applied in 41 ms: 2 changes\n"}.try(t, socket)
}

func TestPlan(t *testing.T) {
	file := write(t, "a file")
	empty := write(t, "")
	socket := fake(t, control.Source{
		Plan: func(_ context.Context, path string, doc []byte) (control.Plan, []control.Error, error) {
			plan := control.Plan{Schema: control.Schema, Generation: 3, Changes: []string{},
				Details: []control.Change{}}
			switch {
			case !filepath.IsAbs(path): // the daemon does not know the caller's folder
				return plan, nil, errors.New("not absolute: " + path)
			case string(doc) == "a file":
				plan.Changes = []string{"+ peer edge-4 10.244.4.0/24", "~ mtu 1472 -> 1400"}
				plan.Details = []control.Change{{Op: "+", Kind: "peer", Subject: "edge-4"}, {Op: "~", Kind: "mtu"}}
			case len(doc) > 0:
				return plan, []control.Error{{File: path, Line: 1}}, errors.New(path + ":1:1: error: x")
			}
			return plan, nil, nil
		},
	})
	bad := write(t, "nonsense")
	changes := "+ peer edge-4 10.244.4.0/24\n~ mtu 1472 -> 1400\n"
	for name, want := range map[string]line{
		"changes":             {[]string{"plan", file}, exitNo, changes, ""},
		"the configured file": {[]string{"plan", "-c", file}, exitNo, changes, ""},
		"nothing":             {[]string{"plan", empty}, 0, "", ""},
		"rejected": {[]string{"plan", bad}, exitUsage, "",
			bad + ":1:1: error: x\n"},
	} {
		t.Run(name, func(t *testing.T) { want.try(t, socket) })
	}
	t.Run("a relative path", func(t *testing.T) {
		t.Chdir(filepath.Dir(file))
		line{[]string{"plan", filepath.Base(file)}, exitNo, changes, ""}.try(t, socket)
	})
	t.Run("no file", func(t *testing.T) {
		code, out, errs := meshd("plan", "/nonexistent", "--socket", socket)
		if code != exitUsage || out != "" || !strings.Contains(errs, "/nonexistent") {
			t.Errorf("%d, %q, %q", code, out, errs)
		}
	})
	t.Run("json", func(t *testing.T) {
		code, out, _ := meshd("plan", "--json", file, "--socket", socket)
		if p := decode[control.Plan](t, out); code != exitNo || len(p.Details) != 2 || p.Details[1].Kind != "mtu" {
			t.Errorf("%d, %q", code, out)
		}
		code, out, _ = meshd("plan", "--json", bad, "--socket", socket)
		if f := decode[failure](t, out); code != exitUsage || f.Error.Code != "rejected" {
			t.Errorf("%d, %q", code, out)
		}
	})
}

// A daemon that cannot be asked says nothing of the file, so the exit code is its own.
func TestPlanWithoutADaemon(t *testing.T) {
	dead := filepath.Join(t.TempDir(), "none")
	if code, _, _ := meshd("plan", os.DevNull, "--socket", dead); code != exitNotRunning {
		t.Errorf("not running: %d", code)
	}
	future := fake(t, control.Source{Plan: func(context.Context, string, []byte) (control.Plan,
		[]control.Error, error) {
		return control.Plan{Schema: control.Schema + 1}, nil, nil
	}})
	if code, _, _ := meshd("plan", os.DevNull, "--socket", future); code != exitMismatch {
		t.Errorf("another API: %d", code)
	}
}

// "-" is standard input, and faults do not name it as a path.
func TestReadFile(t *testing.T) {
	doc, name, err := readFile(t.Context(), strings.NewReader("piped"), "-", readAny)
	if string(doc) != "piped" || filepath.IsAbs(name) || err != nil {
		t.Errorf("%q, %q, %v", doc, name, err)
	}
	path := write(t, "saved")
	doc, name, err = readFile(t.Context(), strings.NewReader("piped"), path, readAny)
	if string(doc) != "saved" || name != path || err != nil {
		t.Errorf("%q, %q, %v", doc, name, err)
	}
	for size, want := range map[int]error{config.MaxSize: nil, config.MaxSize + 1: source.ErrTooLarge} {
		doc, _, err = readFile(t.Context(), strings.NewReader(strings.Repeat("#", size)), "-", readAny)
		if !errors.Is(err, want) || err == nil && len(doc) != size {
			t.Errorf("%d bytes: %d, %v", size, len(doc), err)
		}
	}
}

// Ctrl-C ends a command that waits for input, from a pipe that nobody writes to.
func TestReadingEnds(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	silent, writer := io.Pipe()
	defer writer.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, path := range []string{fifo, "-"} {
		if _, _, err := readFile(ctx, silent, path, readAny); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, _, err := findings(ctx, silent, "-", false); !errors.Is(err, context.Canceled) {
		t.Errorf("check: %v", err)
	}
	// Who opens the other end lets the reader that was left behind go.
	if f, err := os.OpenFile(fifo, os.O_RDWR, 0); err == nil {
		f.Close()
	}
}
