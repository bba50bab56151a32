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

// How many connections a Bounded server holds. A newcomer never waits in a queue that strangers
// could fill: where a bound is reached, an old connection is closed for a new one (see room).
//
//	visitor   a connection, and who is at its other end
//	scope     a number of connections that are bounded together: those of one owner,
//	          of a network around it, or all
//	owner     the narrowest scope: a user on the unix socket, an address over TCP
//	idle      no request of the connection is being answered; a client that is slow to send
//	          its request is idle, too
const (
	maxConnections = 256
	maxOfUser      = 64
	maxOfNetwork   = 64 // an IPv4 /24, an IPv6 /48
	maxOfAddress   = 16 // an IPv4 address; an IPv6 /64, since one host may use all of it
	maxRefused     = 16 // refused connections that get an answer; others are closed without one
)

// A scope is a name that connections share and how many may do so.
type scope struct {
	name string
	most int
}

// A visitor is a connection that is held.
type visitor struct {
	conn        net.Conn
	credentials *unix.Ucred // of the process at the other end of a unix socket; nil over TCP
	scopes      []scope     // the narrowest first: the owner
	protected   bool        // root and the daemon's own user: others cannot push it out
	refused     bool        // its only answer is that there are too many connections
	busy        bool        // a request is being answered; guarded by Bounded.mu
}

// owner names the narrowest scope: who pays if it holds most.
func (v *visitor) owner() string { return v.scopes[0].name }

// in tells whether the visitor counts in a scope.
func (v *visitor) in(name string) bool {
	return slices.ContainsFunc(v.scopes, func(s scope) bool { return s.name == name })
}

// A Bounded is an HTTP server that strangers cannot exhaust: the number of connections, the time
// for a request and the size of its head are bounded, so that descriptors and memory are left for
// the daemon. It logs what goes wrong, at most once a minute, so that strangers cannot fill the
// log either. Its methods may be called from several goroutines at once.
type Bounded struct {
	name string
	http http.Server
	log  *slog.Logger
	most int // connections in all

	mu       sync.Mutex     // never held while a connection is closed or the log is written
	visitors []*visitor     // in order of arrival
	held     map[string]int // number of visitors by name of a scope
	told     seldom         // of too many connections
}

// NewBounded returns a server for Serve. name is the server's name in the log.
func NewBounded(name string, handler http.Handler, log *slog.Logger) *Bounded {
	b := &Bounded{name: name, log: log, most: connectionsFor(descriptors()), held: map[string]int{}}
	b.http = http.Server{
		Handler: b.answer(handler), ConnContext: b.arrive, ConnState: b.state,
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: idlePatience, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.With("event", "http", "server", name).Handler(), slog.LevelError),
	}
	return b
}

// descriptors returns how many file descriptors this process may have.
func descriptors() uint64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024 // the kernel's own default
	}
	return limit.Cur
}

// connectionsFor returns how many of a number of descriptors connections may take: a quarter,
// since the TUN, the sockets and netlink need theirs whatever clients do.
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

// visitorKey is the key of a connection's visitor in the contexts of its requests.
type visitorKey struct{}

// visitorOf returns the visitor of a request; nil if no Bounded serves it, as in tests of
// handlers.
func visitorOf(r *http.Request) *visitor {
	v, _ := r.Context().Value(visitorKey{}).(*visitor)
	return v
}

// arrive is called for each new connection before anything is read from it. net/http accepts no
// other connection meanwhile.
func (b *Bounded) arrive(ctx context.Context, conn net.Conn) context.Context {
	v := b.visitor(conn)
	closing, complaint := b.admit(v)
	for _, c := range closing { // net/http finds out by itself, also for conn
		c.Close()
	}
	if complaint.owner != "" {
		b.log.Warn("too many connections: closing some", "event", "too_many_connections", "server", b.name,
			"from", complaint.owner, "open", complaint.open)
	}
	return context.WithValue(ctx, visitorKey{}, v)
}

// A complaint says who holds too many connections, and how many are open in all.
type complaint struct {
	owner string // empty: there is nothing to say
	open  int
}

