package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
)

// What can be wrong between a client and the daemon; test with errors.Is.
var (
	ErrNotRunning = errors.New("meshd is not running")
	ErrPermission = errors.New("not permitted")
	ErrMismatch   = errors.New("meshd speaks another version of the API")
)

// A Client asks a running daemon. It may be used by many goroutines.
type Client struct {
	socket string
	http   http.Client
}

// NewClient returns a client of the daemon at socket. Nothing is connected
// before the first question.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Status asks for GET /v1/status.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.get(ctx, "/v1/status", &s)
	if err == nil && s.Schema != Schema {
		err = fmt.Errorf("%w: %d, this program knows %d: use programs of one version", ErrMismatch, s.Schema, Schema)
	}
	return s, err
}

// Route asks for GET /v1/route.
func (c *Client) Route(ctx context.Context, to netip.Addr) (Route, error) {
	var r Route
	err := c.get(ctx, "/v1/route?to="+url.QueryEscape(to.String()), &r)
	if err == nil && r.Schema != Schema {
		err = fmt.Errorf("%w: %d, this program knows %d: use programs of one version", ErrMismatch, r.Schema, Schema)
	}
	return r, err
}

// get asks for path and decodes the answer into body.
func (c *Client) get(ctx context.Context, path string, body any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://meshd"+path, nil)
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return c.explain(err)
	}
	defer response.Body.Close()
	decoder := json.NewDecoder(response.Body)
	if response.StatusCode != http.StatusOK {
		var failure struct{ Error Error }
		if decoder.Decode(&failure) != nil || failure.Error.Message == "" {
			return fmt.Errorf("ask meshd for %s: %s", path, response.Status)
		}
		return errors.New(failure.Error.Message)
	}
	if err := decoder.Decode(body); err != nil && ctx.Err() != nil {
		return fmt.Errorf("ask meshd for %s: %w", path, ctx.Err())
	} else if err != nil {
		return fmt.Errorf("%w: answer to %s cannot be read: %w", ErrMismatch, path, err)
	}
	return nil
}

// explain turns a failed connection into what the user can do about it.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: nobody answers at %s: see `systemctl status meshd`, start it with `systemctl start meshd`", ErrNotRunning, c.socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %s is for root and the group %q: `sudo usermod -aG %s $USER` and log in again", ErrPermission, c.socket, group, group)
	}
	return fmt.Errorf("ask meshd at %s: %w", c.socket, err)
}
