package control

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"example.org/meshd/internal/text"
)

// An api answers the requests of all clients of one Source.
type api struct {
	source    Source
	snapshots *shared[snapshot] // for status, peers and watchers
	followers streams           // of events and of watch, together
	pings     slots
}

// A snapshot is a status as a line of JSON, too. All who ask share it, so it must not be changed.
type snapshot struct {
	Status
	line func() []byte // made when the first one needs it, and once
}

// routes returns the handler of the whole API.
func routes(source Source) http.Handler {
	a := &api{source: source, followers: make(streams, maxReaders), pings: make(slots, maxReaders)}
	a.snapshots = &shared[snapshot]{call: func() snapshot {
		status := source.Status()
		return snapshot{status, sync.OnceValue(func() []byte {
			line, _ := marshal(status) // strings and numbers
			return line
		})}
	}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", a.status)
	mux.HandleFunc("GET /v1/peers", a.peers)
	mux.HandleFunc("GET /v1/peers/{name}", a.peer)
	mux.HandleFunc("GET /v1/events", a.events)
	mux.HandleFunc("GET /v1/watch", a.watch)
	mux.HandleFunc("GET /v1/history", a.history(make(slots, maxCalls)))
	mux.HandleFunc("GET /v1/route", a.route(make(slots, maxCalls)))
	flows := a.flows(make(slots, maxCalls))
	mux.HandleFunc("GET /v1/flows", flows)
	mux.HandleFunc("POST /v1/flows", a.countFlows(flows))
	mux.HandleFunc("POST /v1/ping", a.ping)
	mux.HandleFunc("POST /v1/speed", a.speed)
	mux.HandleFunc("POST /v1/capture", a.capture)
	mux.HandleFunc("POST /v1/reload", a.reload)
	mux.HandleFunc("POST /v1/drain", a.drain)
	mux.HandleFunc("POST /v1/undrain", a.undrain)
	mux.HandleFunc("POST /v1/apply", a.apply(make(slots, 1)))
	mux.HandleFunc("POST /v1/confirm", writing(a.confirm))
	mux.HandleFunc("POST /v1/rollback", writing(a.rollback))
	mux.HandleFunc("GET /v1/files", a.files)
	mux.HandleFunc("GET /v1/files/{number}", a.file)
	mux.HandleFunc("POST /v1/plan", a.plan(make(slots, 1)))
	mux.HandleFunc("GET /healthz", truth("unhealthy", make(slots, maxCalls), source.Healthy))
	mux.HandleFunc("GET /readyz", truth("not_ready", make(slots, maxCalls), source.Ready))
	mux.Handle("GET /metrics", Metrics(source.Status))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { otherwise(mux, w, r) })
	return mux
}

