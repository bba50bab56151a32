package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os/user"
	"syscall"
	"time"

	"example.org/meshd/internal/text"
)

// What can be wrong between a client and the daemon; test with errors.Is.
var (
	ErrNotRunning = errors.New("meshd is not running")                    // no process answers
	ErrPermission = errors.New("not permitted")                           // to connect, or to change things
	ErrMismatch   = errors.New("meshd speaks another version of the API") // or not at all
	ErrNoPeer     = errors.New("no such peer")
)

// A Client asks a running daemon. Many goroutines may use it at once.
type Client struct {
	// Tidy makes the text in answers and refusals harmless for a terminal (text.Fields).
	// Without it the text is as the daemon sent it. Set it before the first request.
	Tidy bool

	socket string
	http   http.Client
}

// NewClient returns a client of the daemon at socket. It connects with the first request, so a
// daemon that starts later is found.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	// Sooner than the daemon closes idle connections: a request that meets the end of its connection fails, and
	// one that changes something cannot be repeated blindly (RFC 9110 section 9.2.2).
	return &Client{socket: socket, http: http.Client{Transport: &http.Transport{DialContext: dial,
		IdleConnTimeout: idlePatience / 2}}}
}

// Close closes idle connections. The client may be used again.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status sends GET /v1/status.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.get(ctx, "/v1/status", &s)
	return s, mismatch(err, s.Schema)
}

// Peers sends GET /v1/peers.
func (c *Client) Peers(ctx context.Context) (Peers, error) {
	var p Peers
	err := c.get(ctx, "/v1/peers", &p)
	return p, mismatch(err, p.Schema)
}

// Peer sends GET /v1/peers/NAME. The error wraps ErrNoPeer if no peer has that name.
func (c *Client) Peer(ctx context.Context, name string) (OnePeer, error) {
	var p OnePeer
	err := c.get(ctx, "/v1/peers/"+url.PathEscape(name), &p)
	return p, mismatch(err, p.Schema)
}

// History sends GET /v1/history. An empty peer stands for the whole node; span is "5m", "1h" or "24h".
func (c *Client) History(ctx context.Context, peer, span string) (History, error) {
	var h History
	err := c.get(ctx, "/v1/history?peer="+url.QueryEscape(peer)+"&span="+url.QueryEscape(span), &h)
	return h, mismatch(err, h.Schema)
}

// Ping sends POST /v1/ping and waits for the peer's answer. The error wraps ErrNoPeer if no peer
// has that name; a peer that does not answer is no error.
func (c *Client) Ping(ctx context.Context, r PingRequest) (Ping, error) {
	var p Ping
	doc, err := json.Marshal(r)
	if err == nil {
		err = c.ask(ctx, http.MethodPost, "/v1/ping", doc, &p)
	}
	return p, mismatch(err, p.Schema)
}

// Ready sends GET /readyz. The error says why the daemon is not ready.
func (c *Client) Ready(ctx context.Context) error {
	return c.get(ctx, "/readyz", new(Ready))
}

// Events calls each with every event after since that the daemon remembers, oldest first. With follow it goes
// on with new events until ctx or the daemon ends. An error of each ends it and is returned.
func (c *Client) Events(ctx context.Context, since uint64, follow bool, each func(Event) error) error {
	path := fmt.Sprintf("/v1/events?since=%d&follow=%t", since, follow)
	return lines(ctx, c, http.MethodGet, path, nil, each)
}

// Watch calls each with every line of GET /v1/watch until ctx or the daemon ends. An error of each
// ends it and is returned. With past, the events that the daemon remembers follow the first
// snapshot. interval is that of snapshots, 100 ms to 1 h. The daemon sends what has changed; each
// gets whole snapshots, and must not change what they point to.
func (c *Client) Watch(
	ctx context.Context, interval time.Duration, past bool, each func(Watched) error,
) error {
	follower := Follower{Tidy: c.Tidy}
	return c.WatchChanges(ctx, interval, past, func(w Watched) error {
		w, err := follower.Follow(w)
		if err != nil {
			return err
		}
		return each(w)
	})
}

