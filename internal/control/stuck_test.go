package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
)

// routesOf lists a request for each route, by the function of the Source that answers it.
var routesOf = map[string][]string{
	"status":  {"GET /v1/status", "GET /v1/peers", "GET /v1/peers/a", "GET /metrics"},
	"route":   {"GET /v1/route?to=10.0.0.1"},
	"history": {"GET /v1/history?span=5m"},
	"ping":    {"POST /v1/ping"},
	"reload":  {"POST /v1/reload"},
	"plan":    {"POST /v1/plan"},
	"healthy": {"GET /healthz"},
	"ready":   {"GET /readyz"},
	"events":  {"GET /v1/events"},
}

// stuckSource returns a Source of which one function never returns before the test ends, whatever
// becomes of its context. entered gets a value for each call of that function.
func stuckSource(t *testing.T, stuck string) (source Source, entered <-chan struct{}) {
	calls, release := make(chan struct{}, 1000), make(chan struct{})
	t.Cleanup(func() { close(release) }) // before the server of the test is awaited
	visit := func(name string) {
		if name == stuck {
			calls <- struct{}{}
			<-release
		}
	}
	return Source{
		Events: NewEvents(),
		Status: func() Status {
			visit("status")
			return Status{Schema: Schema, Peers: []Peer{{Name: "a"}}}
		},
		Route:   func(netip.Addr) Route { visit("route"); return Route{Schema: Schema} },
		History: func(string, string) (*History, error) { visit("history"); return &History{Schema: Schema}, nil },
		Ping: func(context.Context, PingRequest) (Ping, bool, error) {
			visit("ping")
			return Ping{Schema: Schema}, true, nil
		},
		Reload: func(context.Context, string) (ReloadResult, error) {
			visit("reload")
			return ReloadResult{Schema: Schema, Reload: Reload{OK: true}}, nil
		},
		Plan: func(context.Context, string, []byte) (Plan, []Error, error) {
			visit("plan")
			return Plan{Schema: Schema}, nil, nil
		},
		Healthy: func(context.Context) error { visit("healthy"); return nil },
		Ready:   func(context.Context) error { visit("ready"); return nil },
	}, calls
}

// begin sends a request without waiting for the answer.
func begin(t *testing.T, socket, request string) (net.Conn, io.Reader) {
	t.Helper()
	end := " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	if strings.HasPrefix(request, "POST") { // net/http notices a hang-up only once the body is read
		end = strings.TrimSuffix(end, "\r\n") + "Content-Length: 2\r\n\r\n{}"
	}
	return raw(t, socket, request+end)
}

// A function of the Source that is stuck delays no route that does not need it.
func TestStuckSource(t *testing.T) {
	for stuck := range routesOf {
		if stuck == "events" {
			continue // they are the server's own
		}
		t.Run(stuck, func(t *testing.T) {
			source, entered := stuckSource(t, stuck)
			socket := serve(t, source)
			for _, request := range routesOf[stuck] {
				begin(t, socket, request)
			}
			<-entered
			for other, requests := range routesOf {
				if other == stuck {
					continue
				}
				for _, request := range requests {
					_, reader := begin(t, socket, request)
					answer, err := io.ReadAll(reader)
					if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 200 ")) {
						t.Errorf("%s: %v, %s", request, err, answer)
					}
				}
			}
		})
	}
}

// Whoever gave up waiting for a stuck function leaves no connection behind for long: a script that
// asks again and again shuts nobody out.
func TestStuckSourceAndImpatientClients(t *testing.T) {
	for _, stuck := range []string{"status", "route", "history"} {
		t.Run(stuck, func(t *testing.T) {
			t.Parallel() // each waits for readerPatience
			source, entered := stuckSource(t, stuck)
			socket := serve(t, source)
			var askers []io.Reader
			for range maxOfUser {
				conn, reader := begin(t, socket, routesOf[stuck][0])
				if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
					t.Fatal(err)
				}
				askers = append(askers, reader)
			}
			for i, reader := range askers {
				answer, err := io.ReadAll(reader)
				if err != nil || !bytes.Contains(answer, []byte(`"code":"busy"`)) {
					t.Fatalf("client %d: %v, %s", i, err, answer)
				}
			}
			if n := len(entered); n == 0 || n > maxCalls {
				t.Errorf("%d calls are stuck, not 1 to %d", n, maxCalls)
			}
			if _, reader := begin(t, socket, "GET /healthz"); !isOK(reader) {
				t.Error("/healthz does not answer")
			}
		})
	}
}