// otherwise answers what no route is for: a path that there is has other methods (RFC 9110, section 15.5.6).
// ServeMux would say so itself, but not as an object.
func otherwise(mux *http.ServeMux, w http.ResponseWriter, r *http.Request) {
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
		asked := r.Clone(r.Context())
		asked.Method = method
		if _, pattern := mux.Handler(asked); pattern != "/" {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) == 0 {
		why := fmt.Sprintf("%s %s is not part of the API", r.Method, r.URL.Path)
		fail(w, http.StatusNotFound, "not_found", why)
		return
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	why := fmt.Sprintf("%s is asked with %s and not with %s", r.URL.Path, strings.Join(allowed, " or "),
		r.Method)
	fail(w, http.StatusMethodNotAllowed, "method_not_allowed", why)
}

// now returns the state as of the request. If ok is false the asker has its answer already.
func (a *api) now(w http.ResponseWriter, r *http.Request) (s snapshot, ok bool) {
	ctx, stop := linger(r)
	defer stop()
	s, err := a.snapshots.since(ctx, time.Now())
	if err != nil {
		busy(w)
	}
	return s, err == nil
}

// status serves GET /v1/status.
func (a *api) status(w http.ResponseWriter, r *http.Request) {
	if s, ok := a.now(w, r); ok {
		answer(w, http.StatusOK, s.line())
	}
}

// peers serves GET /v1/peers.
func (a *api) peers(w http.ResponseWriter, r *http.Request) {
	if s, ok := a.now(w, r); ok {
		reply(w, http.StatusOK, Peers{Schema: Schema, Node: s.Node, Peers: s.Peers})
	}
}

// peer serves GET /v1/peers/NAME.
func (a *api) peer(w http.ResponseWriter, r *http.Request) {
	s, ok := a.now(w, r)
	if !ok {
		return
	}
	for _, p := range s.Peers {
		if p.Name == r.PathValue("name") {
			reply(w, http.StatusOK, OnePeer{Schema: Schema, Peer: p})
			return
		}
	}
	a.noSuchPeer(w, r, r.PathValue("name"))
}

// noSuchPeer answers for a name that is not that of a peer.
func (a *api) noSuchPeer(w http.ResponseWriter, r *http.Request, name string) {
	s, ok := a.now(w, r)
	if !ok {
		return
	}
	why := fmt.Sprintf("no peer is named %q", name)
	if name != "" && s.Node == name { // the most likely mistake, since all hosts share one file
		why = fmt.Sprintf("%q is this node itself", name)
	}
	fail(w, http.StatusNotFound, "no_such_peer", why)
}

// route serves GET /v1/route.
func (a *api) route(calls slots) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		to, err := netip.ParseAddr(r.URL.Query().Get("to"))
		if err != nil {
			fail(w, http.StatusBadRequest, "bad_address", "to must be an IP address: "+err.Error())
			return
		}
		to = to.Unmap().WithZone("") // tables hold neither mapped addresses nor zones
		ctx, stop := linger(r)
		defer stop()
		route, err := calling(ctx, calls, func() Route { return a.source.Route(to) })
		if err != nil {
			busy(w)
			return
		}
		reply(w, http.StatusOK, route)
	}
}

// history serves GET /v1/history.
func (a *api) history(calls slots) http.HandlerFunc {
	type result struct {
		history *History
		err     error
	}
	return func(w http.ResponseWriter, r *http.Request) {
		peer, span := r.URL.Query().Get("peer"), r.URL.Query().Get("span")
		ctx, stop := linger(r)
		defer stop()
		got, err := calling(ctx, calls, func() result {
			h, err := a.source.History(peer, span)
			return result{h, err}
		})
		switch {
		case err != nil:
			busy(w)
		case got.err != nil:
			fail(w, http.StatusBadRequest, "bad_request", got.err.Error())
		case got.history == nil:
			a.noSuchPeer(w, r, peer)
		default:
			reply(w, http.StatusOK, got.history)
		}
	}
}

// ping serves POST /v1/ping, for all who may read: a ping changes nothing, and is small.
func (a *api) ping(w http.ResponseWriter, r *http.Request) {
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
	case a.pings <- struct{}{}:
	default: // a ping lasts for seconds, so waiting for one is not worth it
		why := fmt.Sprintf("%d pings are waiting for their answers: end one of them", maxReaders)
		fail(w, http.StatusServiceUnavailable, "too_many_readers", why)
		return
	}
	p, ok, err := func() (Ping, bool, error) {
		defer a.pings.free() // before the answer, which may have to wait for a status
		return a.source.Ping(r.Context(), request)
	}()
	switch {
	case err != nil:
		fail(w, http.StatusBadRequest, "bad_request", err.Error())
	case !ok:
		a.noSuchPeer(w, r, request.Peer)
	default:
		reply(w, http.StatusOK, p)
	}
}

// truthTimeout bounds the time in which the packet loops must give a sign of life. It also bounds
// the answer: a watchdog learns more from a "no" than from silence.
const truthTimeout = 2 * time.Second

