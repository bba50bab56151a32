package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"example.org/meshd/internal/text"
)

// Pending is a change that waits for its confirmation.
type Pending struct {
	SHA256      string    `json:"sha256"`        // of the file in force
	Before      string    `json:"before_sha256"` // of the one that comes back
	Since       time.Time `json:"since"`
	Until       time.Time `json:"until"` // by the daemon's clock
	LeftSeconds float64   `json:"left_seconds"`
	By          string    `json:"by"` // who made it, as the kernel says
	Told        Told      `json:"told"`
}

// Told is what a client says of who uses it. The daemon cannot verify it.
type Told struct {
	User string `json:"user"` // of sudo(8); empty: not told
	From string `json:"from"` // IP address of ssh's other end; empty: not told
}

// Asker is who asks for a change.
type Asker struct {
	By   string // the user at the other end of the socket, as the kernel says
	Told Told
}

// ApplyRequest asks for a file to be put in force, with POST /v1/apply.
type ApplyRequest struct {
	Asker
	Path           string // of the file, for faults
	Doc            []byte
	ConfirmSeconds float64 // 0: the change needs no confirmation
	// Follow tells that root has the daemon's own file follow, if the asker cannot do so itself any more.
	Follow bool
}

// RollbackRequest is the body of POST /v1/rollback.
type RollbackRequest struct {
	Asker          `json:"-"`
	Number         int     `json:"number"` // 0: take back what waits, or else the file before
	ConfirmSeconds float64 `json:"confirm_seconds"`
	Follow         bool    `json:"follow"` // see ApplyRequest
	SHA256         string  `json:"sha256"` // take back only the change with it, and do nothing else
	Told           Told    `json:"told"`
}

// ConfirmRequest is the body of POST /v1/confirm, which may be empty.
type ConfirmRequest struct {
	SHA256 string `json:"sha256"` // of the file to confirm; empty: whatever waits
	Told   Told   `json:"told"`
}

// ApplyResult is the answer of POST /v1/apply and POST /v1/rollback.
type ApplyResult struct {
	ReloadResult
	Schema  int      `json:"schema"`
	SHA256  string   `json:"sha256"`            // of the file that was asked for
	Pending *Pending `json:"pending,omitempty"` // absent: the change is there to stay
}

// Files is the answer of GET /v1/files.
type Files struct {
	Schema  int      `json:"schema"`
	Path    string   `json:"path"`
	Files   []File   `json:"files"` // that were in force, the newest first
	Pending *Pending `json:"pending,omitempty"`
}

// File is a file that was in force.
type File struct {
	Number  int       `json:"number"` // grows with each file, and stays
	SHA256  string    `json:"sha256"`
	Bytes   int       `json:"bytes"`
	At      time.Time `json:"at"`      // when it came into force
	Cause   string    `json:"cause"`   // "start", "edit", "apply", "rollback", "taken_back"
	Outcome string    `json:"outcome"` // "pending", "confirmed", "taken_back", "superseded"; else empty
	InForce bool      `json:"in_force"`
	By      string    `json:"by"` // empty: somebody who edited the file
	Told    Told      `json:"told"`
}

// OneFile is the answer of GET /v1/files/NUMBER.
type OneFile struct {
	Schema int `json:"schema"`
	File
	Text string `json:"text" text:"lines"`
}

// Changer changes the file in force. Each error may be a *Rejection, or a *Refusal: "pending", "taken_back",
// "nothing_pending", "other_change", "no_such_file", "not_kept".
type Changer struct {
	Apply    func(ctx context.Context, r ApplyRequest) (ApplyResult, error)
	Rollback func(ctx context.Context, r RollbackRequest) (ApplyResult, error)
	Confirm  func(ctx context.Context, by Asker, sha256 string) error
	Files    func(ctx context.Context) (Files, error)
	File     func(ctx context.Context, number int) (OneFile, error)
}

// Bounds of what a client says.
const (
	maxTold    = 128
	maxConfirm = 24 * time.Hour
)

// check returns what is wrong with what a client says.
func (t Told) check() error {
	if len(t.User) > maxTold || len(t.From) > maxTold {
		return fmt.Errorf("who asks must have at most %d bytes", maxTold)
	}
	return nil
}

// checkConfirm returns what is wrong with a time for a confirmation.
func checkConfirm(seconds float64) error {
	if math.IsNaN(seconds) || seconds < 0 || seconds > maxConfirm.Seconds() || seconds > 0 && seconds < 1 {
		return fmt.Errorf("confirm_seconds must be 1 to %.0f, or 0", maxConfirm.Seconds())
	}
	return nil
}

// by returns who asks.
func (t Told) by(r *http.Request) Asker {
	return Asker{By: DrainRequest{}.asker(r), Told: Told{text.Clean(t.User), text.Clean(t.From)}}
}

// byRoot tells whether root asks.
func byRoot(r *http.Request) bool {
	v := visitorOf(r)
	return v != nil && v.credentials != nil && v.credentials.Uid == 0
}

// apply serves POST /v1/apply: one file at a time, as plans.
func (a *api) apply(one slots) http.HandlerFunc {
	return writing(func(w http.ResponseWriter, r *http.Request) {
		if one.take(r.Context()) != nil {
			busy(w)
			return
		}
		defer one.free()
		query := r.URL.Query()
		request := ApplyRequest{Path: "(body)", Follow: query.Get("follow") == "1" && byRoot(r)}
		told := Told{query.Get("user"), query.Get("from")}
		if path := query.Get("path"); path != "" {
			request.Path = path
		}
		doc, err := body(w, r, maxFile)
		if seconds := query.Get("confirm_seconds"); err == nil && seconds != "" {
			request.ConfirmSeconds, err = strconv.ParseFloat(seconds, 64)
		}
		if err = errors.Join(err, checkConfirm(request.ConfirmSeconds), told.check()); err != nil {
			fail(w, http.StatusBadRequest, "bad_request", err.Error())
			return
		}
		request.Doc, request.Asker = doc, told.by(r)
		result, err := a.source.Changer.Apply(r.Context(), request)
		applied(w, result, err)
	})
}

