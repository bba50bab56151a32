package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"example.org/meshd/internal/begin"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/daemon"
)

// meshd runs one command line and returns its exit code and what it printed.
func meshd(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	err := run(context.Background(), args, &out, &errs)
	return exitCode(err), out.String(), errs.String()
}

func write(t *testing.T, doc string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mesh.toml")
	if err := os.WriteFile(path, []byte(doc), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// fake serves a made-up daemon until the test ends.
func fake(t *testing.T, source control.Source) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "meshd.sock")
	server, err := control.Listen(socket, source, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return socket
}

// A line is a command line, what it prints, and its exit code.
type line struct {
	args           []string
	code           int
	stdout, stderr string
}

// try runs a line against the daemon at socket and compares all that comes out.
func (l line) try(t *testing.T, socket string) {
	t.Helper()
	code, stdout, stderr := meshd(slices.Concat(l.args, []string{"--socket", socket})...)
	if code != l.code {
		t.Errorf("%q: exit code %d, want %d", l.args, code, l.code)
	}
	if stdout != l.stdout {
		t.Errorf("%q: stdout\n%s\nwant\n%s", l.args, stdout, l.stdout)
	}
	if stderr != l.stderr {
		t.Errorf("%q: stderr\n%s\nwant\n%s", l.args, stderr, l.stderr)
	}
}

// decode reads the JSON that a command printed.
func decode[T any](t *testing.T, stdout string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(stdout), &v); err != nil {
		t.Fatalf("%v in %q", err, stdout)
	}
	return v
}

// failure is what --json prints for an error.
type failure struct{ Error control.Error }

func TestUsageErrors(t *testing.T) {
	for _, args := range [][]string{
		{}, {"frobnicate"}, {"--frobnicate"}, {"check", "a", "b"}, {"plan", "a", "b"}, {"status", "now"},
		{"route"}, {"route", "pod"}, {"run", "now"}, {"run", "--log-level", "loud"}, {"run", "--log-format", "xml"},
		{"status", "--json=maybe"}, {"ping"}, {"ping", "a", "b"}, {"wait"}, {"wait", "dinner"}, {"wait", "peer:"},
		{"events", "--since", "yesterday"}, {"cleanup", "all"}, {"init", "file"}, {"bpf-folder"}, {"-c"},
		{"init", "--from-flannel", "a", "--from-wg", "b"},
		{"init", "--from-flannel", "a", "--from-kubernetes", "b"}, {"init", "--add"}, {"init", "--add", "edge-3"},
		{"init", "--minimal", "--add", "edge-3", "172.18.0.5"}, {"init", "--minimal", "file"},
		{"events", "--since", "25:00"}, {"events", "--level", "loud"}, {"events", "-n", "-3"}, {"events", "a", "b"},
		{"status", "--check", "dinner"}, {"status", "--check=dinner"}, {"status", "ready"},
		{"status", "-w", "soon"},
		{"status", "-w", "0.01"}, {"status", "-w", "1s", "2s"}, {"status", "--check", "-w"}, {"stats"},
		{"peers", "--sort", "colour"}, {"peers", "--state", "well"}, {"wait", "ready", "--timeout", "-1s"},
		{"drain", "--for", "0"}, {"ping", "a", "-i", "1x"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			code, out, errs := meshd(args...)
			if code != exitUsage || out != "" || !strings.HasPrefix(errs, "meshd: usage: ") && len(args) > 0 ||
				!strings.HasSuffix(errs, " --help`\n") {
				t.Errorf("%d, %q, %q", code, out, errs)
			}
		})
	}
}

func TestHelpAndVersion(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"help"}, {"run", "--help"}, {"version"}, {"completion",
		"bash"}, {"--version"}, {"-V"}, {"-v"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			if code, out, errs := meshd(args...); code != 0 || out == "" || errs != "" {
				t.Errorf("%d, %q, %q", code, out, errs)
			}
		})
	}
	for _, args := range [][]string{{"version", "--json"}, {"--version", "--json"}} {
		code, out, _ := meshd(args...)
		if got := decode[map[string]string](t, out); code != 0 || len(got) != 1 || got["version"] != version {
			t.Errorf("%d, %q", code, out)
		}
	}
}

// Every command says what it does, in lines that fit a terminal.
func TestHelpTexts(t *testing.T) {
	root := newRoot()
	for _, cmd := range append(root.Commands(), root) {
		t.Run(cmd.Name(), func(t *testing.T) {
			if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
				t.Errorf("short help is %q", cmd.Short)
			}
			for text := range strings.Lines(cmd.UsageString() + cmd.Long + "\n" + cmd.Example) {
				if len(text) > 110 {
					t.Errorf("%d columns: %s", len(text)-1, text)
				}
				if strings.Contains(text, "true|false") {
					t.Errorf("a switch shows values: %s", text)
				}
			}
			cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
				if f.Usage == "" && !f.Hidden {
					t.Errorf("--%s says nothing", f.Name)
				}
			})
		})
	}
}

