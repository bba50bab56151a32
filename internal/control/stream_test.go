package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/budget"
)

// raw sends a request over a connection of its own and returns the reader of the
// answer.
func raw(t *testing.T, socket, request string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if request == "" { // the other side may have hung up already
		return conn, bufio.NewReader(conn)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

func TestEventsAreKept(t *testing.T) {
	l := NewEvents()
	for i := range EventsKept + 500 {
		l.Add(Event{Message: fmt.Sprint(i + 1)})
	}
	for _, since := range []uint64{0, 100, 500} {
		events, _ := l.Since(since)
		if len(events) != EventsKept || events[0].Seq != 501 || events[0].Message != "501" ||
			events[len(events)-1].Seq != EventsKept+500 {
			t.Errorf("since %d: %d events, %+v to %+v", since, len(events), events[0], events[len(events)-1])
		}
	}
	events, more := l.Since(EventsKept + 499)
	if len(events) != 1 {
		t.Errorf("%d events", len(events))
	}
	select {
	case <-more:
		t.Error("there is no more")
	default:
	}
	l.Add(Event{})
	<-more
	if events, _ := l.Since(1 << 60); len(events) != 0 {
		t.Errorf("of the future: %+v", events)
	}
}

func TestWatch(t *testing.T) {
	events := NewEvents()
	events.Add(Event{Kind: "before"})
	n := 0
	c := NewClient(serve(t, Source{Events: events, Status: func() Status {
		n++
		return Status{Schema: Schema, Node: "a", BootID: "x", Totals: Totals{RxPackets: new(uint64(n))}}
	}}))
	enough := errors.New("enough")
	var last uint64
	snapshots, told := 0, false
	err := c.Watch(t.Context(), 100*time.Millisecond, false, func(w Watched) error {
		switch {
		case w.Seq != last+1:
			t.Errorf("%+v after %d", w, last)
		case last == 0 && (w.Type != "hello" || w.Hello.Node != "a" || w.Hello.BootID != "x" ||
			w.Hello.IntervalMS != 100):
			t.Errorf("first %+v", w)
		case w.Type == "snapshot":
			if snapshots++; snapshots == 2 {
				events.Add(Event{Kind: "now"})
			}
		case w.Type == "event":
			if w.Event.Kind != "now" || w.Event.Seq != 2 || snapshots != 2 {
				t.Errorf("event %+v after %d snapshots", w.Event, snapshots)
			}
			told = true
		}
		last = w.Seq
		if snapshots == 4 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || !told {
		t.Errorf("%v, event told: %v", err, told)
	}
}

// A file that is looked at costs memory: one at a time is.
func TestOnePlanAtATime(t *testing.T) {
	began, goOn := make(chan struct{}), make(chan struct{})
	socket := serve(t, Source{Events: NewEvents(), Plan: func(context.Context, string, []byte) (Plan, []Error,
		error) {
		began <- struct{}{}
		<-goOn
		return Plan{Schema: Schema}, nil, nil
	}})
	ask := func() <-chan error {
		answer := make(chan error, 1)
		go func() {
			_, err := NewClient(socket).Plan(t.Context(), "x", nil)
			answer <- err
		}()
		return answer
	}
	first := ask()
	<-began
	if err := <-ask(); err == nil { // after readerPatience
		t.Errorf("a second plan: %v", err)
	}
	goOn <- struct{}{}
	third := ask()
	<-began
	goOn <- struct{}{}
	if err := errors.Join(<-first, <-third); err != nil {
		t.Error(err)
	}
}

// A plan ends when its asker hangs up, and the next one is made at once.
func TestPlanEndsWithItsAsker(t *testing.T) {
	began, ended := make(chan struct{}), make(chan struct{})
	socket := serve(t, Source{Events: NewEvents(), Plan: func(ctx context.Context, path string,
		_ []byte) (Plan, []Error, error) {
		if path != "endless" {
			return Plan{Schema: Schema}, nil, nil
		}
		close(began)
		<-ctx.Done()
		close(ended)
		return Plan{}, nil, ctx.Err()
	}})
	ctx, hangUp := context.WithCancel(t.Context())
	answer := make(chan error, 1)
	go func() {
		_, err := NewClient(socket).Plan(ctx, "endless", []byte("x"))
		answer <- err
	}()
	<-began
	hangUp()
	<-ended
	if err := <-answer; !errors.Is(err, context.Canceled) {
		t.Errorf("the asker that hung up got %v", err)
	}
	if _, err := NewClient(socket).Plan(t.Context(), "next", nil); err != nil {
		t.Errorf("the next plan: %v", err)
	}
}

// A daemon that ends while somebody reads is one that does not run any more.
func TestEndWhileReading(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "meshd.sock")
	s, err := Listen(socket, Source{Events: NewEvents(),
		Status: func() Status { return Status{Schema: Schema} }}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	err = NewClient(socket).Watch(t.Context(), time.Hour, false, func(w Watched) error {
		if w.Type == "snapshot" {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "it stopped") {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Who comes late is told what was, after the first snapshot.
func TestWatchThePast(t *testing.T) {
	events := NewEvents()
	for _, kind := range []string{"first", "second"} {
		events.Add(Event{Kind: kind})
	}
	c := NewClient(serve(t, Source{Events: events, Status: func() Status { return Status{Schema: Schema} }}))
	enough := errors.New("enough")
	var told []string
	if err := c.Watch(t.Context(), time.Hour, true, func(w Watched) error {
		told = append(told, w.Type)
		if w.Event != nil {
			told = append(told, w.Event.Kind)
		}
		if len(told) == 6 {
			return enough
		}
		return nil
	}); !errors.Is(err, enough) || strings.Join(told, " ") != "hello snapshot event first event second" {
		t.Errorf("%v, %q", err, told)
	}
}

// A reader that does not read misses snapshots, holds up nobody, and is cut off.
func TestSlowReader(t *testing.T) {
	events := NewEvents()
	big := strings.Repeat("x", 4<<20) // more than any socket buffer
	socket := serve(t, Source{Events: events, Status: func() Status {
		return Status{Schema: Schema,
			Node: big}
	}})
	began := time.Now()
	stuck, _ := raw(t, socket, "GET /v1/watch?interval=100ms HTTP/1.1\r\nHost: x\r\n\r\n")
	// Somebody else is served meanwhile.
	enough := errors.New("enough")
	if err := NewClient(socket).Watch(t.Context(), 100*time.Millisecond, false, func(w Watched) error {
		if w.Seq > 5 {
			return enough
		}
		return nil
	}); !errors.Is(err, enough) {
		t.Error(err)
	}
	waitHangup(t, stuck)
	if waited := time.Since(began); waited < readerPatience {
		t.Errorf("cut off after %v", waited)
	}
}

// waitHangup waits until the other end of a connection is closed, without reading.
func waitHangup(t *testing.T, conn net.Conn) {
	t.Helper()
	control, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := errors.Join(control.Control(func(fd uintptr) {
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}, int(time.Minute.Milliseconds()))
	}), err); err != nil || n != 1 {
		t.Errorf("not cut off: %v", err)
	}
}

func TestTooManyReaders(t *testing.T) {
	socket := serve(t, Source{Events: NewEvents(), Status: func() Status { return Status{Schema: Schema} }})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	began := make(chan struct{})
	ended := make(chan error, maxReaders)
	for range maxReaders {
		go func() {
			first := true
			ended <- NewClient(socket).Watch(ctx, time.Second, false, func(Watched) error {
				if first {
					first = false
					began <- struct{}{}
				}
				return nil
			})
		}()
	}
	for range maxReaders {
		<-began
	}
	enough := errors.New("enough")
	refused := func() error {
		if err := NewClient(socket).Watch(ctx, time.Second, false,
			func(Watched) error { return enough }); !errors.Is(err, enough) {
			return err
		}
		return nil
	}
	if err := NewClient(socket).Events(ctx, 0, false, func(Event) error { return nil }); err != nil {
		t.Errorf("events that end: %v", err)
	}
	if err := refused(); err == nil {
		t.Errorf("one more: %v", err)
	}
	cancel()
	for range maxReaders {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	ctx = t.Context()
	for deadline := time.Now().Add(10 * time.Second); refused() != nil; {
		if time.Now().After(deadline) {
			t.Fatal("places of those who left are not free")
		}
	}
}

// Whatever is sent, the answer is 4xx, JSON, and soon.
func TestBadRequests(t *testing.T) {
	socket := serve(t, Source{
		Events: NewEvents(), Status: func() Status { return Status{Schema: Schema} },
		Ping: func(context.Context, PingRequest) (Ping, bool, error) { return Ping{}, false, nil },
		History: func(peer, span string) (*History, error) {
			if span == "" {
				return nil, nil
			}
			return nil, errors.New("no such span")
		},
	})
	post := func(path, body string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
	}
	get := func(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n" }
	for request, want := range map[string]string{
		get("/v1/peers/x"):                               "404 no_such_peer",
		get("/v1/peers/%2e%2e%2fx"):                      "404 no_such_peer",
		get("/v1/history?peer=x"):                        "404 no_such_peer",
		get("/v1/history?span=7d"):                       "400 bad_request",
		get("/v1/events?since=-1"):                       "400 bad_request",
		get("/v1/watch?interval=1ns"):                    "400 bad_request",
		get("/v1/watch?interval=soon"):                   "400 bad_request",
		get("/v1/route?to=" + strings.Repeat("1", 8000)): "400 bad_address",
		post("/v1/ping", "{"):                            "400 bad_request",
		post("/v1/ping", `{"peer":"x"}`):                 "404 no_such_peer",
		post("/v1/ping", strings.Repeat(" ", 5000)):      "400 bad_request",
		"BREW /v1/status HTTP/1.1\r\nHost: x\r\n\r\n":    "405 method_not_allowed",
		post("/v1/status", ""):                           "405 method_not_allowed",
		"GET /v1/status HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("y", 64<<10) + "\r\n\r\n": "431 ",
		"nonsense\r\n\r\n": "400 ",
	} {
		t.Run(fmt.Sprintf("%.40s", request), func(t *testing.T) {
			_, reader := raw(t, socket, request)
			response, err := http.ReadResponse(reader, nil)
			if err != nil {
				t.Fatal(err)
			}
			var failure struct{ Error Error }
			_ = json.NewDecoder(response.Body).Decode(&failure)
			if got := fmt.Sprint(response.StatusCode, " ", failure.Error.Code); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
}

// A client that sends half a request keeps nobody waiting, and is cut off.
func TestSlowRequest(t *testing.T) {
	socket := serve(t, Source{Status: func() Status { return Status{Schema: Schema} }})
	_, reader := raw(t, socket, "POST /v1/ping HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
	if _, err := NewClient(socket).Status(t.Context()); err != nil {
		t.Error(err)
	}
	response, err := http.ReadResponse(reader, nil)
	if err != nil || response.StatusCode != http.StatusBadRequest {
		t.Errorf("%+v, %v", response, err)
	}
}

// FuzzRequest: whatever comes in over the socket, the server goes on.
func FuzzRequest(f *testing.F) {
	for _, path := range []string{"/v1/status", "/v1/peers/a", "/v1/events?since=1",
		"/v1/history?peer=a&span=1h", "/v1/route?to=10.0.0.1", "/metrics", "/healthz"} {
		f.Add("GET", path, "")
	}
	f.Add("POST", "/v1/ping", `{"peer":"a","size":100,"timeout_ms":5}`)
	f.Add("POST", "/v1/plan?path=x", "[network]")
	events := NewEvents()
	events.Add(Event{Message: "x"})
	handler := routes(Source{
		Events: events, Status: func() Status { return Status{Schema: Schema, Peers: []Peer{{Name: "a"}}} },
		Route: func(to netip.Addr) Route { return Route{To: to.String()} },
		Ping: func(_ context.Context, r PingRequest) (Ping, bool, error) {
			return Ping{Peer: r.Peer}, r.Peer == "a", nil
		},
		History: func(peer, span string) (*History, error) { return &History{Peer: peer}, nil },
		Plan:    func(context.Context, string, []byte) (Plan, []Error, error) { return Plan{}, nil, nil },
		Healthy: func(context.Context) error { return nil }, Ready: func(context.Context) error { return nil },
	})
	f.Fuzz(func(t *testing.T, method, path, body string) {
		defer budget.Of(t)()
		r, err := http.NewRequestWithContext(t.Context(), method, "http://x", strings.NewReader(body))
		if err != nil || strings.HasPrefix(path, "/v1/watch") || strings.Contains(path, "follow") {
			return // endless ones have tests of their own
		}
		r.RequestURI = path
		if r.URL, err = r.URL.Parse(path); err != nil || r.URL.Host != "x" ||
			strings.HasPrefix(r.URL.Path, "/v1/watch") {
			return
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code < 200 || w.Code > 503 {
			t.Errorf("%s %q: %d", method, path, w.Code)
		}
		if w.Header().Get("Content-Type") == "application/json" && !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s %q: %s", method, path, w.Body)
		}
	})
}
