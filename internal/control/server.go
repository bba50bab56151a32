package control

import (
	"context"
	"encoding/json"
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

	"example.org/meshd/internal/text"
)

// A Source answers the questions that the server passes on. Its functions may
// be called from many goroutines at once.
type Source struct {
	Status func() Status
	Route  func(to netip.Addr) Route
	// Reload has the file read again and tells the outcome; an error if it
	// could not even be tried. cause says who asked, for the log.
	Reload func(ctx context.Context, cause string) (ReloadResult, error)
	// Plan tells what applying a file with the content doc would change; faults
	// are the places in it that err is about. It returns soon after ctx, which
	// lasts as long as the asker stays, has ended.
	Plan func(ctx context.Context, path string, doc []byte) (plan Plan, faults []Error, err error)
	// History is nil, without an error, if there is no such peer.
	History func(peer, span string) (*History, error)
	// Ping asks a peer; ok is false if there is no such peer.
	Ping func(ctx context.Context, r PingRequest) (p Ping, ok bool, err error)
	// Healthy tells why the daemon should be started again; Ready why it does not
	// forward packets as its file says, at this moment.
	Healthy, Ready func(ctx context.Context) error

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

// Listen makes the socket at path, with mode 0660 and group "mesh" if the
// system has it, before anybody can connect. A socket that a dead daemon left
// is replaced; one that answers is an error.
func Listen(path string, source Source, log *slog.Logger) (*Server, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make control socket: %w", err)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("make control socket %s: there is something else of that name, and it stays", path)
	}
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("make control socket %s: another meshd is running there; `meshd status` shows it", path)
	}
	// Made under another name and renamed: it appears complete or not at all.
	// The name is short, since a path of 107 bytes is the longest there is.
	temporary := filepath.Join(filepath.Dir(path), fmt.Sprintf(".%d", os.Getpid()))
	listener, err := net.Listen("unix", temporary)
	if err != nil {
		return nil, fmt.Errorf("make control socket: %w", err)
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := errors.Join(share(temporary, log), os.Rename(temporary, path)); err != nil {
		listener.Close()
		os.Remove(temporary)
		return nil, fmt.Errorf("make control socket: %w", err)
	}
	return &Server{path: path, listener: listener, http: NewBounded("control socket", routes(source), log), log: log}, nil
}

// share gives the socket to the group. Root's meshd may listen in a folder of the service's,
// which could put a link to any file in the place of the socket: it is opened, and not followed.
func share(path string, log *slog.Logger) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	path = fmt.Sprintf("/proc/self/fd/%d", fd)
	if info, err := os.Stat(path); err != nil || info.Mode().Type() != fs.ModeSocket {
		return errors.Join(errors.New("another program has replaced the socket"), err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return err
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		log.Warn("control socket is for root only: there is no such group; `groupadd --system mesh` makes it, then restart meshd", "group", group, "event", "no_group")
		return nil
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return fmt.Errorf("group %q has no number: %w", group, err)
	}
	if info, err := os.Stat(path); err == nil {
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Gid) == gid { // the daemon's own group
			return nil
		}
	}
	if err := os.Chown(path, -1, gid); err != nil {
		log.Warn("control socket stays with its maker's group", "error", err)
	}
	return nil
}

// String names the server as a task.
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

// Close ends Run, or gives up a server that was never run. The name goes first:
// as long as we answer there, nobody else takes it.
func (s *Server) Close() {
	if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("control socket is left behind", "error", err)
	}
	s.http.Close()
	s.listener.Close()
}

func routes(source Source) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, source.Status())
	})
	mux.HandleFunc("GET /v1/peers", func(w http.ResponseWriter, _ *http.Request) {
		s := source.Status()
		reply(w, http.StatusOK, Peers{Schema: Schema, Node: s.Node, Peers: s.Peers})
	})
	mux.HandleFunc("GET /v1/peers/{name}", peerHandler(source))
	followers := make(streams, maxReaders)
	mux.HandleFunc("GET /v1/events", eventsHandler(source, followers))
	mux.HandleFunc("GET /v1/watch", watchHandler(source, followers))
	mux.HandleFunc("GET /v1/history", historyHandler(source))
	mux.HandleFunc("POST /v1/ping", pingHandler(source))
	mux.HandleFunc("GET /healthz", truthHandler("unhealthy", source.Healthy))
	mux.HandleFunc("GET /readyz", truthHandler("not_ready", source.Ready))
	mux.HandleFunc("GET /v1/route", func(w http.ResponseWriter, r *http.Request) {
		to, err := netip.ParseAddr(r.URL.Query().Get("to"))
		if err != nil {
			fail(w, http.StatusBadRequest, "bad_address", "to must be an IP address: "+err.Error())
			return
		}
		reply(w, http.StatusOK, source.Route(to.Unmap().WithZone("")))
	})
	mux.HandleFunc("POST /v1/reload", reloadHandler(source))
	mux.HandleFunc("POST /v1/plan", planHandler(source))
	mux.Handle("GET /metrics", Metrics(source.Status))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, "not_found", fmt.Sprintf("%s %s is not part of the API", r.Method, r.URL.Path))
	})
	return mux
}

// body reads that of a request, of max bytes at most, from a client that does not
// keep us waiting.
func body(w http.ResponseWriter, r *http.Request, most int64) ([]byte, error) {
	deadline := http.NewResponseController(w)
	_ = deadline.SetReadDeadline(time.Now().Add(readerPatience))
	doc, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if err == nil { // else the server would wait for the rest
		_ = deadline.SetReadDeadline(time.Time{}) // which would end the handler's context
	}
	return doc, err
}

