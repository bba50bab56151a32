package control

import (
	"sync"
	"time"
)

// EventsKept is how many events a daemon remembers.
const EventsKept = 2000

// Event is one thing that happened. The log has it, too.
type Event struct {
	Seq     uint64            `json:"seq"` // from 1 for each run of the daemon
	At      time.Time         `json:"at"`
	Level   string            `json:"level"`           // "info", "warn", "error"
	Kind    string            `json:"kind"`            // "peer_down": docs/events.md; never renamed
	Peer    string            `json:"peer,omitempty"`  // the peer that it is about; empty: this node
	Message string            `json:"message"`         // for people; programs read Kind and Fields
	Fields  map[string]string `json:"fields,omitzero"` // details, by the log's keys
}

// Events remembers the last EventsKept events. Its methods may be called at any time from any
// goroutine. None waits for a reader, since the packet story logs events, too.
type Events struct {
	mu    sync.Mutex
	last  uint64        // seq of the newest event
	ring  []Event       // the event with number seq is at (seq-1) % EventsKept
	grown chan struct{} // closed and replaced with each new event, which wakes all readers
}

// NewEvents returns Events that remember nothing yet.
func NewEvents() *Events { return &Events{grown: make(chan struct{})} }

// Add remembers e under the next Seq. If there are EventsKept events it replaces the oldest.
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

// Since returns the events after seq that are still remembered, oldest first, and a channel that
// is closed when there are more. The caller owns the slice; nobody may change the events' Fields.
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