// What a shell offers.
func TestCompletion(t *testing.T) {
	socket := fake(t, control.Source{Status: func() control.Status { return sample(time.Now()) },
		Changer: control.Changer{Files: func(context.Context) (control.Files, error) {
			all := []control.File{{Number: 42, InForce: true}, {Number: 41}}
			return control.Files{Schema: control.Schema, Files: all}, nil
		}}})
	for words, want := range map[string][]string{
		"status -w ":                {"2s", "10s"},
		"status -w 5s edge":         nil,
		"top -w ":                   {"2s", "10s"},
		"peers --state down,":       {"down,stale"},
		"peers --state down,stale,": {"down,stale,up"},
		"rollback ":                 {"41"},
		"diff ":                     {"41"},
		"diff 41 ":                  {"42"},
		"run --log-level ":          {"debug", "info", "warn", "error"},
		"run --log-format ":         {"text", "json"},
		"ping ":                     {"edge-2"},
		"peers edge-":               {"edge-2"},
		"wait ":                     {"ready"},
		"wait peer:":                {"peer:edge-2"},
		"ping edge-2 ":              nil, // one is enough
		"events edge-":              {"edge-2"},
		"route edge-":               {"edge-2"},
		"route ":                    {"outside"},
		"route a b ":                {"tcp/"},
		"status --check ":           {"ready", "peers"},
		"peers --state ":            {"down"},
		"peers --sort ":             {"loss"},
		"events --level ":           {"warn"},
		"ping -i ":                  {"0.2", "1s"},
		"drain --for ":              {"1h", "1d"},
		"wait --timeout ":           {"1m"},
		"apply --confirm ":          {"2m"},
	} {
		t.Run(words, func(t *testing.T) {
			args := append([]string{"__complete", "--socket", socket}, strings.Split(words, " ")...)
			code, out, _ := meshd(args...)
			offered := strings.Fields(out)
			if code != 0 || want == nil && strings.Contains(out, "edge") {
				t.Errorf("%d, %q", code, out)
			}
			for _, word := range want {
				if !slices.Contains(offered, word) {
					t.Errorf("no %s in %q", word, offered)
				}
			}
		})
	}
}

// Where nothing can be proposed, shells do not propose files.
func TestNoFilesAreProposed(t *testing.T) {
	for _, words := range []string{"route ", "status ", "reload ", "version ", "events --since ", "wait ",
		"wait ready --timeout ", "drain --for ", "drain --reason ", "ping -n ", "ping -i ", "run --node ",
		"drain ", "undrain ", "cleanup ", "run ", "init --add x ", "key ", "init --public-key "} {
		t.Run(words, func(t *testing.T) {
			_, out, _ := meshd(append([]string{"__complete"}, strings.Split(words, " ")...)...)
			directive := cobra.ShellCompDirectiveNoFileComp
			if !strings.HasSuffix(out, fmt.Sprintf(":%d\n", directive)) {
				t.Errorf("%q", out)
			}
		})
	}
}

// Whoever mistypes a command or a peer is told which one is near, and where there is help.
func TestSuggestions(t *testing.T) {
	socket := fake(t, control.Source{Status: func() control.Status { return sample(time.Now()) },
		Events: control.NewEvents(), Ping: func(context.Context, control.PingRequest) (control.Ping, bool, error) {
			return control.Ping{}, false, nil
		}})
	for words, want := range map[string][]string{
		"stats":                 {"`meshd status`", "`meshd --help`"},
		"ping":                  {"`meshd ping --help`"},
		"ping edge2":            {`"edge-2"`},
		"peers egde-2":          {`"edge-2"`},
		"events edge-22":        {`"edge-2"`},
		"wait peer:edge2":       {`"edge-2"`, "reload"},
		"status --nothing":      {"`meshd status --help`"},
		"peers 172.18.0.4":      {"172.18.0.4", "edge-2"},
		"peers 172.18.0.4:8285": {"edge-2"},
		"peers 10.244.1.7":      {"10.244.1.0/24", "edge-2"},
		"peers 192.168.7.1":     {"192.168.7.0/24", "edge-2"},
		"peers 172.18.0.3":      {"edge-1"}, // this node
		"peers 10.244.2.9":      {"edge-1"},
		"peers 192.0.2.1":       {"192.0.2.1"},
	} {
		t.Run(words, func(t *testing.T) {
			args := append(strings.Fields(words), "--socket", socket)
			if strings.HasPrefix(words, "wait") {
				args = append(args, "--timeout", "0.3")
			}
			_, _, errs := meshd(args...)
			for _, word := range want {
				if !strings.Contains(errs, word) {
					t.Errorf("no %s in %q", word, errs)
				}
			}
		})
	}
}

