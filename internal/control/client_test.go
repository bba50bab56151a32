package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// answering serves one answer to all requests, as no meshd would.
func answering(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := http.Server{Handler: handler}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return NewClient(socket)
}

// questions are all that a client asks.
var questions = map[string]func(context.Context, *Client) error{
	"status":  func(ctx context.Context, c *Client) error { _, err := c.Status(ctx); return err },
	"peers":   func(ctx context.Context, c *Client) error { _, err := c.Peers(ctx); return err },
	"peer":    func(ctx context.Context, c *Client) error { _, err := c.Peer(ctx, "a b/c"); return err },
	"history": func(ctx context.Context, c *Client) error { _, err := c.History(ctx, "a", "5m"); return err },
	"ping": func(ctx context.Context, c *Client) error {
		_, err := c.Ping(ctx,
			PingRequest{Peer: "a"})
		return err
	},
	"route": func(ctx context.Context, c *Client) error {
		_, err := c.Route(ctx, netip.MustParseAddr("10.0.0.1"))
		return err
	},
	"reload": func(ctx context.Context, c *Client) error { _, err := c.Reload(ctx); return err },
	"plan":   func(ctx context.Context, c *Client) error { _, err := c.Plan(ctx, "x", nil); return err },
	"ready":  func(ctx context.Context, c *Client) error { return c.Ready(ctx) },
	"events": func(ctx context.Context, c *Client) error {
		return c.Events(ctx, 0, false, func(Event) error { return nil })
	},
	"watch": func(ctx context.Context, c *Client) error {
		return c.Watch(ctx, time.Second, false, func(Watched) error { return nil })
	},
}

// What went wrong is an error to test for, by the status and the code, never by the message.
func TestRefusalsAreErrors(t *testing.T) {
	for name, test := range map[string]struct {
		status int
		code   string
		want   error
	}{
		"no such peer":    {http.StatusNotFound, "no_such_peer", ErrNoPeer},
		"no such path":    {http.StatusNotFound, "not_found", ErrMismatch},
		"another method":  {http.StatusMethodNotAllowed, "method_not_allowed", ErrMismatch},
		"not permitted":   {http.StatusForbidden, "not_permitted", ErrPermission},
		"not ready":       {http.StatusServiceUnavailable, "not_ready", nil},
		"of a new daemon": {http.StatusTeapot, "new", nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := answering(t, func(w http.ResponseWriter, _ *http.Request) {
				fail(w, test.status, test.code, "no such peer, not permitted") // which says nothing
			})
			for question, ask := range questions {
				err := ask(t.Context(), c)
				if err == nil || test.want != nil && !errors.Is(err, test.want) {
					t.Errorf("%s: %v", question, err)
				}
				for _, other := range []error{ErrNoPeer, ErrMismatch, ErrPermission, ErrNotRunning} {
					if other != test.want && errors.Is(err, other) {
						t.Errorf("%s is taken for %v", question, other)
					}
				}
			}
		})
	}
}

// Another version of the API is not guessed at.
func TestSchemas(t *testing.T) {
	for _, answer := range []string{`{"schema":2}`, `{}`} {
		t.Run(answer, func(t *testing.T) {
			c := answering(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, answer) })
			for question, ask := range questions {
				schemaless := question == "ready" || question == "events" || question == "watch"
				if err := ask(t.Context(), c); errors.Is(err, ErrMismatch) == schemaless {
					t.Errorf("%s: %v", question, err)
				}
			}
		})
	}
	hello := answering(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w,
			`{"hello":{"schema":2}}`)
	})
	if err := questions["watch"](t.Context(), hello); !errors.Is(err, ErrMismatch) {
		t.Errorf("watch: %v", err)
	}
}

