package user

import (
	"sync"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/udp"
)

// losses tells what the sockets have dropped for want of room from what the kernel refused there. A
// socket has one counter for both (sk_drops). The namespace has one of those for which there was no room,
// at the sockets of all programs, so the smaller of the two growths is it. Its methods may be called from
// any goroutine.
type losses struct {
	mu          sync.Mutex
	drops, full uint64 // as read last
	lost        dataplane.Lost
}

// begin makes what both have counted up to now an earlier meshd's.
func (l *losses) begin(drops, full uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drops, l.full = drops, full
}

// read takes readings of both counters, the sockets' one first, and returns the sums. The sockets' one goes
// on where sockets are replaced (endpoints.past). A reading that failed adds nothing.
func (l *losses) read(drops uint64, dropsErr error, full uint64, fullErr error) dataplane.Lost {
	l.mu.Lock()
	defer l.mu.Unlock()
	if dropsErr != nil || fullErr != nil {
		return l.lost
	}
	// Readers may overtake each other: a counter that seems to fall has not grown.
	grown, noRoom := max(drops, l.drops)-l.drops, max(full, l.full)-l.full
	l.drops, l.full = max(drops, l.drops), max(full, l.full)
	l.lost.Socket += min(grown, noRoom)
	l.lost.Refused += grown - min(grown, noRoom)
	return l.lost
}

// beginLosses has losses begin with sockets that were adopted, or with none.
func (u *Engine) beginLosses(adopted *endpoints) {
	drops, err := adopted.drops()
	full, fullErr := udp.NoRoom()
	if err == nil && fullErr == nil {
		u.losses.begin(drops, full)
	}
}

// readLosses reads what the sockets have dropped so far.
func (u *Engine) readLosses() dataplane.Lost {
	drops, err := u.open.Load().drops()
	full, fullErr := udp.NoRoom()
	return u.losses.read(drops, err, full, fullErr)
}
