package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/text"
	"example.org/meshd/internal/text/hostile"
)

// raw serves answers over a unix socket that no meshd would give.
func raw(t *testing.T, handler http.HandlerFunc) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := http.Server{Handler: handler}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return socket
}

// filled returns a T with hostile text in every field, also those that are added later.
func filled[T any](schema func(*T) *int) T {
	var v T
	hostile.Fill(&v)
	if schema != nil {
		*schema(&v) = control.Schema
	}
	return v
}

// answers of a hostile daemon by path.
func answers() map[string]any {
	return map[string]any{
		"/v1/status": filled(func(s *control.Status) *int { return &s.Schema }),
		"/v1/peers":  filled(func(s *control.Peers) *int { return &s.Schema }),
		"/v1/peers/": filled(func(s *control.OnePeer) *int { return &s.Schema }),
		"/v1/events": filled[control.Event](nil),
		"/v1/route":  filled(func(s *control.Route) *int { return &s.Schema }),
		"/v1/reload": filled(func(s *control.ReloadResult) *int { return &s.Schema }),
		"/v1/plan":   filled(func(s *control.Plan) *int { return &s.Schema }),
		"/v1/ping":   filled(func(s *control.Ping) *int { return &s.Schema }),
		"/readyz":    filled[control.Ready](nil),
	}
}

// writeRaw answers with JSON in which only what JSON demands is escaped.
func writeRaw(w io.Writer, v any) {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(v)
}

var asking = [][]string{
	{"status"}, {"peers"}, {"peers", "b"}, {"events"}, {"ping", "b", "-n", "1"}, {"route", "10.0.0.1"},
	{"reload"},
	{"plan", os.DevNull}, {"wait", "ready", "--timeout", "50ms"}, {"wait", "peer:b", "--timeout", "50ms"},
	{"__complete", "ping", ""},
}

// What a daemon says, or whoever answers in its place, does nothing to a terminal;
// JSON still means what it meant.
func TestHostileAnswers(t *testing.T) {
	told := answers()
	socket := raw(t, func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path
		if strings.HasPrefix(path, "/v1/peers/") {
			path = "/v1/peers/"
		}
		writeRaw(w, told[path])
	})
	for _, args := range asking {
		_, out, errs := meshd(append(args, "--socket", socket)...)
		if fault := hostile.Fault(out + errs); fault != "" || out+errs == "" && args[0] != "wait" {
			t.Errorf("%q: %s", args, fault)
		}
		lines := args[0] == "status" || args[0] == "reload" // which have texts of several lines
		if !lines && strings.Contains(out+errs, "\nforged") {
			t.Errorf("%q: a name became a line: %q", args, out+errs)
		}
		_, out, errs = meshd(append(args, "--json", "--socket", socket)...)
		if fault := hostile.Fault(out + errs); fault != "" {
			t.Errorf("%q --json: %s", args, fault)
		}
	}
	_, out, _ := meshd("status", "--json", "--socket", socket)
	var status control.Status
	err := json.Unmarshal([]byte(out), &status)
	if err != nil || !reflect.DeepEqual(status, told["/v1/status"]) {
		t.Errorf("JSON became something else: %v\n%s", err, out)
	}
}

// Nor does a refusal.
func TestHostileRefusals(t *testing.T) {
	for _, code := range []int{400, 403, 404, 422, 503} {
		for _, body := range []any{map[string]control.Error{"error": filled[control.Error](nil)}, hostile.Text, 1} {
			socket := raw(t, func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(code)
				writeRaw(w, body)
			})
			for _, args := range asking {
				for _, format := range []string{"--json=false", "--json"} {
					_, out, errs := meshd(append(args, format, "--socket", socket)...)
					if fault := hostile.Fault(out + errs); fault != "" {
						t.Errorf("%d, %q %s: %s", code, args, format, fault)
					}
				}
			}
		}
	}
}

