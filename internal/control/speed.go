package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// SpeedRequest is the body of POST /v1/speed.
type SpeedRequest struct {
	Peer     string  `json:"peer"`
	Seconds  float64 `json:"seconds"`   // of both directions together, 1 to 30; 0: 10
	LimitBPS uint64  `json:"limit_bps"` // most that is sent, bit/s, 100000 to 100000000000; 0: 1000000000
}

// The directions of a measurement.
const (
	SpeedOut = "out" // to the peer
	SpeedIn  = "in"  // from it
)

// SpeedLine is one line of the answer of POST /v1/speed: progress once a second, then a result or an error.
type SpeedLine struct {
	Type     string         `json:"type"` // "progress", "result", "error"
	Progress *SpeedProgress `json:"progress,omitempty"`
	Result   *Speed         `json:"result,omitempty"`
	Error    *Error         `json:"error,omitempty"`
}

// SpeedProgress is how a measurement goes.
type SpeedProgress struct {
	Way string  `json:"way"` // SpeedOut, SpeedIn
	BPS float64 `json:"bps"` // of the last second, bit/s
}

// Speed is what was measured.
type Speed struct {
	Schema   int      `json:"schema"`
	Peer     string   `json:"peer"`
	Seconds  float64  `json:"seconds"`   // that it was to take
	LimitBPS uint64   `json:"limit_bps"` // most that was sent, bit/s
	Out      SpeedWay `json:"out"`       // to the peer
	In       SpeedWay `json:"in"`        // from it
}

// SpeedWay is what was measured in one direction.
type SpeedWay struct {
	BPS           float64  `json:"bps"`           // of TCP's payload, as it came in, bit/s
	Bytes         uint64   `json:"bytes"`         // of TCP's payload that came in
	Seconds       float64  `json:"seconds"`       // in which they did
	Segments      uint64   `json:"segments"`      // of TCP that were sent
	Retransmitted uint64   `json:"retransmitted"` // of them, since they were lost
	RTTMS         *float64 `json:"rtt_ms"`        // TCP's, while the link was full; null: not known
	Sent          int      `json:"sent"`          // datagrams, at half of the speed or less
	Received      int      `json:"received"`
	Lost          int      `json:"lost"`
	Loss          float64  `json:"loss"` // of datagrams, 0 to 1
}

// speed serves POST /v1/speed. The measurement ends when its asker hangs up. What ends it before the first
// line is an answer of its own; later the last line says it.
func (a *api) speed(w http.ResponseWriter, r *http.Request) {
	if !mayWrite(r) {
		notPermitted(w)
		return
	}
	var request SpeedRequest
	if !aboutPeer(w, r, &request) {
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	var out *stream
	tell := func(line SpeedLine) {
		if out == nil {
			out = streamTo(w)
		}
		if out.line(line) != nil {
			cancel()
		}
	}
	speed, ok, err := a.source.Speed(ctx, request, func(p SpeedProgress) {
		tell(SpeedLine{Type: "progress", Progress: &p})
	})
	refused, isRefusal := errors.AsType[*Refusal](err)
	switch {
	case err == nil && ok:
		tell(SpeedLine{Type: "result", Result: &speed})
	case isRefusal && out != nil:
		tell(SpeedLine{Type: "error", Error: &Error{Code: refused.Code, Message: refused.Message}})
	default:
		a.unanswered(w, r, request.Peer, err)
	}
}

// errNoResult tells that an answer ended before its result.
var errNoResult = errors.New("meshd ended its answer without a result")

// Speed sends POST /v1/speed and waits for the result. each is told how it goes, once a second. The error
// wraps ErrNoPeer if no peer has the name; a *Refusal says why nothing was measured.
func (c *Client) Speed(
	ctx context.Context, r SpeedRequest, each func(SpeedProgress),
) (result Speed, err error) {
	doc, err := json.Marshal(r)
	if err != nil {
		return result, err
	}
	done := false
	err = lines(ctx, c, http.MethodPost, "/v1/speed", doc, func(l SpeedLine) error {
		switch {
		case l.Error != nil:
			return &Refusal{Code: l.Error.Code, Message: l.Error.Message}
		case l.Result != nil:
			result, done = *l.Result, true
		case l.Progress != nil:
			each(*l.Progress)
		}
		return nil
	})
	if err == nil && !done {
		err = fmt.Errorf("measure the speed to %q: %w", r.Peer, errNoResult)
	}
	return result, mismatch(err, result.Schema)
}
