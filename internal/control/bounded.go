package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// How many connections a Bounded server holds. Newcomers never wait: where a bound is
// reached, one connection is closed for another (see room).
//
//	visitor   a connection, and who is at its other end
//	scope     a number of connections that are bounded together: those of one owner,
//	          of a network around it, or all
//	owner     the narrowest scope: a user on the unix socket, an address over TCP
//	waiting   no question of it is being answered: it is idle, or slow to ask
const (
	maxConnections = 256
	maxOfUser      = 64
	maxOfNetwork   = 64 // an IPv4 /24, an IPv6 /48
	maxOfAddress   = 16 // an IPv4 address, an IPv6 /64, which is one host's to choose from
	maxRefused     = 16 // that are told so; others are hung up on
)

// A scope is a name that connections share and how many may do so.
type scope struct {
	name string
	most int
}

// A visitor is a connection that is held.
type visitor struct {
	conn        net.Conn
	credentials *unix.Ucred // of a unix socket
	scopes      []scope     // the narrowest first: the owner
	protected   bool        // root and the daemon's own user: others cannot push it out
	refused     bool        // it is told that there are too many, and no more
	busy        bool        // a question is being answered; guarded by Bounded.mu
}

func (v *visitor) owner() string { return v.scopes[0].name }

func (v *visitor) in(name string) bool {
	return slices.ContainsFunc(v.scopes, func(s scope) bool { return s.name == name })
}

// A Bounded is an HTTP server that strangers cannot exhaust: the number of connections,
// the time for a question and the size of its head are bounded, so descriptors and
// memory stay for the daemon. It says what goes wrong in the daemon's log, seldom.
// Its methods may be called from several goroutines at once.
type Bounded struct {
	name string
	http http.Server
	log  *slog.Logger
	most int // connections in all

	mu       sync.Mutex
	visitors []*visitor     // in order of arrival
	held     map[string]int // visitors by name of a scope
	told     seldom
}

// NewBounded returns a server for Serve. name is what the log calls it.
func NewBounded(name string, handler http.Handler, log *slog.Logger) *Bounded {
	b := &Bounded{name: name, log: log, most: connectionsFor(descriptors()), held: map[string]int{}}
	b.http = http.Server{
		Handler: b.answer(handler), ConnContext: b.arrive, ConnState: b.state,
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.With("event", "http", "server", name).Handler(), slog.LevelError),
	}
	return b
}

// descriptors returns how many this process may have.
func descriptors() uint64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024 // the kernel's own default
	}
	return limit.Cur
}

// connectionsFor returns how many connections may take of a number of descriptors.
func connectionsFor(descriptors uint64) int {
	return int(max(maxRefused, min(maxConnections, descriptors/4)))
}

// Serve serves a listener until it or the server is closed; then the error wraps
// net.ErrClosed or is http.ErrServerClosed.
func (b *Bounded) Serve(l net.Listener) error {
	return b.http.Serve(&patient{Listener: l, name: b.name, log: b.log})
}

// Close closes all listeners and connections.
func (b *Bounded) Close() { b.http.Close() }

type visitorKey struct{}

// visitorOf returns who asks; nil where no Bounded serves, as in tests of handlers.
func visitorOf(r *http.Request) *visitor {
	v, _ := r.Context().Value(visitorKey{}).(*visitor)
	return v
}

// arrive is called for each new connection before anything is read from it.
func (b *Bounded) arrive(ctx context.Context, conn net.Conn) context.Context {
	v := b.visitor(conn)
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.room(v) {
		b.tell(v.owner())
		v.refused, v.scopes = true, []scope{{"refused", maxRefused}}
		if !b.room(v) {
			conn.Close() // net/http finds that out by itself
			return context.WithValue(ctx, visitorKey{}, v)
		}
	}
	b.visitors = append(b.visitors, v)
	for _, s := range v.scopes {
		b.held[s.name]++
	}
	return context.WithValue(ctx, visitorKey{}, v)
}

// visitor finds out who is at the other end.
func (b *Bounded) visitor(conn net.Conn) *visitor {
	v := &visitor{conn: conn, credentials: credentialsOf(conn)}
	if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		address := tcp.AddrPort().Addr().Unmap().WithZone("")
		one, many := 64, 48
		if address.Is4() {
			one, many = 32, 24
		}
		v.scopes = []scope{
			{within(address, one), min(maxOfAddress, b.most/4)},
			{within(address, many), min(maxOfNetwork, b.most/2)},
		}
	} else {
		name := "unknown user"
		if c := v.credentials; c != nil {
			name = fmt.Sprint("uid ", c.Uid)
			v.protected = c.Uid == 0 || int(c.Uid) == os.Geteuid()
		}
		v.scopes = []scope{{name, min(maxOfUser, b.most/4)}}
	}
	v.scopes = append(v.scopes, scope{"all", b.most})
	return v
}

