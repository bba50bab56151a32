package control

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os/user"
	"strconv"
	"time"
)

// maxBy bounds the name of who asks, in bytes.
const maxBy = 32

// drain serves POST /v1/drain.
func (a *api) drain(w http.ResponseWriter, r *http.Request) {
	if !mayWrite(r) {
		notPermitted(w)
		return
	}
	var request DrainRequest
	doc, err := body(w, r, 4096)
	if err == nil {
		err = json.Unmarshal(doc, &request)
	}
	if err == nil {
		err = request.check()
	}
	if err != nil {
		fail(w, http.StatusBadRequest, "bad_request", err.Error())
		return
	}
	request.By = request.asker(r)
	a.drained(w, a.source.Drain(request))
}

// undrain serves POST /v1/undrain.
func (a *api) undrain(w http.ResponseWriter, r *http.Request) {
	if !mayWrite(r) {
		notPermitted(w)
		return
	}
	a.drained(w, a.source.Undrain(DrainRequest{}.asker(r)))
}

// drained answers how a maintenance has begun or ended.
func (a *api) drained(w http.ResponseWriter, err error) {
	if err != nil {
		fail(w, http.StatusInsufficientStorage, "not_kept", err.Error())
		return
	}
	reply(w, http.StatusOK, Ready{OK: true})
}

// check returns what is wrong with a request.
func (r DrainRequest) check() error {
	const longest = 366 * 24 * time.Hour
	switch {
	case r.ForSeconds < 0 || r.ForSeconds > longest.Seconds():
		return fmt.Errorf("for_seconds must be 0 to %.0f", longest.Seconds())
	case len(r.Reason) > maxReason:
		return fmt.Errorf("the reason has %d bytes, and at most %d are told to other nodes", len(r.Reason),
			maxReason)
	case len(r.By) > maxBy:
		return fmt.Errorf("by has %d bytes, and at most %d are told to other nodes", len(r.By), maxBy)
	}
	return nil
}

// maxReason bounds a reason, in bytes.
const maxReason = 160

// asker returns who asks. Root may ask for somebody else, as sudo(8) does.
func (r DrainRequest) asker(request *http.Request) string {
	v := visitorOf(request)
	if v == nil || v.credentials == nil {
		return ""
	}
	uid := v.credentials.Uid
	if uid == 0 && r.By != "" {
		return r.By
	}
	number := strconv.Itoa(int(uid))
	if u, err := user.LookupId(number); err == nil {
		return u.Username
	}
	return "user " + number
}

// notPermitted answers whoever may not change the mesh.
func notPermitted(w http.ResponseWriter) {
	fail(w, http.StatusForbidden, "not_permitted",
		"only root and members of the group "+writers+" may change the mesh")
}
