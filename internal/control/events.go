package control

import (
	"sync"
	"time"
)

// EventsKept is how many events a daemon remembers.
const EventsKept = 2000

// Event is one thing that happened, as the log has it too.
type Event struct {
	Seq     uint64            `json:"seq"` // from 1 for each run of the daemon
	At      time.Time         `json:"at"`
	Level   string            `json:"level"`           // "info", "warn", "error"
	Kind    string            `json:"kind"`            // "peer_down"; see docs/api.md
	Peer    string            `json:"peer,omitempty"`  // whom it is about, if it is about one
	Message string            `json:"message"`         // for people
	Fields  map[string]string `json:"fields,omitzero"` // what else is known
}

// Events remembers what happened last. Its methods may be called at any time from
// any goroutine, and none waits for a reader.
type Events struct {
	mu    sync.Mutex
	last  uint64        // seq of the newest event
	ring  []Event       // the event seq stands at (seq-1) % EventsKept
	grown chan struct{} // closed and replaced when an event comes
}

// NewEvents returns Events without any.
func NewEvents() *Events { return &Events{grown: make(chan struct{})} }

// Add remembers e under the next Seq, in the place of the oldest one if there are
// EventsKept.
func (l *Events) Add(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	e.Seq = l.last
	if len(l.ring) < EventsKept {
		l.ring = append(l.ring, e)
	} else {
		l.ring[(e.Seq-1)%EventsKept] = e
	}
	close(l.grown)
	l.grown = make(chan struct{})
}

// Last returns the seq of the newest event, 0 if there is none yet.
func (l *Events) Last() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// Since returns the events after seq that are still remembered, oldest first, and a
// channel that is closed when there are more.
func (l *Events) Since(seq uint64) (events []Event, more <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last > EventsKept {
		seq = max(seq, l.last-EventsKept)
	}
	for ; seq < l.last; seq++ {
		events = append(events, l.ring[seq%EventsKept])
	}
	return events, l.grown
}
