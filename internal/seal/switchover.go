package seal

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// This file knows who encrypts while a mesh goes from bare packets to encrypted ones, host by host:
//
//	prepared  this node sends bare, and could encrypt; probes go where the peer sends its own
//	sealed    this node sends encrypted packets alone
//	lagging   a peer of a sealed node that still sends bare ones, which are taken
//
// A peer says inside the tunnel that it is sealed (probe.Sealed), so that no other host can say so.

const (
	// lagMost is how long bare packets of a peer are taken after the switch of this node.
	lagMost = 10 * time.Minute
	// grace is how long they are after the peer has said that it is sealed: those that it sent before may be
	// on their way, and wait in a socket.
	grace = time.Second
	// goneBack is how much younger than its last word a bare packet of a peer has to be, until the peer counts
	// as one that sends bare again. What was on its way is younger by less.
	goneBack = 5 * time.Second
)

// A switchover is what is known of that. The zero value knows nothing. Its methods may be called from any
// goroutine, and never wait.
type switchover struct {
	mu      sync.Mutex
	said    map[string]time.Time // when a peer has said last that it is sealed
	lagging map[string]time.Time // until when bare packets of a peer are taken
}

// says notes what a peer has said inside the tunnel.
func (s *switchover) says(peer string, sealed bool, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !sealed {
		delete(s.said, peer)
		return
	}
	if s.said == nil {
		s.said = map[string]time.Time{}
	}
	s.said[peer] = now
	if until, lags := s.lagging[peer]; lags && until.After(now.Add(grace)) {
		s.lagging[peer] = now.Add(grace)
	}
}

// inside tells whether a peer is sealed, as far as it has said so. bare is when the last bare packet of a
// peer came: it may ask the kernel, which costs much for all of thousands of peers, and is not called for
// those that have said nothing.
func (s *switchover) inside(peer string, bare func(peer string) time.Time) bool {
	s.mu.Lock()
	at, said := s.said[peer]
	s.mu.Unlock()
	return said && bare(peer).Sub(at) < goneBack
}

// begin notes that this node is sealed from now on, and returns the peers that lag: those that have not said
// that they are sealed, or have sent a bare packet since. bare is when the last one of a peer came.
func (s *switchover) begin(peers []string, bare func(peer string) time.Time, now time.Time) (lag []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lagging = map[string]time.Time{}
	for _, name := range peers {
		if at, said := s.said[name]; !said || bare(name).Sub(at) > grace {
			delete(s.said, name)
			s.lagging[name], lag = now.Add(lagMost), append(lag, name)
		}
	}
	return lag
}

// end forgets those that lag no more, and returns those of them that have followed, and those that have not.
func (s *switchover) end(now time.Time) (followed, late []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, until := range s.lagging {
		if now.Before(until) {
			continue
		}
		delete(s.lagging, name)
		if _, said := s.said[name]; said {
			followed = append(followed, name)
		} else {
			late = append(late, name)
		}
	}
	slices.Sort(followed)
	slices.Sort(late)
	return followed, late
}

// cancel has no peer lag, and returns those that did.
func (s *switchover) cancel() (lagged []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lagged = slices.Sorted(maps.Keys(s.lagging))
	s.lagging = nil
	return lagged
}

// keep forgets peers that are not among some: one that comes back is a new one.
func (s *switchover) keep(peers map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gone := func(name string, _ time.Time) bool { return !peers[name] }
	maps.DeleteFunc(s.said, gone)
	maps.DeleteFunc(s.lagging, gone)
}

// lag returns the peers that lag; nil if none does.
func (s *switchover) lag() map[string]time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lagging) == 0 {
		return nil
	}
	return maps.Clone(s.lagging)
}
