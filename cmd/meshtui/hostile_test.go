package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/text/hostile"
)

// hostileStream is what a hostile host says: JSON in which only what JSON demands is escaped.
func hostileStream(t *testing.T) (path string, status control.Status) {
	t.Helper()
	var all strings.Builder
	encoder := json.NewEncoder(&all)
	encoder.SetEscapeHTML(false)
	for _, kind := range []string{"hello", "event", "snapshot"} {
		var w control.Watched
		hostile.Fill(&w)
		switch kind {
		case "hello":
			w.Hello.Schema, w.Status, w.Event = control.Schema, nil, nil
		case "event":
			w.Hello, w.Status = nil, nil
		default:
			w.Status.Schema, w.Hello, w.Event = control.Schema, nil, nil
			status = *w.Status
		}
		w.Changes = nil // between meshtui and meshtui there are snapshots
		if err := encoder.Encode(w); err != nil {
			t.Fatal(err)
		}
	}
	path = filepath.Join(t.TempDir(), "said")
	if err := os.WriteFile(path, []byte(all.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return path, status
}

// hostileWords are errors of ssh and of the other host, which come as bytes.
func hostileWords(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "stderr")
	words := strings.Repeat("long ", 1<<20) + "\n" + strings.ReplaceAll(hostile.Bytes, "\n", " ") + "\n"
	if err := os.WriteFile(path, []byte(words), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// Whatever another host says, nothing of it is obeyed by a terminal; JSON still means
// what it meant.
func TestHostileHost(t *testing.T) {
	said, status := hostileStream(t)
	words := hostileWords(t)
	for _, end := range []string{"exit 0", "exit 1", "exit 3", "exit 255"} {
		for _, script := range []string{
			"cat " + said + "; cat " + words + " >&2; " + end, "cat " + words + " >&2; " + end,
			"cat " + words + "; " + end,
		} {
			ssh(t, script)
			for _, format := range []string{"--once", "--json", "--stream"} {
				_, out, errs := meshtui(t, "--host", "edge-1", format)
				if fault := hostile.Fault(out + errs); fault != "" || out+errs == "" {
					t.Errorf("%s, %s: %s", script, format, fault)
				}
				if strings.Contains(errs, "\nforged") || len(errs) > 5*tailKept {
					t.Errorf("%s, %s: %d bytes: %.200q", script, format, len(errs), errs)
				}
			}
		}
	}
	ssh(t, "cat "+said)
	_, out, _ := meshtui(t, "--host", "edge-1", "--json")
	var got control.Status
	if err := json.Unmarshal([]byte(out), &got); err != nil || !reflect.DeepEqual(got, status) {
		t.Errorf("JSON became something else: %v\n%s", err, out)
	}
	if _, out, _ = meshtui(t, "--host", "edge-1", "--stream"); strings.Count(out, "\n") != 3 {
		t.Errorf("%q", out)
	}
	for _, args := range [][]string{
		{"--host", "-" + hostile.Text}, {"--host", hostile.Text, "--once"}, {"--socket", hostile.Bytes, "--once"},
		{hostile.Bytes}, {"--" + hostile.Bytes},
	} {
		if code, out, errs := meshtui(t, args...); hostile.Fault(out+errs) != "" || args[0] != "--host" &&
			code == 0 {
			t.Errorf("%q: %d, %s", args, code, hostile.Fault(out+errs))
		}
	}
}

// A line without an end is given up.
func TestEndlessLine(t *testing.T) {
	ssh(t, "exec tr '\\0' x </dev/zero")
	code, out, errs := meshtui(t, "--host", "edge-1", "--once")
	want := fmt.Sprintf("the output is not that of `meshtui --stream`: %v", control.ErrTooLong)
	if code != 1 || out != "" || !strings.Contains(errs, want) {
		t.Errorf("%d, %q, %q", code, out, errs)
	}
}