// A daemon that dies before or in an answer is told apart from one of another version.
func TestHangUps(t *testing.T) {
	for name, written := range map[string]string{"before the answer": "", "in the answer": `{"schema":1,"no`} {
		t.Run(name, func(t *testing.T) {
			c := answering(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "1000")
				if written != "" {
					io.WriteString(w, written)
					http.NewResponseController(w).Flush()
				}
				panic(http.ErrAbortHandler)
			})
			for question, ask := range questions {
				if err := ask(t.Context(), c); err == nil {
					t.Errorf("%s has an answer", question)
				} else if code := ExitCode(err); written == "" && code != 1 {
					t.Errorf("%s: exit code %d for %v", question, code, err)
				}
			}
		})
	}
}

// The end of a daemon ends what follows it, and the error says so.
func TestDaemonEnds(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	source := Source{Events: NewEvents(), Status: status}
	server, err := Listen(socket, source, quiet)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- server.Run(t.Context()) }()
	source.Events.Add(Event{Kind: "starting"})
	err = NewClient(socket).Events(t.Context(), 0, true, func(Event) error {
		server.Close()
		return nil
	})
	if !errors.Is(err, ErrNotRunning) {
		t.Errorf("%v", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A rejected file is an outcome of reload, with its faults, and an error of plan.
func TestRejections(t *testing.T) {
	faults := []Error{{Code: "bad_configuration", Message: "a:3: x", File: "a", Line: 3}, {Message: "a:4: y"}}
	c := NewClient(serve(t, Source{
		Reload: func(context.Context, string) (ReloadResult, error) {
			return ReloadResult{Schema: Schema, Generation: 4, Reload: Reload{Error: "two faults"}, Faults: faults},
				nil
		},
		Plan: func(context.Context, string, []byte) (Plan, []Error, error) {
			return Plan{}, faults, errors.New("two faults")
		},
	}))
	r, err := c.Reload(t.Context())
	if err != nil || r.Reload.OK || r.Generation != 4 || fmt.Sprint(r.Faults) != fmt.Sprint(faults) {
		t.Errorf("reload: %+v, %v", r, err)
	}
	_, err = c.Plan(t.Context(), "a", nil)
	if why, ok := errors.AsType[*Rejection](err); !ok || why.Message != "two faults" || ExitCode(err) != 1 {
		t.Errorf("plan: %v", err)
	}
}

// Names may hold what a path or a query would read otherwise.
func TestNamesInRequests(t *testing.T) {
	got := make(chan string, 1)
	c := answering(t, func(w http.ResponseWriter, r *http.Request) {
		got <- r.URL.Path + "|" + r.URL.Query().Get("peer") + r.URL.Query().Get("path")
		io.WriteString(w, `{"schema":1}`)
	})
	const odd = "a/../b?c&d=e %2f"
	for want, ask := range map[string]func() error{
		"/v1/peers/" + odd + "|": func() error { _, err := c.Peer(t.Context(), odd); return err },
		"/v1/history|" + odd:     func() error { _, err := c.History(t.Context(), odd, "5m"); return err },
		"/v1/plan|" + odd:        func() error { _, err := c.Plan(t.Context(), odd, nil); return err },
	} {
		if err := ask(); err != nil {
			t.Error(err)
		}
		if asked := <-got; asked != want {
			t.Errorf("%q, want %q", asked, want)
		}
	}
}

// Exit codes and errors stand for each other.
func TestExitCodes(t *testing.T) {
	for code := range 8 {
		err := ErrorOf(code)
		if named := code >= 3 && code <= 6; named != (err != nil) || named &&
			ExitCode(fmt.Errorf("x: %w", err)) != code {
			t.Errorf("%d: %v", code, err)
		}
	}
	if ExitCode(nil) != 0 || ExitCode(ErrNoPeer) != 1 {
		t.Error("codes without a name")
	}
}

// Whoever is not known may not write: so a server that knows nobody lets nobody.
func TestReloadNeedsCredentials(t *testing.T) {
	handler := routes(Source{Reload: func(context.Context, string) (ReloadResult, error) {
		t.Error("it reloads")
		return ReloadResult{}, nil
	}})
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/reload", nil))
	if w.Code != http.StatusForbidden {
		t.Errorf("%d", w.Code)
	}
}

// A maintenance is begun and ended by who asks for it; what makes no sense is refused.
func TestDrain(t *testing.T) {
	var got []DrainRequest
	c := NewClient(serve(t, Source{
		Drain: func(r DrainRequest) error {
			got = append(got, r)
			if r.Reason == "full" {
				return errors.New("no room")
			}
			return nil
		},
		Undrain: func(by string) error { got = append(got, DrainRequest{By: by}); return nil },
	}))
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		r    DrainRequest
		by   string // empty: it is refused
		fail bool
	}{
		"a plain one":     {DrainRequest{Reason: "disk"}, me.Username, false},
		"for somebody":    {DrainRequest{By: "ada", ForSeconds: 60}, "ada", false},
		"not kept":        {DrainRequest{Reason: "full"}, me.Username, true},
		"a negative time": {DrainRequest{ForSeconds: -1}, "", true},
		"an endless time": {DrainRequest{ForSeconds: 1e12}, "", true},
		"a long reason":   {DrainRequest{Reason: strings.Repeat("x", 161)}, "", true},
		"a long name":     {DrainRequest{By: strings.Repeat("x", 33)}, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			got = nil
			if err := c.Drain(t.Context(), test.r); (err != nil) != test.fail {
				t.Errorf("%v", err)
			}
			test.r.By = test.by
			if (test.by != "") != (len(got) == 1) || len(got) == 1 && got[0] != test.r {
				t.Errorf("%+v", got)
			}
		})
	}
	got = nil
	if err := c.Undrain(t.Context()); err != nil || len(got) != 1 || got[0].By != me.Username {
		t.Errorf("%v, %+v", err, got)
	}
	handler := routes(Source{})
	for _, path := range []string{"/v1/drain", "/v1/undrain"} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, strings.NewReader("{}")))
		if w.Code != http.StatusForbidden {
			t.Errorf("%s without credentials: %d", path, w.Code)
		}
	}
}

