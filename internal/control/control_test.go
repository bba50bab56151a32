package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var quiet = slog.New(slog.DiscardHandler)

// webClient returns a client that knows nothing of the API.
func webClient(socket string) *http.Client {
	dial := func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", socket) }
	return &http.Client{Transport: &http.Transport{DialContext: dial}}
}

// status is that of a daemon of which only the schema matters.
func status() Status { return Status{Schema: Schema} }

// serve runs a server until the test ends and returns its socket.
func serve(t *testing.T, source Source) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "run", "meshd.sock")
	s, err := Listen(socket, source, quiet)
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
		if _, err := os.Stat(socket); !os.IsNotExist(err) {
			t.Errorf("socket is left: %v", err)
		}
	})
	return socket
}

func TestQuestions(t *testing.T) {
	want := Status{Schema: Schema, Node: "edge-1", Warnings: []string{"x"}, Peers: []Peer{{Name: "p"}},
		Started: time.Unix(1, 0).UTC()}
	socket := serve(t, Source{
		Status: func() Status { return want },
		Route:  func(to netip.Addr) Route { return Route{Schema: Schema, To: to.String(), Peer: "p"} },
	})
	c := NewClient(socket)
	got, err := c.Status(t.Context())
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("Status: %+v, %v", got, err)
	}
	route, err := c.Route(t.Context(), netip.MustParseAddr("::ffff:10.1.1.1"))
	if err != nil || route.To != "10.1.1.1" || route.Peer != "p" {
		t.Errorf("Route: %+v, %v", route, err)
	}
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
}

func TestErrorsAreJSON(t *testing.T) {
	socket := serve(t, Source{})
	c := webClient(socket)
	for path, want := range map[string]string{
		"/v1/route":        "400 bad_address",
		"/v1/route?to=pod": "400 bad_address",
		"/v1/nothing":      "404 not_found",
		"/":                "404 not_found",
	} {
		t.Run(path, func(t *testing.T) {
			response, err := c.Get("http://meshd" + path)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			var body struct{ Error Error }
			if err := json.NewDecoder(response.Body).Decode(&body); err != nil {
				t.Error(err)
			}
			if got := fmt.Sprint(response.StatusCode, " ", body.Error.Code); got != want || body.Error.Message == "" {
				t.Errorf("%s %q, want %s", got, body.Error.Message, want)
			}
		})
	}
}

func TestClientErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := NewClient(filepath.Join(dir, "none")).Status(t.Context()); !errors.Is(err, ErrNotRunning) ||
		!strings.Contains(err.Error(), "systemctl start meshd") {
		t.Errorf("no socket: %v", err)
	}
	dead := filepath.Join(dir, "dead")
	l, err := net.Listen("unix", dead)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if _, err := NewClient(dead).Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("dead socket: %v", err)
	}
	future := serve(t, Source{Status: func() Status { return Status{Schema: 2} }})
	if _, err := NewClient(future).Status(t.Context()); !errors.Is(err, ErrMismatch) {
		t.Errorf("schema 2: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	// Its status is never there in time.
	slow := serve(t, Source{Status: func() Status { cancel(); <-t.Context().Done(); return Status{} }})
	if _, err := NewClient(slow).Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestListenReplacesOnlyTheDead(t *testing.T) {
	socket := serve(t, Source{})
	if _, err := Listen(socket, Source{}, quiet); err == nil || !strings.Contains(err.Error(),
		"another meshd is running") {
		t.Errorf("Listen: %v", err)
	}
	dead := filepath.Join(t.TempDir(), "dead")
	l, err := net.Listen("unix", dead)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	s, err := Listen(dead, Source{}, quiet)
	if err != nil {
		t.Fatalf("Listen over a dead socket: %v", err)
	}
	s.Close()
	file := filepath.Join(t.TempDir(), "mesh.toml")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file, Source{}, quiet); err == nil || !strings.Contains(err.Error(),
		"exists and is not a socket: not replacing it") {
		t.Errorf("Listen over a file: %v", err)
	}
	if _, err := Listen("/proc/nothing/meshd.sock", Source{}, quiet); err == nil {
		t.Error("Listen where nothing can be made")
	}
}

// heard passes on which events are logged.
type heard chan string

func (h heard) Enabled(context.Context, slog.Level) bool { return true }
func (h heard) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h heard) WithGroup(string) slog.Handler            { return h }
func (h heard) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "event" {
			h <- a.Value.String()
		}
		return true
	})
	return nil
}

