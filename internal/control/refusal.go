package control

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/http"
)

// A Refusal is why something that was asked for is not done, though the question makes sense.
type Refusal struct {
	Code, Message string // of the API's Error
	Status        int    // of HTTP; 0: http.StatusConflict
}

// Error implements error.
func (r *Refusal) Error() string { return r.Message }

// answer sends a refusal.
func (r *Refusal) answer(w http.ResponseWriter) {
	fail(w, cmp.Or(r.Status, http.StatusConflict), r.Code, r.Message)
}

// aboutPeer decodes the body of a request that names a peer. If that is not ok, it has been answered.
func aboutPeer(w http.ResponseWriter, r *http.Request, into any) (ok bool) {
	doc, err := body(w, r, 4096)
	if err == nil {
		err = json.Unmarshal(doc, into)
	}
	if err != nil {
		fail(w, http.StatusBadRequest, "bad_request", "the body must be {\"peer\":NAME}: "+err.Error())
	}
	return err == nil
}

// unanswered answers why there is no answer about a peer: an error that is no *Refusal is a fault of the
// request, and without an error there is no such peer.
func (a *api) unanswered(w http.ResponseWriter, r *http.Request, peer string, err error) {
	refused, isRefusal := errors.AsType[*Refusal](err)
	switch {
	case isRefusal:
		refused.answer(w)
	case err != nil:
		fail(w, http.StatusBadRequest, "bad_request", err.Error())
	default:
		a.noSuchPeer(w, r, peer)
	}
}