// WatchChanges is Watch without its Follower: after the first snapshot, each gets what has changed, as the
// daemon sends it.
func (c *Client) WatchChanges(
	ctx context.Context, interval time.Duration, past bool, each func(Watched) error,
) error {
	path := "/v1/watch?changes=1&interval=" + interval.String() + "&figures=" + figureNames()
	if past {
		path += "&since=0"
	}
	return lines(ctx, c, http.MethodGet, path, nil, func(w Watched) error {
		if err := w.Check(); err != nil {
			return err
		}
		return each(w)
	})
}

// lines reads an answer of many lines.
func lines[T any](ctx context.Context, c *Client, method, path string, doc []byte, each func(T) error) error {
	response, err := c.send(ctx, method, path, doc)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		answer, _ := readAnswer(response.Body)
		return c.refusal(response, path, answer, nil)
	}
	var ended error // by each
	err = ReadLines(response.Body, func(line T) error {
		if _, followed := any(line).(Watched); !followed { // a Follower tidies what it keeps
			c.tidy(&line)
		}
		ended = each(line)
		return ended
	})
	switch {
	case err == nil || ended != nil: // each decides, whatever else went wrong meanwhile
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("%w any more: it stopped while its answer was read", ErrNotRunning)
	}
	return fmt.Errorf("read %s from meshd: %w", path, err)
}

// Route sends GET /v1/route.
func (c *Client) Route(ctx context.Context, to netip.Addr) (Route, error) {
	var r Route
	err := c.get(ctx, "/v1/route?to="+url.QueryEscape(to.String()), &r)
	return r, mismatch(err, r.Schema)
}

// Reload sends POST /v1/reload and waits for the outcome. A rejected file is no error: the result
// says so.
func (c *Client) Reload(ctx context.Context) (ReloadResult, error) {
	var r ReloadResult
	err := c.ask(ctx, http.MethodPost, "/v1/reload", nil, &r)
	if _, rejected := errors.AsType[*Rejection](err); rejected {
		err = nil
	}
	return r, mismatch(err, r.Schema)
}

// Drain sends POST /v1/drain.
func (c *Client) Drain(ctx context.Context, r DrainRequest) error {
	doc, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return c.ask(ctx, http.MethodPost, "/v1/drain", doc, &Ready{})
}

// Undrain sends POST /v1/undrain.
func (c *Client) Undrain(ctx context.Context) error {
	return c.ask(ctx, http.MethodPost, "/v1/undrain", nil, &Ready{})
}

// Flows sends GET /v1/flows.
func (c *Client) Flows(ctx context.Context, q FlowQuery) (Flows, error) {
	var f Flows
	err := c.get(ctx, "/v1/flows?"+q.values(), &f)
	return f, mismatch(err, f.Schema)
}

// CountFlows sends POST /v1/flows: flows are counted for a time from now on, 1 s to FlowsLeaseMost. The
// answer is that of Flows.
func (c *Client) CountFlows(ctx context.Context, lease time.Duration, q FlowQuery) (Flows, error) {
	var f Flows
	doc, err := json.Marshal(FlowsRequest{Seconds: lease.Seconds()})
	if err == nil {
		err = c.ask(ctx, http.MethodPost, "/v1/flows?"+q.values(), doc, &f)
	}
	return f, mismatch(err, f.Schema)
}

// Plan sends POST /v1/plan with the content of a file; path is the file's name in faults. A file
// that would be rejected is a *Rejection.
func (c *Client) Plan(ctx context.Context, path string, doc []byte) (Plan, error) {
	var p Plan
	err := c.ask(ctx, http.MethodPost, "/v1/plan?path="+url.QueryEscape(path), doc, &p)
	return p, mismatch(err, p.Schema)
}

// mismatch returns err or, if there is none, an error for a schema that is not ours.
func mismatch(err error, schema int) error {
	if err == nil && schema != Schema {
		return fmt.Errorf("%w: %d instead of %d: use programs of one version", ErrMismatch, schema, Schema)
	}
	return err
}