func peerHandler(source Source) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for _, p := range source.Status().Peers {
			if p.Name == r.PathValue("name") {
				reply(w, http.StatusOK, OnePeer{Schema: Schema, Peer: p})
				return
			}
		}
		noSuchPeer(w, source, r.PathValue("name"))
	}
}

func noSuchPeer(w http.ResponseWriter, source Source, name string) {
	why := fmt.Sprintf("no peer is named %q", name)
	if name != "" && source.Status().Node == name {
		why = fmt.Sprintf("%q is this node itself", name)
	}
	fail(w, http.StatusNotFound, "no_such_peer", why)
}

func historyHandler(source Source) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		switch h, err := source.History(query.Get("peer"), query.Get("span")); {
		case err != nil:
			fail(w, http.StatusBadRequest, "bad_request", err.Error())
		case h == nil:
			noSuchPeer(w, source, query.Get("peer"))
		default:
			reply(w, http.StatusOK, h)
		}
	}
}

// pingHandler is for all who may read: a ping changes nothing, and is small.
func pingHandler(source Source) http.HandlerFunc {
	running := make(chan struct{}, maxReaders)
	return func(w http.ResponseWriter, r *http.Request) {
		var request PingRequest
		doc, err := body(w, r, 4096)
		if err == nil {
			err = json.Unmarshal(doc, &request)
		}
		if err != nil {
			fail(w, http.StatusBadRequest, "bad_request", "the body must be {\"peer\":NAME}: "+err.Error())
			return
		}
		select {
		case running <- struct{}{}:
			defer func() { <-running }()
		default:
			fail(w, http.StatusServiceUnavailable, "too_many_readers", fmt.Sprintf("%d pings wait already: end one of them", maxReaders))
			return
		}
		switch p, ok, err := source.Ping(r.Context(), request); {
		case err != nil:
			fail(w, http.StatusBadRequest, "bad_request", err.Error())
		case !ok:
			noSuchPeer(w, source, request.Peer)
		default:
			reply(w, http.StatusOK, p)
		}
	}
}

// truthTimeout bounds the time in which the packet loops must give a sign of life.
const truthTimeout = 2 * time.Second

// truthHandler answers what is true at this moment.
func truthHandler(code string, well func(context.Context) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), truthTimeout)
		defer cancel()
		if err := well(ctx); err != nil {
			fail(w, http.StatusServiceUnavailable, code, err.Error())
			return
		}
		reply(w, http.StatusOK, Ready{OK: true})
	}
}

func reloadHandler(source Source) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !mayWrite(r) {
			fail(w, http.StatusForbidden, "not_permitted", "only root and members of the group "+writers+" may change the mesh")
			return
		}
		result, err := source.Reload(r.Context(), "the control socket")
		switch {
		case err != nil:
			fail(w, http.StatusServiceUnavailable, "not_ready", err.Error())
		case result.Reload.OK:
			reply(w, http.StatusOK, result)
		default:
			failure := Error{Code: "rejected", Message: result.Reload.Error}
			if len(result.Faults) > 0 {
				failure.File, failure.Line = result.Faults[0].File, result.Faults[0].Line
			}
			reply(w, http.StatusUnprocessableEntity, struct {
				Error Error `json:"error"`
				ReloadResult
			}{failure, result})
		}
	}
}

// maxFile bounds a file that is sent, in bytes, as config bounds one it reads.
const maxFile = 8 << 20

// planHandler is for all who may read, and so one file at a time: a large one costs
// a second and 250 MB. A plan ends when its asker hangs up.
func planHandler(source Source) http.HandlerFunc {
	one := make(chan struct{}, 1)
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case one <- struct{}{}:
			defer func() { <-one }()
		case <-r.Context().Done():
			return
		case <-time.After(readerPatience):
			fail(w, http.StatusServiceUnavailable, "busy", "other plans are being made: ask again")
			return
		}
		doc, err := body(w, r, maxFile)
		if err != nil {
			fail(w, http.StatusBadRequest, "bad_request", "the file cannot be read: "+err.Error())
			return
		}
		plan, faults, err := source.Plan(r.Context(), r.URL.Query().Get("path"), doc)
		if err == nil {
			reply(w, http.StatusOK, plan)
			return
		}
		failure := Error{Code: "rejected", Message: err.Error()}
		if len(faults) > 0 {
			failure.File, failure.Line = faults[0].File, faults[0].Line
		}
		reply(w, http.StatusUnprocessableEntity, map[string]any{"error": failure, "faults": faults})
	}
}

// marshal returns a line of JSON that a terminal may see: text of others in it is
// escaped.
func marshal(v any) ([]byte, error) {
	doc, err := json.Marshal(v)
	return append(text.Bytes(doc), '\n'), err
}

// reply writes an answer; a client that does not read it is cut off.
func reply(w http.ResponseWriter, code int, answer any) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(readerPatience)) // recorders of tests have none
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	doc, _ := marshal(answer) // strings and numbers
	_, _ = w.Write(doc)       // a failure means that the client is gone
}

func fail(w http.ResponseWriter, status int, code, message string) {
	reply(w, status, map[string]Error{"error": {Code: code, Message: message}})
}
