package speed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/words"
)

// Ask answers POST /v1/speed: it measures a peer, and tells each how it goes, once a second. ok is false if
// there is no such peer. It returns soon after ctx. An error that is not a *control.Refusal is the asker's
// fault.
func (k *Keeper) Ask(ctx context.Context, r control.SpeedRequest, each func(control.SpeedProgress)) (
	result control.Speed, ok bool, err error) {
	asked, err := requestOf(r)
	if err != nil {
		return result, false, err
	}
	s := k.now()
	if s == nil {
		return result, false, &control.Refusal{Code: "not_ready", Message: "no file is in force yet"}
	}
	between, ok := s.to(r.Peer)
	switch {
	case !ok:
		return result, false, nil
	case !between.own.IsValid():
		return result, true, refusal(errNoFamily)
	case !k.slot.TryLock():
		return result, true, refusal(errBusyHere)
	}
	defer k.slot.Unlock()
	result = control.Speed{Schema: control.Schema, Peer: r.Peer, Seconds: r.Seconds, LimitBPS: asked.Rate}
	if err := k.ask(ctx, s, between, asked, &result, each); err != nil {
		return result, true, refusal(err)
	}
	return result, true, nil
}

// requestOf checks what somebody asks for, and fills in what is not said.
func requestOf(r control.SpeedRequest) (request, error) {
	total, rate := DefTime, uint64(DefRate)
	if r.Seconds != 0 {
		total = time.Duration(r.Seconds * float64(time.Second))
	}
	if r.LimitBPS != 0 {
		rate = r.LimitBPS
	}
	switch {
	case r.Seconds < 0, total < MinTime, total > MaxTime:
		return request{}, fmt.Errorf("seconds must be %.0f to %.0f", MinTime.Seconds(), MaxTime.Seconds())
	case rate < MinRate, rate > MaxRate:
		return request{}, fmt.Errorf("limit_bps must be %d to %d", MinRate, MaxRate)
	}
	// Each direction has half of the time, and a fifth of that is for datagrams.
	return request{LoadMS: (total * 4 / 10).Milliseconds(), LossMS: (total / 10).Milliseconds(), Rate: rate}, nil
}

// longest returns how long a measurement may take with all that is waited for.
func (r request) longest() time.Duration { return 2*(r.load()+r.loss()+graceTime) + 2*answerTime }

// ask measures both directions.
func (k *Keeper) ask(ctx context.Context, s *scene, between pair, r request, result *control.Speed,
	each func(control.SpeedProgress)) error {
	conn, err := dial(ctx, between, s.device)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	udp, port, err := datagramSocket(ctx, between.own, s.device)
	if err != nil {
		return err
	}
	defer udp.Close()
	defer context.AfterFunc(ctx, func() { udp.Close() })()
	var h hello
	if err := errors.Join(conn.SetDeadline(time.Now().Add(answerTime)), readMessage(conn, &h)); err != nil {
		return err
	}
	if h.Busy {
		return errBusyThere
	}
	r.Port = port
	until := time.Now().Add(r.longest())
	k.o.Measured(result.Peer, until)
	defer func() { k.o.Measured(result.Peer, time.Now()) }()
	if err := errors.Join(conn.SetDeadline(until), writeMessage(conn, r)); err != nil {
		return err
	}
	l := &line{tcp: conn, udp: udp, to: &net.UDPAddr{IP: between.peer.AsSlice(), Port: int(h.Port)},
		token: h.Token, size: s.size, request: r}
	for _, one := range []struct {
		name    string
		measure func(context.Context) (way, error)
		to      *control.SpeedWay
	}{{control.SpeedOut, l.send, &result.Out}, {control.SpeedIn, l.receive, &result.In}} {
		l.each = func(bytes uint64, took time.Duration) {
			each(control.SpeedProgress{Way: one.name, BPS: bits(bytes, took)})
		}
		w, err := one.measure(ctx)
		if err != nil {
			return errors.Join(ctx.Err(), err)
		}
		*one.to = w.told()
	}
	// The answerer closes once it is free again: whoever asks next finds it so.
	_ = conn.SetReadDeadline(time.Now().Add(answerTime))
	_, _ = conn.Read(make([]byte, 1))
	return nil
}

// told returns what the API says of a direction.
func (w way) told() control.SpeedWay {
	t := control.SpeedWay{Bytes: w.bytes, Seconds: w.time.Seconds(), BPS: bits(w.bytes, w.time),
		Segments: w.segments, Retransmitted: w.retransmitted,
		Sent: w.sent, Received: w.received, Lost: w.sent - w.received}
	if w.rtt > 0 {
		t.RTTMS = words.Milliseconds(w.rtt)
	}
	if w.sent > 0 {
		t.Loss = float64(t.Lost) / float64(w.sent)
	}
	return t
}