// A name that a shell would expand is not offered.
func TestCompletionIsHarmless(t *testing.T) {
	socket := fake(t, control.Source{Status: func() control.Status {
		return control.Status{Schema: control.Schema, Peers: []control.Peer{{Name: "$(reboot)"}, {Name: "a;b"},
			{Name: "good"}}}
	}})
	_, out, _ := meshd("__complete", "--socket", socket, "ping", "")
	if !strings.HasPrefix(out, "good\n") || strings.ContainsAny(out, "$;") {
		t.Errorf("%q", out)
	}
}

// asks are the commands that ask a daemon.
var asks = [][]string{
	{"status"}, {"route", "10.0.0.1"}, {"peers"}, {"peers", "a"}, {"ping", "a"}, {"events"}, {"events", "-f"},
	{"reload"}, {"plan", os.DevNull},
}

func TestNotRunning(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "none")
	for _, args := range asks {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			code, out, errs := meshd(slices.Concat(args, []string{"--socket", socket})...)
			if code != exitNotRunning || out != "" || strings.Count(errs, "\n") != 1 ||
				!strings.Contains(errs, socket) {
				t.Errorf("%d, %q, %q", code, out, errs)
			}
			code, out, errs = meshd(slices.Concat(args, []string{"--json", "--socket", socket})...)
			if f := decode[failure](t, out); code != exitNotRunning || f.Error.Code != "not_running" || errs == "" {
				t.Errorf("--json: %d, %q, %q", code, out, errs)
			}
		})
	}
}

// Each refusal of a daemon has its exit code and its word, whatever the message says.
func TestRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		status int
		answer string
		code   int
		word   string
	}{
		"not permitted": {http.StatusForbidden, `{"error":{"code":"not_permitted","message":"m"}}`,
			exitPermission, "not_permitted"},
		"an older daemon": {http.StatusNotFound, `{"error":{"code":"not_found","message":"m"}}`, exitMismatch,
			"api_mismatch"},
		"another API":     {http.StatusOK, `{"schema":2}`, exitMismatch, "api_mismatch"},
		"another program": {http.StatusOK, "<html>", exitMismatch, "api_mismatch"},
		"not ready": {http.StatusServiceUnavailable, `{"error":{"code":"not_ready","message":"m"}}`,
			exitNo, "failed"},
		"without a reason": {http.StatusInternalServerError, "", exitNo, "failed"},
	} {
		t.Run(name, func(t *testing.T) {
			socket := raw(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(test.status)
				io.WriteString(w, test.answer)
			})
			for _, args := range [][]string{{"status"}, {"peers"}, {"route", "10.0.0.1"}, {"reload"}, {"ping", "a"}} {
				code, out, errs := meshd(append(args, "--json", "--socket", socket)...)
				if f := decode[failure](t, out); code != test.code || f.Error.Code != test.word || errs == "" {
					t.Errorf("%q: %d, %q, %q", args, code, out, errs)
				}
			}
		})
	}
}

func TestExitCodes(t *testing.T) {
	for _, test := range []struct {
		err  error
		code int
		word string
	}{
		{errors.New("x"), 1, "failed"},
		{errSilent, 1, "failed"},
		{control.ErrNoPeer, 1, "failed"},
		{errUsage, 2, "usage"},
		{errPlan, 2, "rejected"},
		{control.ErrNotRunning, 3, "not_running"},
		{control.ErrPermission, 4, "not_permitted"},
		{begin.ErrPrivilege, 4, "not_permitted"},
		{control.ErrMismatch, 5, "api_mismatch"},
		{context.DeadlineExceeded, 6, "timeout"},
		{notInTime{control.ErrNoPeer}, 6, "timeout"},
		{errFile, 78, "bad_configuration"},
		{daemon.ErrConfig, 78, "bad_configuration"},
		{fmt.Errorf("%w: %w", errFile, errSilent), 78, "bad_configuration"},
	} {
		t.Run(test.err.Error(), func(t *testing.T) {
			for _, err := range []error{test.err, fmt.Errorf("more words: %w", test.err)} {
				if code, word := exitCode(err), errorCode(err); code != test.code || word != test.word {
					t.Errorf("%d, %q, want %d, %q", code, word, test.code, test.word)
				}
			}
		})
	}
	if code := exitCode(nil); code != 0 {
		t.Errorf("no error: %d", code)
	}
}
