package user

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/mesh"
)

// strangersKept is how many strangers are remembered. A flood from forged addresses pushes others out;
// one that goes on sending comes back with its next packet.
const strangersKept = 8

// strangers are the last ones who sent what this node does not accept. They take the same memory whatever
// arrives. The zero value is ready; methods may be called at any time from any goroutine, and wait for
// arithmetic at most.
type strangers struct {
	mu   sync.Mutex
	last [strangersKept]mesh.Stranger // unordered; an entry without packets is free
}

// note counts a packet from an outer source. Address, reason and peer tell strangers apart; the inner
// addresses do not, since one sender could otherwise push all others out by choosing them.
func (s *strangers) note(source netip.Addr, reason mesh.Drop, peer string, b []byte, now time.Time) {
	h, _ := packet.Parse(b) // else both addresses are invalid: that is told, too
	s.mu.Lock()
	defer s.mu.Unlock()
	oldest := 0
	for i := range s.last {
		one := &s.last[i]
		if one.Address == source && one.Reason == reason && one.Peer == peer && one.Packets > 0 {
			one.Packets++
			one.InnerSource, one.InnerDestination, one.Last = h.Src, h.Dst, now
			return
		}
		if one.Last.Before(s.last[oldest].Last) {
			oldest = i
		}
	}
	s.last[oldest] = mesh.Stranger{Address: source, Reason: reason, Peer: peer,
		InnerSource: h.Src, InnerDestination: h.Dst, Packets: 1, Last: now}
}

// read returns the strangers, the one that sent last first.
func (s *strangers) read() []mesh.Stranger {
	s.mu.Lock()
	all := slices.DeleteFunc(slices.Clone(s.last[:]), func(one mesh.Stranger) bool { return one.Packets == 0 })
	s.mu.Unlock()
	slices.SortStableFunc(all, func(a, b mesh.Stranger) int { return b.Last.Compare(a.Last) })
	return all
}
