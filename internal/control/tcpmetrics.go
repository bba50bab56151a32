package control

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// TCPMetrics serves /metrics over TCP at metrics.listen, which a reload may change. A reload opens the
// new address with Listen before anything else changes, and puts it in force with Use when all went
// well. Listen and Use belong to one goroutine; Run is a task of the daemon; the other methods may be
// called from any goroutine.
type TCPMetrics struct {
	log     *slog.Logger
	handler http.Handler

	changed chan struct{} // has an element if Run has to look at listener

	mu       sync.Mutex
	address  string // as in the file in force
	listener net.Listener
	failure  error // why nothing is served though something should be; nil otherwise
}

// NewTCPMetrics returns a server without an address.
func NewTCPMetrics(status func() Status, log *slog.Logger) *TCPMetrics {
	return &TCPMetrics{log: log, handler: Metrics(status), changed: make(chan struct{}, 1)}
}

// String implements fmt.Stringer.
func (m *TCPMetrics) String() string { return "metrics" }

// Listen opens an address unless it is served already; then, and for "", it returns nil. The caller
// passes the listener to Use or closes it. An error is a Failure, too, if nothing is served now.
func (m *TCPMetrics) Listen(address string) (net.Listener, error) {
	m.mu.Lock()
	have, served := m.listener, m.address
	m.mu.Unlock()
	if address == "" || address == served && have != nil {
		m.note(nil)
		return nil, nil
	}
	l, err := net.Listen("tcp", address)
	if errors.Is(err, unix.EADDRINUSE) && have != nil {
		// It may be our own: "127.0.0.1:9285" is in the way of ":9285".
		l, err = inPlace(have, address)
	}
	switch {
	case err == nil:
		m.note(nil)
		return l, nil
	case have == nil:
		m.note(err)
	}
	return nil, err
}

// note sets what Failure returns.
func (m *TCPMetrics) note(failure error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failure = failure
}

// inPlace opens an address whose port an open listener of ours occupies. SO_REUSEPORT on both lets the
// old one serve until the new one does (socket(7)).
func inPlace(have net.Listener, address string) (net.Listener, error) {
	old, ok := have.(*net.TCPListener)
	if !ok {
		return nil, unix.EADDRINUSE
	}
	raw, err := old.SyscallConn()
	if err != nil {
		return nil, err
	}
	if err := raw.Control(func(fd uintptr) { err = sharePort(fd) }); err != nil {
		return nil, err
	}
	beside := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		if controlErr := raw.Control(func(fd uintptr) { err = sharePort(fd) }); controlErr != nil {
			return controlErr
		}
		return err
	}}
	return beside.Listen(context.Background(), "tcp", address)
}

// sharePort lets another socket bind the port.
func sharePort(fd uintptr) error {
	return unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
}

// Use serves what Listen has returned for an address instead of the listener before, which it closes.
func (m *TCPMetrics) Use(l net.Listener, address string) {
	m.mu.Lock()
	old := m.listener
	if l == nil && address == m.address {
		m.mu.Unlock()
		return
	}
	m.listener, m.address = l, address
	m.mu.Unlock()
	if old != nil {
		old.Close()
	}
	select {
	case m.changed <- struct{}{}:
	default: // Run has not looked since the last change, and will see this one, too
	}
}

// Failure returns why nothing is served although the file has an address; nil otherwise.
func (m *TCPMetrics) Failure() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failure
}

// Run serves until ctx ends, and then closes all connections.
func (m *TCPMetrics) Run(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.handler)
	server := NewBounded("metrics", mux, m.log)
	var serving sync.WaitGroup
	defer serving.Wait()
	defer server.Close()
	for {
		m.mu.Lock()
		l := m.listener
		m.mu.Unlock()
		if l != nil {
			serving.Go(func() {
				// Use closes a listener that it replaces.
				err := server.Serve(l)
				if !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
					m.log.Error("cannot serve metrics any longer", "event", "metrics_failed", "error", err)
				}
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-m.changed:
		}
	}
}
