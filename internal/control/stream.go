package control

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// What readers of endless answers cost at most.
const (
	maxReaders     = 16
	readerPatience = 5 * time.Second        // for a reader that does not read
	minInterval    = 100 * time.Millisecond // of snapshots
	maxInterval    = time.Hour
	defInterval    = time.Second
)

// Watched is one line of GET /v1/watch: a hello, then snapshots and events. Seq
// counts what there was to tell; a reader that was too slow finds numbers missing.
type Watched struct {
	Type   string  `json:"type"` // "hello", "snapshot", "event"
	Seq    uint64  `json:"seq"`
	Hello  *Hello  `json:"hello,omitempty"`
	Status *Status `json:"status,omitempty"` // of a snapshot
	Event  *Event  `json:"event,omitempty"`
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

// stream is an endless answer to one reader: a line of JSON for each thing there is
// to tell.
type stream struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

// streams bounds how many there are.
type streams chan struct{}

// begin returns a stream, or answers that there are too many and returns nil. end
// must be called when it is over.
func (s streams) begin(w http.ResponseWriter) (out *stream, end func()) {
	select {
	case s <- struct{}{}:
	default:
		fail(w, http.StatusServiceUnavailable, "too_many_readers", fmt.Sprintf("%d readers follow already: end one of them", maxReaders))
		return nil, nil
	}
	return streamTo(w), func() { <-s }
}

func streamTo(w http.ResponseWriter) *stream {
	w.Header().Set("Content-Type", "application/x-ndjson")
	return &stream{w, http.NewResponseController(w)}
}

// line writes one; a reader that takes none of it for readerPatience is cut off by
// the error.
func (s *stream) line(v any) error {
	b, err := marshal(v)
	if err != nil {
		return err
	}
	return s.raw(b)
}

func (s *stream) raw(b []byte) error {
	if err := s.rc.SetWriteDeadline(time.Now().Add(readerPatience)); err != nil {
		return err
	}
	if _, err := s.w.Write(b); err != nil {
		return err
	}
	return s.rc.Flush()
}

// eventsHandler serves GET /v1/events.
func eventsHandler(source Source, all streams) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		seq, err := number(r, "since", 0)
		if err != nil {
			fail(w, http.StatusBadRequest, "bad_request", err.Error())
			return
		}
		out := streamTo(w)
		follow, _ := strconv.ParseBool(r.URL.Query().Get("follow"))
		if follow {
			var end func()
			if out, end = all.begin(w); out == nil {
				return
			}
			defer end()
		}
		for {
			events, more := source.Events.Since(seq)
			var b []byte
			for _, e := range events {
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
}

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

// watchHandler serves GET /v1/watch. Whoever reads slowly misses snapshots, since
// each is made when the last one has gone.
func watchHandler(source Source, all streams) http.HandlerFunc {
	statuses := &snapshots{status: source.Status}
	return func(w http.ResponseWriter, r *http.Request) {
		interval := defInterval
		if text := r.URL.Query().Get("interval"); text != "" {
			var err error
			if interval, err = time.ParseDuration(text); err != nil || interval < minInterval || interval > maxInterval {
				fail(w, http.StatusBadRequest, "bad_request", fmt.Sprintf("interval must be %v to %v, not %q", minInterval, maxInterval, text))
				return
			}
		}
		since, err := number(r, "since", source.Events.Last())
		if err != nil {
			fail(w, http.StatusBadRequest, "bad_request", err.Error())
			return
		}
		out, end := all.begin(w)
		if out == nil {
			return
		}
		defer end()
		watch(r.Context(), source.Events, since, statuses, out, interval)
	}
}

// watch writes until the reader is gone; events after seq last are told.
func watch(ctx context.Context, events *Events, last uint64, statuses *snapshots, out *stream, interval time.Duration) {
	status, line := statuses.get(0)
	var seq uint64 = 1
	err := out.line(Watched{Type: "hello", Seq: seq, Hello: &Hello{
		Schema: Schema, Node: status.Node, Version: status.Version, BootID: status.BootID, IntervalMS: interval.Milliseconds()}})
	began, told := time.Now(), uint64(0) // snapshots, also those left out
	for err == nil {
		seq++
		err = out.raw(fmt.Appendf(nil, "{\"type\":\"snapshot\",\"seq\":%d,\"status\":%s}\n", seq, bytes.TrimSpace(line)))
		for next := false; err == nil && !next; {
			fresh, more := events.Since(last)
			for _, e := range fresh {
				seq += e.Seq - last
				last = e.Seq
				if err = out.line(Watched{Type: "event", Seq: seq, Event: &e}); err != nil {
					return
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-more:
			case <-time.After(time.Until(began.Add(time.Duration(told+1) * interval))):
				now := uint64(time.Since(began) / interval)
				seq += now - told - 1
				told, next = now, true
			}
		}
		_, line = statuses.get(interval / 2)
	}
}

// snapshots makes statuses for all watchers, one at a time.
type snapshots struct {
	status func() Status

	mu   sync.Mutex
	at   time.Time
	last Status
	line []byte
}

// get returns a status that is no older than age, and its JSON.
func (s *snapshots) get(age time.Duration) (Status, []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.line == nil || time.Since(s.at) > age {
		s.at = time.Now()
		s.last = s.status()
		s.line, _ = marshal(s.last) // strings and numbers
	}
	return s.last, s.line
}
