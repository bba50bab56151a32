package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"
)

// A Source is the daemon as the server sees it. Its functions may be called from many goroutines
// at once, and may block: the server holds no lock then, and lets an asker go that hangs up.
type Source struct {
	// Status returns the state of this moment. The server does not change it.
	Status func() Status
	// Route tells how a packet to an address would go.
	Route func(to netip.Addr) Route
	// Reload reads and applies the file and returns the outcome. It returns an error if it
	// could not even try. cause says who asked, for the log.
	Reload func(ctx context.Context, cause string) (ReloadResult, error)
	// Plan returns what applying a file with the content doc would change; faults are the
	// places in it that err is about. It returns soon after ctx has ended, which lasts as long
	// as the asker stays.
	Plan func(ctx context.Context, path string, doc []byte) (plan Plan, faults []Error, err error)
	// History returns nil, without an error, if there is no such peer.
	History func(peer, span string) (*History, error)
	// Ping asks a peer; ok is false if there is no such peer. It returns soon after ctx.
	Ping func(ctx context.Context, r PingRequest) (p Ping, ok bool, err error)
	// Speed measures a peer, and tells each how it goes; ok is false if there is no such peer. An error that is
	// no *Refusal is a fault of the request. It returns soon after ctx.
	Speed func(ctx context.Context, r SpeedRequest, each func(SpeedProgress)) (s Speed, ok bool, err error)
	// Capture writes packets to w as pcapng; ok is false if there is no such peer. An error before the first
	// write that is no *Refusal is a fault of the request. It returns soon after ctx.
	Capture func(ctx context.Context, r CaptureRequest, w io.Writer) (ok bool, err error)
	// Drain puts this node into maintenance, and Undrain ends that; by is who asks. An error says that a
	// restart would undo what is in force.
	Drain   func(r DrainRequest) error
	Undrain func(by string) error
	// Flows returns who uses the bandwidth. CountFlows has that counted for some time from now on; by is who
	// asks. It does not wait.
	Flows      func(q FlowQuery) Flows
	CountFlows func(lease time.Duration, by string)
	// Changer puts other files in force than the one that people edit.
	Changer Changer
	// Healthy returns why the daemon should be restarted, nil if it should not.
	Healthy func(ctx context.Context) error
	// Ready returns why packets are not forwarded as the file says at this moment, nil if they
	// are.
	Ready func(ctx context.Context) error
	// Events are those of the daemon's run.
	Events *Events
}

// A Server serves the API on a unix socket.
type Server struct {
	path string
	http *Bounded
	log  *slog.Logger

	mu       sync.Mutex
	listener net.Listener
	own      fs.FileInfo // of the socket
	closed   bool
}

// Listen makes the socket at path with mode 0660 and, if the system has it, group "mesh", before
// any client can connect. It replaces a socket that a dead daemon left; a socket that answers is
// an error, and so is anything else of that name. The caller runs the server or closes it.
func Listen(path string, source Source, log *slog.Logger) (*Server, error) {
	listener, own, err := makeSocket(path, log)
	if err != nil {
		return nil, err
	}
	server := NewBounded("control socket", routes(source), log)
	return &Server{path: path, listener: listener, own: own, http: server, log: log}, nil
}

// String returns the server's name as a task of the daemon.
func (s *Server) String() string { return "control socket" }

// glance is how often the server looks whether its socket is still there: nobody could ask a daemon whose
// socket was removed, or tell it from one that is dead.
const glance = 2 * time.Second

// Run serves until ctx ends, then removes the socket and returns nil. It makes a socket that another program
// has removed anew.
func (s *Server) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, s.Close)()
	ended := make(chan error, 1)
	serve := func() { ended <- s.http.Serve(s.listener) }
	go serve()
	tick := time.NewTicker(glance)
	defer tick.Stop()
	failure := ""
	for {
		select {
		case err := <-ended:
			if !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve control socket: %w", err)
			}
			return nil
		case <-tick.C:
		}
		switch restored, err := s.restore(); {
		case restored: // the one before has ended with an error that tells nothing
			if err := <-ended; errors.Is(err, http.ErrServerClosed) {
				return nil
			}
			go serve()
			failure = ""
			s.log.Warn("another program removed the control socket: made anew", "path", s.path,
				"event", "socket_restored")
		case err != nil && err.Error() != failure:
			failure = err.Error()
			s.log.Error("another program removed the control socket: nobody can ask this meshd", "path", s.path,
				"error", err, "event", "socket_lost")
		}
	}
}

// restore makes the socket anew if its name is gone. What another program has put there stays.
func (s *Server) restore() (restored bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := os.Lstat(s.path); s.closed || !errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	next, own, err := makeSocket(s.path, s.log)
	if err != nil {
		return false, err
	}
	_ = s.listener.Close() // nobody can connect to it
	s.listener, s.own = next, own
	return true, nil
}

// Close ends Run, or gives up a server that was never run. It removes the name first: while the
// socket still answers, no other meshd takes the name. What another program has put there stays.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	is, err := os.Lstat(s.path)
	if err == nil && os.SameFile(is, s.own) {
		err = os.Remove(s.path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("cannot remove the control socket", "error", err)
	}
	s.http.Close()
	s.listener.Close()
}