// A client that closes its sending side after the question, as `nc -N` does, still gets the answer,
// although net/http takes it for gone.
func TestHalfClosedClients(t *testing.T) {
	source, _ := stuckSource(t, "")
	handler := routes(source)
	gone, hangUp := context.WithCancel(t.Context())
	hangUp()
	for _, name := range []string{"status", "route", "history"} {
		for _, request := range routesOf[name] {
			t.Run(request, func(t *testing.T) {
				method, path, _ := strings.Cut(request, " ")
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, httptest.NewRequest(method, path, nil).WithContext(gone))
				if w.Code != http.StatusOK || w.Body.Len() == 0 {
					t.Errorf("%d, %s", w.Code, w.Body)
				}
			})
		}
	}
}

func isOK(reader io.Reader) bool {
	answer, err := io.ReadAll(reader)
	return err == nil && bytes.HasPrefix(answer, []byte("HTTP/1.1 200 "))
}

// A watchdog gets a "no" from a daemon that is stuck, not silence.
func TestStuckHealth(t *testing.T) {
	for stuck, code := range map[string]string{"healthy": "unhealthy", "ready": "not_ready"} {
		t.Run(stuck, func(t *testing.T) {
			source, _ := stuckSource(t, stuck)
			_, reader := begin(t, serve(t, source), routesOf[stuck][0])
			answer, err := io.ReadAll(reader)
			want := fmt.Sprintf("\r\n\r\n{\"error\":{\"code\":%q,", code)
			if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 503 ")) ||
				!bytes.Contains(answer, []byte(want)) {
				t.Errorf("%v, %s", err, answer)
			}
		})
	}
}

// Events reach watchers while the status is stuck: they may say why.
func TestEventsWhileStatusIsStuck(t *testing.T) {
	stuck, release := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(release) })
	calls := 0
	source := Source{Events: NewEvents(), Status: func() Status {
		if calls++; calls == 2 {
			close(stuck)
			<-release
		}
		return status()
	}}
	go func() {
		<-stuck
		source.Events.Add(Event{Kind: "hangs"})
	}()
	enough := errors.New("enough")
	var seen []string
	err := NewClient(serve(t, source)).Watch(t.Context(), minInterval, false, func(w Watched) error {
		seen = append(seen, w.Type)
		if w.Event != nil {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || fmt.Sprint(seen) != "[hello snapshot event]" {
		t.Errorf("%v, %v", err, seen)
	}
}

// A fault in the Source costs the answer, not the daemon.
func TestSourcePanics(t *testing.T) {
	var faulty atomic.Bool
	faulty.Store(true)
	socket := serve(t, Source{Status: func() Status {
		if faulty.Load() {
			panic("a fault")
		}
		return status()
	}})
	if _, err := NewClient(socket).Status(t.Context()); err == nil {
		t.Error("a status was made up")
	}
	faulty.Store(false)
	if _, err := NewClient(socket).Status(t.Context()); err != nil {
		t.Errorf("after the fault: %v", err)
	}
}

// No mutex is held while the log is written: a log that is stuck delays no question.
func TestLogWithoutLock(t *testing.T) {
	lines := make(chan string, 10)
	var b *Bounded
	log := slog.New(slog.NewJSONHandler(writer(func(line []byte) {
		if !b.mu.TryLock() {
			t.Error("the log is written with the lock held")
		} else {
			b.mu.Unlock()
		}
		lines <- string(line)
	}), nil))
	b = NewBounded("test", http.NotFoundHandler(), log)
	b.most = 4
	for range 4 {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { ours.Close(); theirs.Close() })
		b.arrive(t.Context(), ours)
	}
	line := <-lines
	for _, want := range []string{`"event":"too_many_connections"`, `"server":"test"`, `"from":"unknown user"`} {
		if !bytes.Contains([]byte(line), []byte(want)) {
			t.Errorf("no %s in %s", want, line)
		}
	}
	if len(b.visitors) > 4 {
		t.Errorf("%d visitors", len(b.visitors))
	}
}

type writer func([]byte)

func (w writer) Write(b []byte) (int, error) { w(b); return len(b), nil }