// admit gives a newcomer its place, or notes that it is refused. The caller closes the
// connections and logs the complaint, since both may block and mu must not be held then.
func (b *Bounded) admit(v *visitor) (closing []net.Conn, said complaint) {
	b.mu.Lock()
	defer b.mu.Unlock()
	out, ok := b.room(v)
	if len(out) > 0 {
		said = b.complain(out[0].owner())
	}
	if !ok {
		if said.owner == "" {
			said = b.complain(v.owner())
		}
		// A refused visitor counts in a scope of its own: the answers that say no must not take places
		// either.
		v.refused, v.scopes = true, []scope{{"refused", maxRefused}}
		var others []*visitor
		others, ok = b.room(v)
		out = append(out, others...)
	}
	for _, o := range out {
		closing = append(closing, o.conn)
	}
	if !ok {
		return append(closing, v.conn), said
	}
	b.visitors = append(b.visitors, v)
	for _, s := range v.scopes {
		b.held[s.name]++
	}
	return closing, said
}

// visitor finds out who is at the other end.
func (b *Bounded) visitor(conn net.Conn) *visitor {
	v := &visitor{conn: conn, credentials: credentialsOf(conn)}
	if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		// An IPv4 client of a dual-stack listener comes as ::ffff:a.b.c.d, and would else share one /64
		// with all others.
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

// within names the network of an address.
func within(address netip.Addr, bits int) string {
	return netip.PrefixFrom(address, bits).Masked().String()
}

// room makes room for a newcomer in each of its scopes, if it may, and returns whose connections
// have to be closed for it. In a full scope that is the oldest idle connection of the owner that
// holds most. If that owner has no idle one, it is the oldest at all, provided that the
// newcomer's owner holds less or is protected. So whoever holds most pays, and those who hold
// little always get in. The caller holds mu.
func (b *Bounded) room(v *visitor) (closing []*visitor, ok bool) {
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
		may := out != nil &&
			(!out.busy || b.held[out.owner()] > b.held[v.owner()] || v.protected && !out.protected)
		if !may {
			return closing, false
		}
		// Its place is free at once, though the connection is closed later: the next newcomer must not
		// push out a second one.
		b.forget(out.conn)
		closing = append(closing, out)
	}
	return closing, true
}

// state is called by net/http when the state of a connection changes.
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
		// Deleted at 0: strangers choose the names, and the map must not grow with each address that ever
		// came.
		if b.held[s.name]--; b.held[s.name] == 0 {
			delete(b.held, s.name)
		}
	}
	b.visitors = slices.Delete(b.visitors, i, i+1)
}

// complain returns what to log about an owner, which is nothing if something was logged lately.
// The caller holds mu.
func (b *Bounded) complain(owner string) complaint {
	if !b.told.due() {
		return complaint{}
	}
	return complaint{owner, len(b.visitors)}
}

// idlePatience is how long a connection may wait for its next request.
const idlePatience = time.Minute

// handlerPatience bounds an answer, from its request on, unless its handler sets another
// deadline.
const handlerPatience = time.Minute

// answer calls the handler for visitors that are not refused.
func (b *Bounded) answer(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A connection keeps its deadlines, and an earlier answer set some.
		deadlines := http.NewResponseController(w)
		_ = deadlines.SetWriteDeadline(time.Now().Add(handlerPatience))
		if r.ContentLength != 0 { // net/http reads a body that the handler does not
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

// work notes whether a request is being answered.
func (b *Bounded) work(v *visitor, busy bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v.busy = busy
}

// A patient listener survives errors of accept, such as too few descriptors: it waits, tries
// again, and logs it at most once a minute. net/http would end the server.
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

// Accept implements net.Listener. Its only error is that the listener was closed.
func (p *patient) Accept() (net.Conn, error) {
	for pause := acceptFirst; ; pause = min(2*pause, acceptLast) {
		conn, err := p.Listener.Accept()
		if err == nil || errors.Is(err, net.ErrClosed) {
			return conn, err
		}
		if p.told.due() {
			p.log.Warn("cannot accept connections: trying again", "event", "accept_failed",
				"server", p.name, "error", err)
		}
		// Without descriptors accept fails at once, and a loop without pause would take a CPU.
		time.Sleep(pause)
	}
}

// seldom limits a message to once a minute. One goroutine at a time may use it.
type seldom struct{ next time.Time }

// due tells whether the message may be logged now, and counts it as logged if so.
func (s *seldom) due() bool {
	now := time.Now()
	if now.Before(s.next) {
		return false
	}
	s.next = now.Add(time.Minute)
	return true
}
