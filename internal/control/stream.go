package control

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// What readers of endless answers cost at most.
const (
	maxReaders     = 16
	readerPatience = 5 * time.Second        // for a client that does not read, or does not send
	minInterval    = 100 * time.Millisecond // between snapshots
	maxInterval    = time.Hour
	defInterval    = time.Second
)

// Watched is one line of GET /v1/watch: a hello, then snapshots and events. Seq counts snapshots
// that were due and events that happened, so a reader that was too slow finds numbers missing.
type Watched struct {
	Type   string  `json:"type"` // "hello", "snapshot", "changes", "event"
	Seq    uint64  `json:"seq"`
	Hello  *Hello  `json:"hello,omitempty"`
	Status *Status `json:"status,omitempty"` // of a snapshot
	Event  *Event  `json:"event,omitempty"`
	// Changes stand in the place of a snapshot, for a reader that asked for changes=1.
	Changes *Changes `json:"changes,omitempty"`
}

// Check returns an error with ErrMismatch in it for a line of another API.
func (w Watched) Check() error {
	if w.Hello != nil {
		return mismatch(nil, w.Hello.Schema)
	}
	if w.Status != nil {
		return mismatch(nil, w.Status.Schema)
	}
	return nil
}

// Hello is the first line of GET /v1/watch.
type Hello struct {
	Schema     int    `json:"schema"`
	Node       string `json:"node"`
	Version    string `json:"version"`
	BootID     string `json:"boot_id"`
	IntervalMS int64  `json:"interval_ms"` // between snapshots
}

// stream is an endless answer to one reader, a line of JSON after the other.
type stream struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

// streams bounds how many endless answers there are.
type streams chan struct{}

// begin returns a stream, or answers that there are too many and returns nil. The caller calls
// end when the stream is over.
func (s streams) begin(w http.ResponseWriter) (out *stream, end func()) {
	select {
	case s <- struct{}{}:
	default:
		why := fmt.Sprintf("%d readers are following already: end one of them", maxReaders)
		fail(w, http.StatusServiceUnavailable, "too_many_readers", why)
		return nil, nil
	}
	return streamTo(w), func() { <-s }
}

// streamTo returns a stream that counts nowhere: one that ends by itself.
func streamTo(w http.ResponseWriter) *stream {
	w.Header().Set("Content-Type", "application/x-ndjson")
	return &stream{w, http.NewResponseController(w)}
}

// line writes a value. A reader that takes none of it for readerPatience is cut off by the error.
func (s *stream) line(v any) error {
	b, err := marshal(v)
	if err != nil {
		return err
	}
	return s.raw(b)
}

// raw writes whole lines, likewise.
func (s *stream) raw(b []byte) error {
	if err := s.rc.SetWriteDeadline(time.Now().Add(readerPatience)); err != nil {
		return err
	}
	if _, err := s.w.Write(b); err != nil {
		return err
	}
	return s.rc.Flush()
}

// events serves GET /v1/events. A slow reader costs its own events only: those that it has not read
// when EventsKept newer ones have come are gone, and their numbers are missing.
func (a *api) events(w http.ResponseWriter, r *http.Request) {
	seq, err := number(r, "since", 0)
	if err != nil {
		fail(w, http.StatusBadRequest, "bad_request", err.Error())
		return
	}
	out := streamTo(w)
	follow, _ := strconv.ParseBool(r.URL.Query().Get("follow"))
	if follow {
		var end func()
		if out, end = a.followers.begin(w); out == nil {
			return
		}
		defer end()
	}
	for {
		events, more := a.source.Events.Since(seq)
		var b []byte
		for _, e := range events {
			// All at once: the first answer may have 2000 lines, and each write flushes.
			line, _ := marshal(e) // strings and numbers
			b, seq = append(b, line...), e.Seq
		}
		if out.raw(b) != nil || !follow {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-more:
		}
	}
}

// number returns a number of a query, def if it is not given.
func number(r *http.Request, name string, def uint64) (uint64, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return def, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s must be a number, not %q", name, text)
	}
	return n, nil
}

