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
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// isOpen asks over a connection that has said nothing so far.
func isOpen(conn net.Conn) bool {
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, "GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return false
	}
	answer := make([]byte, 12)
	_, err := io.ReadFull(conn, answer)
	return err == nil && string(answer) == "HTTP/1.1 404"
}

// A program that opens connections and says nothing costs its user the oldest of them;
// nobody is shut out, not even other programs of that user.
func TestSilentConnections(t *testing.T) {
	socket := serve(t, Source{Status: func() Status { return Status{Schema: Schema} }})
	var silent []net.Conn
	for range maxConnections + 50 {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		silent = append(silent, conn)
	}
	if _, err := NewClient(socket).Status(t.Context()); err != nil {
		t.Error(err)
	}
	last := len(silent) - maxOfUser + 1 // the question above took a place
	waitHangup(t, silent[0])
	waitHangup(t, silent[last-1])
	for _, i := range []int{last, len(silent) - 1} {
		if !isOpen(silent[i]) {
			t.Errorf("connection %d of %d is closed", i, len(silent))
		}
	}
}

// Where every place is taken by questions that are being answered, the next one is
// refused in words.
func TestBusyConnections(t *testing.T) {
	var asked sync.WaitGroup
	goOn := make(chan struct{})
	release := sync.OnceFunc(func() { close(goOn) })
	defer release()
	asked.Add(maxOfUser)
	socket := serve(t, Source{Status: status, Reload: func(context.Context, string) (ReloadResult, error) {
		asked.Done()
		<-goOn
		return ReloadResult{Schema: Schema, Reload: Reload{OK: true}}, nil
	}})
	answers := make(chan error, maxOfUser)
	for range maxOfUser {
		go func() {
			_, err := NewClient(socket).Reload(t.Context())
			answers <- err
		}()
	}
	asked.Wait()
	for range 2 * maxRefused { // whoever is told so gives its place back
		_, err := NewClient(socket).Status(t.Context())
		if err == nil || !strings.Contains(err.Error(), "too many connections are open") {
			t.Fatal(err)
		}
	}
	release()
	for range maxOfUser {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
}

// tcp serves over TCP until the test ends.
func tcp(t *testing.T, handler http.Handler) (*Bounded, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := NewBounded("test", handler, quiet)
	done := make(chan error)
	go func() { done <- b.Serve(l) }()
	t.Cleanup(func() {
		b.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return b, l.Addr().String()
}

// from connects from an address of this host.
func from(t *testing.T, address, to string) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}, Timeout: 20 * time.Second}
	conn, err := dialer.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// Strangers, with one address or many, silent or slow, take neither all connections
// nor those of a scraper, also where it is in their own network.
func TestStrangers(t *testing.T) {
	b, address := tcp(t, http.NotFoundHandler())
	count := func() (n int) {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.visitors)
	}
	scrape := func(from string) bool {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		transport := &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}
		client := http.Client{Transport: transport, Timeout: 20 * time.Second}
		response, err := client.Get("http://" + address + "/metrics")
		if err != nil {
			t.Error(err)
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusNotFound
	}
	for _, test := range []struct {
		networks, hosts, each int
		most                  int
	}{
		{1, 1, 100, maxOfAddress}, {1, 100, 4, maxOfNetwork}, {8, 50, 1, maxConnections}, {8, 10, 20,
			maxConnections},
	} {
		t.Run(fmt.Sprint(test), func(t *testing.T) {
			for i := range test.each {
				for network := range test.networks {
					for host := range test.hosts {
						conn := from(t, fmt.Sprintf("127.1.%d.%d", network, 1+host), address)
						if i%2 == 0 { // a head that never ends
							_, _ = io.WriteString(conn, "GET /metrics HTTP/1.1\r\n")
						}
					}
				}
				if !scrape("127.1.0.200") || !scrape("127.2.2.2") {
					t.Errorf("a scraper is shut out after %d rounds", i+1)
				}
			}
			if n := count(); n > test.most+2 { // the scrapers
				t.Errorf("%d connections are held, more than %d", n, test.most)
			}
		})
	}
}

// Who has to go when there is no room.
func TestRoom(t *testing.T) {
	b := NewBounded("test", http.NotFoundHandler(), quiet)
	b.most = 6
	arrive := func(name string, most int, protected, busy bool) *visitor {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { ours.Close(); theirs.Close() })
		scopes := []scope{{name, most}, {"all", b.most}}
		v := &visitor{conn: ours, scopes: scopes, protected: protected, busy: busy}
		if _, ok := b.room(v); !ok {
			return nil
		}
		b.visitors = append(b.visitors, v)
		for _, s := range v.scopes {
			b.held[s.name]++
		}
		return v
	}
	held := func(v *visitor) bool { return slices.Contains(b.visitors, v) }
	root := arrive("root", 3, true, true)
	first, second := arrive("alice", 3, false, true), arrive("alice", 3, false, false)
	third := arrive("alice", 3, false, true)
	if fourth := arrive("alice", 3, false, true); fourth == nil || held(second) || !held(first) {
		t.Error("not the one that waits has gone")
	}
	if arrive("alice", 3, false, true) != nil || !held(first) {
		t.Error("an owner pushed out what it is waiting for")
	}
	bob := arrive("bob", 3, false, true)
	if arrive("bob", 3, false, true); len(b.visitors) != 6 || !held(first) {
		t.Fatalf("%d visitors", len(b.visitors))
	}
	if arrive("carol", 3, false, true) == nil || held(first) || !held(third) || !held(bob) {
		t.Error("whoever holds most has to pay, with the oldest")
	}
	for range 2 {
		if arrive("root", 3, true, true) == nil {
			t.Error("there is no room for root")
		}
	}
	for i := range 10 {
		arrive(fmt.Sprint("user ", i), 3, false, false)
	}
	if !held(root) || b.held["root"] != 3 || len(b.visitors) != 6 {
		t.Errorf("root was pushed out: %v", b.held)
	}
}

func TestConnectionsFor(t *testing.T) {
	for descriptors, want := range map[uint64]int{10: maxRefused, 400: 100, 1024: maxConnections, 1 << 60: 256} {
		t.Run(fmt.Sprint(descriptors), func(t *testing.T) {
			if got := connectionsFor(descriptors); got != want {
				t.Errorf("%d, want %d", got, want)
			}
		})
	}
}

// broken is a listener that has no descriptor for a while.
type broken struct {
	net.Listener
	errors int
}

func (b *broken) Accept() (net.Conn, error) {
	if b.errors > 0 {
		b.errors--
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: unix.EMFILE}
	}
	return b.Listener.Accept()
}

// What accept cannot do is said once, in the log's own form, and it goes on.
func TestAcceptErrors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	b := NewBounded("metrics", http.NotFoundHandler(), slog.New(slog.NewJSONHandler(&said, nil)))
	done := make(chan error)
	go func() { done <- b.Serve(&broken{l, 4}) }()
	if !isOpen(from(t, "127.0.0.1", l.Addr().String())) {
		t.Error("it is not served")
	}
	l.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	b.Close()
	const want = `"event":"accept_failed","server":"metrics","error":"accept tcp: too many open files"`
	if got := said.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, want) {
		t.Errorf("%s", got)
	}
}
