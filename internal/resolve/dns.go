package resolve

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// This file asks. Go's own resolver reads /etc/hosts, /etc/resolv.conf and the answers; it keeps the time to
// live to itself, so its connections are watched.

// Why a name has no address. They are the whole error, so that one cause has one text: the library's own
// texts name ports that change with each question.
var (
	ErrNotFound = errors.New("DNS knows no address of it")
	ErrTimeout  = errors.New("no DNS server answers")
	ErrServer   = errors.New("the DNS server cannot answer (SERVFAIL, or a broken answer)")
	ErrNoServer = errors.New("the DNS server cannot be reached")
	ErrUnusable = errors.New("DNS answers with addresses that cannot be this node's")
)

// A Dialer opens a connection to a DNS server, as net.Dialer.DialContext does. Of "udp" it returns a
// *net.UDPConn.
type Dialer func(ctx context.Context, network, address string) (net.Conn, error)

// Bounds of one question.
const (
	patience = 5 * time.Second
	// serverPatience leaves time for a second server, and for a second attempt: Go waits 5 s for the first.
	serverPatience = 2 * time.Second
	// mostAnswers bounds how many addresses of one family are looked at.
	mostAnswers = 1024
)

// ask looks up the addresses of one family of a name: "ip4" or "ip6". The time to live is the lowest of the
// answers, and 0 if none came by DNS. The error is one of those above.
func (d Dialer) ask(ctx context.Context, network, name string) ([]netip.Addr, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	w := &watch{dial: d}
	resolver := net.Resolver{PreferGo: true, Dial: w.connect}
	if slices.Contains([]byte(name), '.') {
		name += "." // it is complete: a search domain could lead it to anyone
	}
	found, err := resolver.LookupNetIP(ctx, network, name)
	if err != nil {
		return nil, 0, w.causeOf(err)
	}
	var all []netip.Addr
	for _, ip := range found[:min(len(found), mostAnswers)] {
		all = append(all, ip.Unmap().WithZone(""))
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all), w.lowest(), nil
}

// causeOf returns the error of this room for one of the library's.
func (w *watch) causeOf(err error) error {
	dns, ok := errors.AsType[*net.DNSError](err)
	switch {
	case ok && dns.IsNotFound:
		return ErrNotFound
	case ok && dns.IsTimeout, errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return ErrTimeout
	case w.isUnreached():
		return ErrNoServer
	}
	return ErrServer
}

// A watch reads the times to live in what the servers answer to one question.
type watch struct {
	dial Dialer

	mu        sync.Mutex
	ttl       time.Duration
	any       bool // an answer said so
	unreached bool // the last thing that happened: a server cannot be reached
}

// connect opens a watched connection.
func (w *watch) connect(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := w.dial(ctx, network, address)
	if w.failed(err); err != nil {
		return nil, err
	}
	if u, ok := c.(*net.UDPConn); ok { // the library takes what is a PacketConn for datagrams
		return datagrams{u, w}, nil
	}
	return &stream{Conn: c, watch: w}, nil
}

// heard notes a message.
func (w *watch) heard(message []byte) {
	ttl, ok := lowestTTL(message)
	if !ok {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.any || ttl < w.ttl {
		w.ttl, w.any = ttl, true
	}
}

// failed notes the outcome of a system call. The library keeps its text alone.
func (w *watch) failed(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unreached = false
	for _, no := range []error{syscall.ECONNREFUSED, syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.EPERM} {
		w.unreached = w.unreached || errors.Is(err, no)
	}
}

func (w *watch) isUnreached() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.unreached
}

// lowest returns the lowest time to live of all messages; 0 without any.
func (w *watch) lowest() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ttl
}

// soon returns the earlier one of a deadline and that of one server.
func soon(t time.Time) time.Time {
	if most := time.Now().Add(serverPatience); t.IsZero() || t.After(most) {
		return most
	}
	return t
}

// datagrams is a watched connection each of whose reads is a message.
type datagrams struct {
	*net.UDPConn
	watch *watch
}

// Read implements net.Conn.
func (d datagrams) Read(b []byte) (int, error) {
	n, err := d.UDPConn.Read(b)
	d.watch.failed(err)
	d.watch.heard(b[:max(n, 0)])
	return n, err
}

// SetDeadline implements net.Conn.
func (d datagrams) SetDeadline(t time.Time) error { return d.UDPConn.SetDeadline(soon(t)) }

// stream is a watched connection in which each message has its length before it (RFC 1035, section 4.2.2).
type stream struct {
	net.Conn
	watch  *watch
	parted []byte // what has come of a message that has not ended; 64 KiB and 2 bytes at most
}

// Read implements net.Conn.
func (s *stream) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	s.watch.failed(err)
	s.parted = append(s.parted, b[:max(n, 0)]...)
	for len(s.parted) >= 2 {
		size := 2 + int(binary.BigEndian.Uint16(s.parted))
		if len(s.parted) < size {
			break
		}
		s.watch.heard(s.parted[2:size])
		s.parted = s.parted[size:]
	}
	return n, err
}

// SetDeadline implements net.Conn.
func (s *stream) SetDeadline(t time.Time) error { return s.Conn.SetDeadline(soon(t)) }

// lowestTTL returns the lowest time to live of a message's answers; ok is false if it has none, or is
// broken. Aliases count: the address behind one may change with it.
func lowestTTL(message []byte) (lowest time.Duration, ok bool) {
	var p dnsmessage.Parser
	header, err := p.Start(message)
	if err != nil || !header.Response || header.RCode != dnsmessage.RCodeSuccess || p.SkipAllQuestions() != nil {
		return 0, false
	}
	for {
		h, err := p.AnswerHeader()
		if err != nil { // the end, or broken: what stands before it counts
			return lowest, ok
		}
		ttl := time.Duration(h.TTL) * time.Second
		if h.TTL > math.MaxInt32 { // RFC 2181, section 8
			ttl = 0
		}
		if !ok || ttl < lowest {
			lowest, ok = ttl, true
		}
		if p.SkipAnswer() != nil {
			return lowest, ok
		}
	}
}