// watch serves GET /v1/watch. With changes=1 all snapshots but the first are Changes. A reader that
// reads slowly misses snapshots, since each is made after the one before has been read.
func (a *api) watch(w http.ResponseWriter, r *http.Request) {
	interval := defInterval
	if text := r.URL.Query().Get("interval"); text != "" {
		var err error
		interval, err = time.ParseDuration(text)
		if err != nil || interval < minInterval || interval > maxInterval {
			why := fmt.Sprintf("interval must be %v to %v, not %q", minInterval, maxInterval, text)
			fail(w, http.StatusBadRequest, "bad_request", why)
			return
		}
	}
	since, err := number(r, "since", a.source.Events.Last())
	if err != nil {
		fail(w, http.StatusBadRequest, "bad_request", err.Error())
		return
	}
	out, end := a.followers.begin(w)
	if out == nil {
		return
	}
	defer end()
	changes, _ := strconv.ParseBool(r.URL.Query().Get("changes"))
	reader := watcher{out: out, events: a.source.Events, last: since, interval: interval, changes: changes,
		figures: figuresNamed(r.URL.Query().Get("figures"))}
	reader.follow(r.Context(), a.snapshots)
}

// A watcher is one reader of GET /v1/watch.
type watcher struct {
	out      *stream
	events   *Events
	interval time.Duration
	seq      uint64 // of the line that was written last
	last     uint64 // event that was told last

	changes bool     // after the first snapshot the reader wants changes only
	figures []figure // of these, those that the reader wants in lists
	sent    *Status  // what the reader knows; nil before the first snapshot, and without changes
	sentSeq uint64   // of its line
}

// follow writes until the reader is gone. An event does not wait for a snapshot that is being
// made: if the Source is stuck, the events may say why.
func (v *watcher) follow(ctx context.Context, snapshots *shared[snapshot]) {
	first, err := snapshots.since(ctx, time.Now())
	if err != nil || v.hello(first) != nil || v.snapshot(first) != nil {
		return
	}
	began, due := time.Now(), uint64(0) // snapshots that were due, also those left out
	var next *flight[snapshot]          // being made; nil until it is due
	var young func(*flight[snapshot]) bool
	for {
		more, err := v.tell()
		if err != nil {
			return
		}
		var tick <-chan time.Time
		var landed <-chan struct{}
		if next == nil {
			tick = time.After(time.Until(began.Add(time.Duration(due+1) * v.interval)))
		} else {
			landed = next.done
		}
		select {
		case <-ctx.Done():
			return
		case <-more:
		case <-tick:
			// By the clock, and not one more than last time: a reader that was slow gets the newest snapshot,
			// not all that it missed.
			now := uint64(time.Since(began) / v.interval)
			v.seq += now - due - 1 // the reader sees how many it missed
			due = now
			// Watchers whose snapshots are due at nearly the same time share one.
			moment := time.Now().Add(-v.interval / 2)
			young = func(f *flight[snapshot]) bool { return !f.began.Before(moment) }
			next = snapshots.current(young)
		case <-landed:
			// A flight that another reader started earlier may be what current returned; one more is made
			// then.
			if !young(next) {
				next = snapshots.current(young)
				continue
			}
			s, err := next.wait(ctx)
			if err != nil || v.snapshot(s) != nil {
				return
			}
			next = nil
		}
	}
}

// hello writes the first line.
func (v *watcher) hello(s snapshot) error {
	v.seq++
	return v.out.line(Watched{Type: "hello", Seq: v.seq, Hello: &Hello{
		Schema: Schema, Node: s.Node, Version: s.Version, BootID: s.BootID,
		IntervalMS: v.interval.Milliseconds(),
	}})
}

// snapshot writes what there is to know, or what has changed. The JSON of a whole status is shared by all
// watchers: with 10,000 peers it is 5 MB.
func (v *watcher) snapshot(s snapshot) error {
	v.seq++
	if v.changes {
		before, since := v.sent, v.sentSeq
		v.sent, v.sentSeq = &s.Status, v.seq
		if before != nil {
			c, err := differences(before, &s.Status, since, v.figures)
			if err != nil {
				return err
			}
			return v.out.line(Watched{Type: "changes", Seq: v.seq, Changes: c})
		}
	}
	return v.out.raw(fmt.Appendf(nil, "{\"type\":\"snapshot\",\"seq\":%d,\"status\":%s}\n", v.seq,
		bytes.TrimSpace(s.line())))
}

// tell writes the events that are new to this reader, and returns a channel that is closed when
// there are more.
func (v *watcher) tell() (more <-chan struct{}, err error) {
	fresh, more := v.events.Since(v.last)
	for _, e := range fresh {
		v.seq += e.Seq - v.last // more than one if events were forgotten before they were read
		v.last = e.Seq
		if err := v.out.line(Watched{Type: "event", Seq: v.seq, Event: &e}); err != nil {
			return nil, err
		}
	}
	return more, nil
}