// truth serves GET /healthz and GET /readyz: whether something is true at this moment. well says why
// it is not. Nothing is remembered, so an answer is never out of date.
func truth(code string, calls slots, well func(context.Context) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), truthTimeout)
		defer cancel()
		why, err := calling(ctx, calls, func() error { return well(ctx) })
		switch {
		case err != nil:
			fail(w, http.StatusServiceUnavailable, code, fmt.Sprintf("no answer within %v", truthTimeout))
		case why != nil:
			fail(w, http.StatusServiceUnavailable, code, why.Error())
		default:
			reply(w, http.StatusOK, Ready{OK: true})
		}
	}
}

// reload serves POST /v1/reload. It waits as long as the reload takes; an asker that hangs up does not
// undo it.
func (a *api) reload(w http.ResponseWriter, r *http.Request) {
	if !mayWrite(r) {
		notPermitted(w)
		return
	}
	result, err := a.source.Reload(r.Context(), "the control socket")
	switch {
	case err != nil:
		fail(w, http.StatusServiceUnavailable, "not_ready", err.Error())
	case result.Reload.OK:
		reply(w, http.StatusOK, result)
	default:
		reply(w, http.StatusUnprocessableEntity, struct {
			Error Error `json:"error"`
			ReloadResult
		}{rejected(result.Reload.Error, result.Faults), result})
	}
}

// maxFile bounds a file that is sent, in bytes, as config bounds one it reads.
const maxFile = 8 << 20

// plan serves POST /v1/plan, for all who may read, and so one file at a time: a large one costs a
// second and 250 MB. The body is read in the slot, too, since many of 8 MiB would be as bad. A plan
// ends when its asker hangs up.
func (a *api) plan(one slots) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if one.take(r.Context()) != nil {
			busy(w)
			return
		}
		defer one.free()
		doc, err := body(w, r, maxFile)
		if err != nil {
			fail(w, http.StatusBadRequest, "bad_request", "cannot read the file in the body: "+err.Error())
			return
		}
		path := cmp.Or(r.URL.Query().Get("path"), "(body)") // faults name a file
		plan, faults, err := a.source.Plan(r.Context(), path, doc)
		if err == nil {
			reply(w, http.StatusOK, plan)
			return
		}
		reply(w, http.StatusUnprocessableEntity,
			map[string]any{"error": rejected(err.Error(), faults), "faults": faults})
	}
}

// rejected returns the error for a file with faults: the first of them is its place.
func rejected(message string, faults []Error) Error {
	e := Error{Code: "rejected", Message: message}
	if len(faults) > 0 {
		e.File, e.Line = faults[0].File, faults[0].Line
	}
	return e
}

// body reads the body of a request, at most most bytes, from a client that must not keep us
// waiting.
func body(w http.ResponseWriter, r *http.Request, most int64) ([]byte, error) {
	deadline := http.NewResponseController(w)
	_ = deadline.SetReadDeadline(time.Now().Add(readerPatience))
	doc, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if err == nil { // after an error net/http would wait without a deadline for the rest
		_ = deadline.SetReadDeadline(time.Time{}) // passing it would end the handler's context
	}
	return doc, err
}

// marshal returns a line of JSON that is safe to print: text of others in it is escaped.
func marshal(v any) ([]byte, error) {
	doc, err := json.Marshal(v)
	return append(text.Bytes(doc), '\n'), err
}

// reply answers with a value.
func reply(w http.ResponseWriter, code int, v any) {
	doc, _ := marshal(v) // strings and numbers
	answer(w, code, doc)
}

// answer writes a line of JSON. A client that does not read it is cut off.
func answer(w http.ResponseWriter, code int, line []byte) {
	// Recorders of tests have no deadline.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(readerPatience))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(line) // a failure means that the client is gone
}

// fail answers that a request was not done.
func fail(w http.ResponseWriter, status int, code, message string) {
	reply(w, status, map[string]Error{"error": {Code: code, Message: message}})
}