func within(address netip.Addr, bits int) string {
	return netip.PrefixFrom(address, bits).Masked().String()
}

// room tells whether there is room for a newcomer in each of its scopes, and makes it
// where it may: of the owner that holds most in a full scope the oldest connection is
// closed that waits, or, if the newcomer's owner holds less than that one or is
// protected, the oldest at all. So whoever holds most pays, and those who hold little
// always get in. The caller holds mu.
func (b *Bounded) room(v *visitor) bool {
	for _, s := range v.scopes {
		if b.held[s.name] < s.most {
			continue
		}
		var out *visitor
		for _, other := range b.visitors {
			if !other.in(s.name) || other.protected && s.name != other.owner() {
				continue
			}
			if out == nil || b.held[other.owner()] > b.held[out.owner()] ||
				b.held[other.owner()] == b.held[out.owner()] && out.busy && !other.busy {
				out = other
			}
		}
		may := out != nil && (!out.busy || b.held[out.owner()] > b.held[v.owner()] || v.protected && !out.protected)
		if !may {
			return false
		}
		b.tell(out.owner())
		b.forget(out.conn)
		out.conn.Close()
	}
	return true
}

// state is called by net/http when a connection becomes another.
func (b *Bounded) state(conn net.Conn, state http.ConnState) {
	if state == http.StateClosed || state == http.StateHijacked {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.forget(conn)
	}
}

// forget gives up the place of a connection, if it has one. The caller holds mu.
func (b *Bounded) forget(conn net.Conn) {
	i := slices.IndexFunc(b.visitors, func(v *visitor) bool { return v.conn == conn })
	if i < 0 {
		return
	}
	for _, s := range b.visitors[i].scopes {
		if b.held[s.name]--; b.held[s.name] == 0 {
			delete(b.held, s.name)
		}
	}
	b.visitors = slices.Delete(b.visitors, i, i+1)
}

// tell says whose connections are closed. The caller holds mu.
func (b *Bounded) tell(owner string) {
	if b.told.due() {
		b.log.Warn("too many connections: some are closed", "event", "too_many_connections", "server", b.name,
			"from", owner, "open", len(b.visitors))
	}
}

// handlerPatience bounds an answer from the question on, as far as its handler sets
// no other deadline.
const handlerPatience = time.Minute

// answer calls the handler for those who are not refused.
func (b *Bounded) answer(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Deadlines are those of the connection, and an earlier answer set some.
		deadlines := http.NewResponseController(w)
		_ = deadlines.SetWriteDeadline(time.Now().Add(handlerPatience))
		if r.ContentLength != 0 { // which a handler may have no use for
			_ = deadlines.SetReadDeadline(time.Now().Add(readerPatience))
		}
		v := visitorOf(r)
		if v.refused {
			w.Header().Set("Connection", "close")
			fail(w, http.StatusServiceUnavailable, "too_many_connections",
				"too many connections are open: close some, or try again later")
			return
		}
		b.work(v, true)
		defer b.work(v, false)
		handler.ServeHTTP(w, r)
	})
}

// work notes whether a question is being answered.
func (b *Bounded) work(v *visitor, busy bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v.busy = busy
}

// A patient listener gets over errors of accept, such as too few descriptors, by
// waiting, and says so once a minute.
type patient struct {
	net.Listener
	name string
	log  *slog.Logger
	told seldom
}

// Pauses after an error of accept.
const (
	acceptFirst = 5 * time.Millisecond
	acceptLast  = time.Second
)

// Accept implements net.Listener: the only error is that the listener was closed.
func (p *patient) Accept() (net.Conn, error) {
	for pause := acceptFirst; ; pause = min(2*pause, acceptLast) {
		conn, err := p.Listener.Accept()
		if err == nil || errors.Is(err, net.ErrClosed) {
			return conn, err
		}
		if p.told.due() {
			p.log.Warn("connections cannot be accepted now: trying again", "event", "accept_failed",
				"server", p.name, "error", err)
		}
		time.Sleep(pause)
	}
}

// seldom is for what is said once a minute at most. It is for one goroutine at a time.
type seldom struct{ next time.Time }

func (s *seldom) due() bool {
	now := time.Now()
	if now.Before(s.next) {
		return false
	}
	s.next = now.Add(time.Minute)
	return true
}