// A Rejection is the answer that a file cannot be applied, and why.
type Rejection struct {
	Message string  // has a line for each fault
	Faults  []Error // of the file, each with its place; none if the host is in the way
}

// Error implements error.
func (r *Rejection) Error() string { return r.Message }

// get sends a GET request and decodes the answer into body.
func (c *Client) get(ctx context.Context, path string, body any) error {
	return c.ask(ctx, http.MethodGet, path, nil, body)
}

// ask sends a request and decodes the answer into body, also that of a rejection.
func (c *Client) ask(ctx context.Context, method, path string, doc []byte, body any) error {
	response, err := c.send(ctx, method, path, doc)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := readAnswer(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		return c.refusal(response, path, answer, body)
	}
	if err == nil {
		err = json.Unmarshal(answer, body)
	}
	// An answer that was cut off by the deadline is no answer of another API.
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("ask meshd for %s: %w", path, ctx.Err())
	} else if err != nil {
		return fmt.Errorf("%w: cannot read its answer to %s: %w", ErrMismatch, path, err)
	}
	c.tidy(body)
	return nil
}

// tidy makes an answer harmless if the client is to.
func (c *Client) tidy(body any) {
	if c.Tidy {
		text.Fields(body)
	}
}

// send sends a request. The caller closes the body of the answer.
func (c *Client) send(ctx context.Context, method, path string, doc []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://meshd"+path, bytes.NewReader(doc))
	if err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, c.explain(err)
	}
	return response, nil
}

// refusal turns an answer that is not 200 into an error that callers can test, by its status: the
// message is for people only.
func (c *Client) refusal(response *http.Response, path string, answer []byte, body any) error {
	var failure struct {
		Error  Error
		Faults []Error
	}
	if json.Unmarshal(answer, &failure) != nil || failure.Error.Message == "" {
		return fmt.Errorf("ask meshd for %s: %s", path, response.Status)
	}
	c.tidy(&failure)
	switch response.StatusCode {
	case http.StatusNotFound:
		if failure.Error.Code == "no_such_peer" {
			return fmt.Errorf("%w: %s", ErrNoPeer, failure.Error.Message)
		}
		if failure.Error.Code == "no_such_file" {
			return errors.New(failure.Error.Message)
		}
		// The path is none of this daemon's: it is older than this program.
		return fmt.Errorf("%w: %s", ErrMismatch, failure.Error.Message)
	case http.StatusMethodNotAllowed: // nor is the way in which it is asked
		return fmt.Errorf("%w: %s", ErrMismatch, failure.Error.Message)
	case http.StatusForbidden:
		return fmt.Errorf("%w: %s", ErrPermission, failure.Error.Message)
	case http.StatusUnprocessableEntity:
		_ = json.Unmarshal(answer, body) // the result that stands beside the error, if one does
		c.tidy(body)
		return &Rejection{failure.Error.Message, failure.Faults}
	case http.StatusConflict:
		return &Refusal{Code: failure.Error.Code, Message: failure.Error.Message, Status: response.StatusCode}
	}
	return errors.New(failure.Error.Message)
}

// explain turns a failed connection into an error that says what the user can do about it.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR),
		errors.Is(err, syscall.ECONNREFUSED): // a dead daemon left its socket
		return &Advised{fmt.Errorf("%w: no process answers at %s", ErrNotRunning, c.socket),
			"see `systemctl status meshd`, start it with `systemctl start meshd`"}
	case errors.Is(err, fs.ErrPermission):
		advice := "run `sudo usermod -aG " + group + " $USER` and log in again"
		if _, err := user.LookupGroup(group); err != nil {
			advice = "this host has no such group: ask as root, or run `groupadd --system " + group +
				"` and restart meshd"
		}
		return &Advised{fmt.Errorf("%w: %s is for root and the group %q", ErrPermission, c.socket, group), advice}
	// Bounded closes connections without an answer if there are too many, and so does a daemon
	// that ends.
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("meshd at %s closed the connection before it answered: "+
			"it is stopping, or too many connections are open: try again", c.socket)
	}
	return fmt.Errorf("ask meshd at %s: %w", c.socket, err)
}
