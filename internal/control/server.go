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
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
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

// group owns the socket, so that its members can read the daemon's state.
const group = "mesh"

// A Server serves the API on a unix socket.
type Server struct {
	path     string
	listener net.Listener
	http     *Bounded
	log      *slog.Logger
}

// Listen makes the socket at path with mode 0660 and, if the system has it, group "mesh", before
// any client can connect. It replaces a socket that a dead daemon left; a socket that answers is
// an error, and so is anything else of that name. The caller runs the server or closes it.
func Listen(path string, source Source, log *slog.Logger) (*Server, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make control socket: %w", err)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("make control socket: %s exists and is not a socket: not replacing it", path)
	}
	// The kernel answers for a process that lives, even if it hangs; a socket without one refuses
	// (ECONNREFUSED).
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf(
			"make control socket %s: another meshd is running there; `meshd status` shows it", path)
	}
	// Made under another name and renamed, so that it appears complete or not at all. The name
	// is short, since a socket's path has at most 107 bytes (sockaddr_un, unix(7)).
	temporary := filepath.Join(filepath.Dir(path), fmt.Sprintf(".%d", os.Getpid()))
	listener, err := net.Listen("unix", temporary)
	if err != nil {
		return nil, fmt.Errorf("make control socket: %w", err)
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false) // it would unlink the temporary name
	if err := errors.Join(share(temporary, log), os.Rename(temporary, path)); err != nil {
		listener.Close()
		os.Remove(temporary)
		return nil, fmt.Errorf("make control socket: %w", err)
	}
	server := NewBounded("control socket", routes(source), log)
	return &Server{path: path, listener: listener, http: server, log: log}, nil
}

// errExchanged tells that the socket is not what was made.
var errExchanged = errors.New("another program has replaced the socket")

// share gives the socket to the group. The folder may belong to the service's user while root's
// meshd listens in it, so whatever stands there may be a link to any file. Therefore the socket is
// opened without following links, and only what was opened is changed.
func share(path string, log *slog.Logger) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	path = fmt.Sprintf("/proc/self/fd/%d", fd)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Type() != fs.ModeSocket {
		return errors.Join(errExchanged, err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return err
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		log.Warn("group not found: only root can use the control socket; "+
			"run `groupadd --system mesh` and restart meshd", "group", group, "event", "no_group")
		return nil
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return fmt.Errorf("read number of group %q: %w", group, err)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Gid) == gid {
		return nil // the daemon's own group: it needs no capability for that
	}
	if err := os.Chown(path, -1, gid); err != nil { // status still works, for fewer users
		log.Warn("cannot give the control socket to the group: its members cannot use it",
			"group", group, "error", err)
	}
	return nil
}

// String returns the server's name as a task of the daemon.
func (s *Server) String() string { return "control socket" }

// Run serves until ctx ends, then removes the socket and returns nil.
func (s *Server) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve control socket: %w", err)
	}
	return nil
}

// Close ends Run, or gives up a server that was never run. It removes the name first: while the
// socket still answers, no other meshd takes the name.
func (s *Server) Close() {
	if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("cannot remove the control socket", "error", err)
	}
	s.http.Close()
	s.listener.Close()
}