// A socket that another program removes is made anew, with the same rights, also if its folder went. What the
// program puts in its place stays, also when the server ends.
func TestRemovedSocketIsMadeAnew(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "run", "meshd.sock")
	events := make(heard, 100)
	s, err := Listen(socket, Source{Status: func() Status { return Status{Schema: Schema} }}, slog.New(events))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	for _, gone := range []string{socket, filepath.Dir(socket)} {
		if err := os.RemoveAll(gone); err != nil {
			t.Fatal(err)
		}
		for event := ""; event != "socket_restored"; {
			select {
			case event = <-events:
			case err := <-done:
				t.Fatalf("Run has ended: %v", err)
			case <-time.After(time.Minute):
				t.Fatal("the socket is not made anew")
			}
		}
		c := NewClient(socket)
		if _, err := c.Status(t.Context()); err != nil {
			t.Error(err)
		}
		c.Close()
		if info, err := os.Lstat(socket); err != nil || info.Mode().Perm() != 0o660 {
			t.Errorf("%v, %v", info, err)
		}
	}
	other := filepath.Join(t.TempDir(), "file")
	if err := errors.Join(os.WriteFile(other, []byte("mine"), 0o600), os.Rename(other, socket)); err != nil {
		t.Fatal(err)
	}
	if restored, err := s.restore(); restored || err != nil {
		t.Errorf("restore: %v, %v", restored, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(socket); err != nil || string(b) != "mine" {
		t.Errorf("%q, %v", b, err)
	}
}

// A file or link that another program put in the place of the socket, before that got its name, is
// not given to the group.
func TestSocketIsExchanged(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Symlink(file, link)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link} {
		if err := share(path, quiet); !errors.Is(err, errExchanged) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// Names of the API's fields are a promise: no script that reads one may find it renamed.
func TestStatusFields(t *testing.T) {
	doc, err := json.Marshal(Status{Config: Config{Applied: time.Unix(1, 0),
		LastReload: Reload{At: time.Unix(1, 0)}}, Peers: []Peer{{}}, Masquerade: Masquerade{Rules: []Rule{{}}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"schema", "node", "version", "boot_id", "started", "uptime_seconds", "config",
		"path", "generation", "sha256", "applied", "error",
		"last_reload", "ok", "at", "duration_ms", "changes", "network", "name", "cidr", "interface", "mtu",
		"port", "address", "subnets", "dataplane", "engine",
		"reason", "receive", "offloads", "queues", "totals", "rx_packets", "rx_bytes", "tx_packets", "tx_bytes",
		"drops", "peers", "routes", "state", "since",
		"last_seen", "rtt_ms", "loss", "config_sha256", "config_match", "masquerade", "enabled", "rules",
		"packets", "bytes", "repairs", "warnings"} {
		if !strings.Contains(string(doc), `"`+key+`":`) {
			t.Errorf("no %q in %s", key, doc)
		}
	}
}

// A path that there is has other methods, and the answer lists them.
func TestMethods(t *testing.T) {
	handler := routes(Source{Status: func() Status { return Status{} }, Events: NewEvents()})
	for request, want := range map[string]string{
		"POST /v1/status":       "405 GET, HEAD",
		"DELETE /v1/peers/edge": "405 GET, HEAD",
		"GET /v1/reload":        "405 POST",
		"PUT /v1/plan":          "405 POST",
		"POST /metrics":         "405 GET, HEAD",
		"OPTIONS /v1/drain":     "405 POST",
		"POST /v1/nothing":      "404 ",
		"HEAD /v1/status":       "200 ",
	} {
		t.Run(request, func(t *testing.T) {
			method, path, _ := strings.Cut(request, " ")
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequest(method, path, nil))
			if got := fmt.Sprint(w.Code, " ", w.Header().Get("Allow")); got != want {
				t.Errorf("%q, want %q: %s", got, want, w.Body)
			}
		})
	}
}