// A status line is text, too.
func TestHostileStatusLine(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			words := strings.NewReplacer("\r", "", "\n", "").Replace(hostile.Bytes)
			fmt.Fprintf(conn, "HTTP/1.1 500 %s\r\nContent-Length: 0\r\n\r\n", words)
			conn.Close()
		}
	}()
	for _, args := range asking {
		_, out, errs := meshd(append(args, "--socket", socket)...)
		if fault := hostile.Fault(out + errs); fault != "" {
			t.Errorf("%q: %s", args, fault)
		}
	}
}

// Files and command lines of others: keys, values, names, comments, paths.
func TestHostileFiles(t *testing.T) {
	evil := strings.NewReplacer("\x00", "", "\n", " ").Replace(hostile.Bytes)
	quoted, _ := json.Marshal(hostile.Text) // a basic string of TOML, too
	dir := filepath.Join(t.TempDir(), strings.ReplaceAll(evil, "/", ""))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i, doc := range []string{
		evil, "[network]\n" + evil + " = 1\n", "[network]\n\"" + evil + "\" = 1\n",
		"[" + evil + "]\n", "x = '" + evil + "'\n",
		fmt.Sprintf("[network]\n%s = 1\ncidr = %[1]s\nname = %[1]s\ninterface = %[1]s\n[%[1]s.x]\n"+
			"[[node]]\nname = %[1]s\naddress = %[1]s\nsubnets = [%[1]s]\n%[1]s = %[1]s\n", quoted),
		fmt.Sprintf("[network]\n\"\u009b31m\\u001b\" = 1\ncidr = \"\u009b31m\"\nname = \"\u202e\"\n%s = 1\n",
			quoted),
	} {
		path := filepath.Join(dir, fmt.Sprint(i, evil))
		if err := os.WriteFile(path, []byte(doc), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{
			{"check", path}, {"check", "--json", path}, {"check", path + "none"}, {"plan", path + "none"},
			{"run", "-c", path}, {"run", "--log-format", "json", "-c", path}, {"run", "--check", "-c", path},
			{"legacy-forward", "-c", path}, {"network-managers", "--root", dir, "-c", path},
			{"init", "--from-wg", path}, {"init", "--from-flannel", path}, {"init", "--from-wg", path + "none"},
			{"status", "--socket", path}, {"status", "--json", "--socket", path},
			{path}, {"--" + path}, {"route", path}, {"wait", path}, {"run", "--log-level", path},
		} {
			code, out, errs := meshd(args...)
			if fault := hostile.Fault(out + errs); fault != "" {
				t.Errorf("file %d, %q: %s", i, args[:len(args)-1], fault)
			}
			// These may succeed, or leave the words to others.
			quiet := args[0] == "legacy-forward" || args[0] == "network-managers" || args[0] == "init"
			if !quiet && (code == 0 || out+errs == "") {
				t.Errorf("file %d, %q: %d without a word", i, args[:len(args)-1], code)
			}
			if strings.Contains(out+errs, "\nforged") {
				t.Errorf("file %d, %q: a fault forged a line: %q", i, args[:len(args)-1], out+errs)
			}
		}
	}
}

// Log lines of the daemon hold text of peers and files, in both formats.
func TestHostileLog(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		var out strings.Builder
		stderr := text.NewWriter(&out)
		log, err := newLogger(stderr, "info", format)
		if err != nil {
			t.Fatal(err)
		}
		log = log.With(hostile.Text, hostile.Bytes).WithGroup(hostile.Text)
		log.Error(hostile.Bytes, "peer", hostile.Bytes, "error", errors.New(hostile.Bytes), "any",
			filled[control.Peer](nil))
		if fault := hostile.Fault(out.String()); fault != "" || strings.Count(out.String(), "\n") != 1 {
			t.Errorf("%s: %s", format, fault)
		}
	}
}

// Scripts for shells pass as they are.
func TestCompletionScripts(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		var want strings.Builder
		root := newRoot()
		root.SetOut(&want)
		root.SetArgs([]string{"completion", shell})
		if err := root.Execute(); err != nil {
			t.Fatal(err)
		}
		if code, out, _ := meshd("completion", shell); code != 0 || out != want.String() || out == "" {
			t.Errorf("%s: %d, %d bytes, not %d", shell, code, len(out), want.Len())
		}
	}
}
