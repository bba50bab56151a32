package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/control"
)

// metricsTask serves /metrics over TCP where the file asks for it.
type metricsTask struct {
	log     *slog.Logger
	handler http.Handler

	mu       sync.Mutex
	address  string // as in the file in force
	listener net.Listener
	failure  string // why there is none; empty if there is, or is to be none
	changed  chan struct{}
}

func newMetricsTask(status func() control.Status, log *slog.Logger) *metricsTask {
	return &metricsTask{log: log, handler: control.Metrics(status), changed: make(chan struct{}, 1)}
}

func (m *metricsTask) String() string { return "metrics" }

// listen opens an address that is not open yet; the listener is nil where nothing is
// to be done.
func (m *metricsTask) listen(address string) (net.Listener, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if address == "" || address == m.address && m.listener != nil {
		m.failure = ""
		return nil, nil
	}
	l, err := net.Listen("tcp", address)
	if errors.Is(err, unix.EADDRINUSE) && m.listener != nil {
		// It may be our own: "127.0.0.1:9285" is in the way of ":9285".
		l, err = m.inPlace(address)
	}
	if err != nil && m.listener == nil {
		m.failure = "metrics.listen: metrics are not served: " + err.Error()
	}
	if err != nil {
		return nil, err
	}
	m.failure = ""
	return l, nil
}

// inPlace shares the port of the old listener with a new one. The caller holds mu.
func (m *metricsTask) inPlace(address string) (net.Listener, error) {
	old, ok := m.listener.(*net.TCPListener)
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

func sharePort(fd uintptr) error {
	return unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
}

// use serves on what listen has returned for an address, in the place of what was
// served on before.
func (m *metricsTask) use(l net.Listener, address string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l == nil && address == m.address {
		return
	}
	if m.listener != nil {
		m.listener.Close()
	}
	m.listener, m.address = l, address
	wake(m.changed)
}

// warnings tells why nothing is served.
func (m *metricsTask) warnings() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failure == "" {
		return nil
	}
	return []string{m.failure}
}

// Run implements task.
func (m *metricsTask) Run(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.handler)
	server := control.NewBounded("metrics", mux, m.log)
	var serving sync.WaitGroup
	defer serving.Wait()
	defer server.Close()
	for {
		m.mu.Lock()
		l := m.listener
		m.mu.Unlock()
		if l != nil {
			serving.Go(func() {
				if err := server.Serve(l); !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
					m.log.Error("metrics are not served any more", "event", "metrics_failed", "error", err)
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