// rollback serves POST /v1/rollback.
func (a *api) rollback(w http.ResponseWriter, r *http.Request) {
	var request RollbackRequest
	err := asked(w, r, &request)
	if err = errors.Join(err, checkConfirm(request.ConfirmSeconds), request.Told.check()); err == nil &&
		request.Number < 0 {
		err = errors.New("number must not be negative")
	}
	if err != nil {
		fail(w, http.StatusBadRequest, "bad_request", err.Error())
		return
	}
	request.Asker, request.Follow = request.Told.by(r), request.Follow && byRoot(r)
	result, err := a.source.Changer.Rollback(r.Context(), request)
	applied(w, result, err)
}

// confirm serves POST /v1/confirm.
func (a *api) confirm(w http.ResponseWriter, r *http.Request) {
	var request ConfirmRequest
	if err := errors.Join(asked(w, r, &request), request.Told.check()); err != nil {
		fail(w, http.StatusBadRequest, "bad_request", err.Error())
		return
	}
	if err := a.source.Changer.Confirm(r.Context(), request.Told.by(r), request.SHA256); err != nil {
		applied(w, ApplyResult{}, err)
		return
	}
	reply(w, http.StatusOK, Ready{OK: true})
}

// files serves GET /v1/files.
func (a *api) files(w http.ResponseWriter, r *http.Request) {
	all, err := a.source.Changer.Files(r.Context())
	if err != nil {
		applied(w, ApplyResult{}, err)
		return
	}
	reply(w, http.StatusOK, all)
}

// file serves GET /v1/files/NUMBER.
func (a *api) file(w http.ResponseWriter, r *http.Request) {
	number, err := strconv.Atoi(r.PathValue("number"))
	if err != nil {
		fail(w, http.StatusBadRequest, "bad_request", "a file has a number: "+err.Error())
		return
	}
	one, err := a.source.Changer.File(r.Context(), number)
	if err != nil {
		applied(w, ApplyResult{}, err)
		return
	}
	reply(w, http.StatusOK, one)
}

// writing serves those who may change the mesh.
func writing(serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !mayWrite(r) {
			notPermitted(w)
			return
		}
		serve(w, r)
	}
}

// asked decodes the body of a request, which may be empty.
func asked(w http.ResponseWriter, r *http.Request, into any) error {
	doc, err := body(w, r, 4096)
	if err == nil && len(doc) > 0 {
		err = json.Unmarshal(doc, into)
	}
	return err
}

// applied answers how a change has ended.
func applied(w http.ResponseWriter, result ApplyResult, err error) {
	refusal, refused := errors.AsType[*Refusal](err)
	rejection, faulty := errors.AsType[*Rejection](err)
	switch {
	case refused:
		refusal.answer(w)
	case faulty, err == nil && !result.Reload.OK:
		if faulty {
			result.Reload.Error, result.Faults = rejection.Message, rejection.Faults
		}
		reply(w, http.StatusUnprocessableEntity, struct {
			Error Error `json:"error"`
			ApplyResult
		}{rejected(result.Reload.Error, result.Faults), result})
	case err != nil:
		fail(w, http.StatusServiceUnavailable, "not_ready", err.Error())
	default:
		reply(w, http.StatusOK, result)
	}
}

// Apply sends POST /v1/apply and waits for the outcome. A file that cannot be in force is a *Rejection.
func (c *Client) Apply(ctx context.Context, r ApplyRequest) (ApplyResult, error) {
	query := url.Values{"path": {r.Path}, "user": {r.Told.User}, "from": {r.Told.From}}
	if r.ConfirmSeconds > 0 {
		query.Set("confirm_seconds", strconv.FormatFloat(r.ConfirmSeconds, 'f', -1, 64))
	}
	if r.Follow {
		query.Set("follow", "1")
	}
	var result ApplyResult
	err := c.ask(ctx, http.MethodPost, "/v1/apply?"+query.Encode(), r.Doc, &result)
	return result, mismatch(err, result.Schema)
}

// Rollback sends POST /v1/rollback and waits for the outcome.
func (c *Client) Rollback(ctx context.Context, r RollbackRequest) (ApplyResult, error) {
	var result ApplyResult
	doc, err := json.Marshal(r)
	if err == nil {
		err = c.ask(ctx, http.MethodPost, "/v1/rollback", doc, &result)
	}
	return result, mismatch(err, result.Schema)
}

// Confirm sends POST /v1/confirm. An error says why the change does not stay.
func (c *Client) Confirm(ctx context.Context, r ConfirmRequest) error {
	doc, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return c.ask(ctx, http.MethodPost, "/v1/confirm", doc, &Ready{})
}

// Files sends GET /v1/files.
func (c *Client) Files(ctx context.Context) (Files, error) {
	var all Files
	err := c.get(ctx, "/v1/files", &all)
	return all, mismatch(err, all.Schema)
}

// File sends GET /v1/files/NUMBER.
func (c *Client) File(ctx context.Context, number int) (OneFile, error) {
	var one OneFile
	err := c.get(ctx, "/v1/files/"+strconv.Itoa(number), &one)
	return one, mismatch(err, one.Schema)
}
