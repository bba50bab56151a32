// Package ping asks a peer out of turn, for somebody who waits for the answer.
package ping

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/probe"
	"example.org/meshd/internal/words"
)

// Bounds of POST /v1/ping.
const (
	pingTimeout    = time.Second
	pingTimeoutMax = 10 * time.Second
)

// A Sender sends echoes.
type Sender interface {
	SendEcho(es ...dataplane.Echo) error
}

// Ask answers POST /v1/ping while a plan is in force: it asks a peer, and waits for the answer. ok is false
// if there is no such peer. An error is the asker's fault.
func Ask(ctx context.Context, in *plan.Plan, prober *probe.Prober, engine Sender, r control.PingRequest) (
	reply control.Ping, ok bool, err error) {
	headers := dataplane.EchoHeaders(in.Peer)
	if most := in.Link.MTU - headers; r.Size < 0 || r.Size > most {
		return reply, false, fmt.Errorf("size must be at most %d bytes, which is what the MTU %d leaves",
			most, in.Link.MTU)
	}
	r.Size = max(r.Size, probe.PayloadSize)
	timeout := pingTimeout
	if r.TimeoutMS != 0 {
		timeout = time.Duration(r.TimeoutMS) * time.Millisecond
	}
	if timeout <= 0 || timeout > pingTimeoutMax {
		return reply, false, fmt.Errorf("timeout_ms must be 1 to %d", pingTimeoutMax.Milliseconds())
	}
	q, answer, forget, ok := prober.Ping(r.Peer, r.Size, time.Now())
	if !ok {
		return reply, false, nil
	}
	defer forget()
	reply = control.Ping{Schema: control.Schema, Peer: r.Peer, Size: len(q.Payload) + headers}
	switch err := engine.SendEcho(dataplane.Echo{Peer: q.Peer, ID: q.ID, Seq: q.Seq, Payload: q.Payload}); {
	case errors.Is(err, unix.EMSGSIZE):
		reply.Error = "larger than the path to the peer"
		return reply, true, nil
	case err != nil:
		reply.Error = err.Error()
		return reply, true, nil
	}
	select {
	case rtt := <-answer:
		reply.RTTMS = words.Milliseconds(rtt)
	case <-time.After(timeout):
	case <-ctx.Done():
	}
	return reply, true, nil
}