// A ping that waits for more than its answer gives its place back first.
func TestPingsGiveTheirPlaceBack(t *testing.T) {
	source, stuck := stuckSource(t, "status")
	asked := make(chan struct{}, 1)
	source.Ping = func(_ context.Context, r PingRequest) (Ping, bool, error) {
		asked <- struct{}{}
		return Ping{Schema: Schema}, r.Peer == "a", nil
	}
	socket := serve(t, source)
	for range 2 * maxReaders { // of a name that is not known, which needs the status to be explained
		raw(t, socket, "POST /v1/ping HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n"+`{"peer":"x"}`)
		<-asked
	}
	<-stuck
	if _, err := NewClient(socket).Ping(t.Context(), PingRequest{Peer: "a"}); err != nil {
		t.Error(err)
	}
}

func TestTooManyPings(t *testing.T) {
	began, goOn := make(chan struct{}), make(chan struct{})
	c := NewClient(serve(t, Source{Ping: func(context.Context, PingRequest) (Ping, bool, error) {
		began <- struct{}{}
		<-goOn
		return Ping{Schema: Schema}, true, nil
	}}))
	answers := make(chan error, maxReaders)
	for range maxReaders {
		go func() { answers <- questions["ping"](t.Context(), c) }()
		<-began
	}
	if err := questions["ping"](t.Context(), c); err == nil || ExitCode(err) != 1 {
		t.Errorf("one more: %v", err)
	}
	close(goOn)
	for range maxReaders {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
}

// A client that asks once a minute, or seldom, never meets a connection that the daemon is about to close: it
// has closed it before.
func TestIdleConnectionsEndAtTheClient(t *testing.T) {
	client := NewClient("/nowhere").http.Transport.(*http.Transport).IdleConnTimeout
	daemon := NewBounded("test", http.NotFoundHandler(), quiet).http.IdleTimeout
	if client <= 0 || client >= daemon {
		t.Errorf("the client keeps idle connections for %v, the daemon for %v", client, daemon)
	}
}
