package user

import (
	"net/netip"
	"sync"
	"syscall"
	"time"

	"example.org/meshd/internal/dataplane/udp"
	"example.org/meshd/internal/mesh"
)

var _ udp.Watcher = (*Engine)(nil)

// troubles keeps why datagrams do not reach peers: the last refusal and the last ICMP error of each. Its
// zero value is ready; its methods may be called at any time from any goroutine, and wait for arithmetic
// at most. Memory is bounded by the peers of the mesh: what is about others is not kept.
type troubles struct {
	mu sync.Mutex
	of map[netip.AddrPort]mesh.Trouble // by an address of a peer; only those that have some
}

// change updates the trouble with an address of a peer.
func (t *troubles) change(at netip.AddrPort, update func(*mesh.Trouble)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of == nil {
		t.of = map[netip.AddrPort]mesh.Trouble{}
	}
	one := t.of[at]
	update(&one)
	t.of[at] = one
}

// read returns the trouble of the peers of a mesh by name, and forgets that of others: also that with an
// address or a port which a peer no longer has.
func (t *troubles) read(f *forwarding) map[string]mesh.Trouble {
	t.mu.Lock()
	defer t.mu.Unlock()
	peers := map[string]mesh.Trouble{}
	for at, one := range t.of {
		if peer, listed := f.at(at); listed {
			peers[peer] = sum(peers[peer], one)
		} else {
			delete(t.of, at)
		}
	}
	return peers
}

// sum returns what two addresses of one peer have of trouble together: the counts of both, and all else
// of whichever was told last.
func sum(a, b mesh.Trouble) mesh.Trouble {
	refused, reported := a.Refused.Count+b.Refused.Count, a.Reported.Count+b.Reported.Count
	if b.Refused.Last.After(a.Refused.Last) {
		a.Refused = b.Refused
	}
	if b.Reported.Last.After(a.Reported.Last) {
		a.Reported = b.Reported
	}
	a.Refused.Count, a.Reported.Count = refused, reported
	return a
}

// at returns the name of the peer that listens at an address of the underlay.
func (f *forwarding) at(to netip.AddrPort) (peer string, ok bool) {
	i := f.table.Sender(to.Addr())
	if i < 0 || i == f.self || f.peers[i].target(to) == nil {
		return "", false
	}
	return f.table.Name(i), true
}

// Refused implements udp.Watcher.
func (u *Engine) Refused(to netip.AddrPort, why syscall.Errno) {
	if _, ok := u.mesh.Load().at(to); ok {
		now := time.Now()
		u.troubles.change(to, func(t *mesh.Trouble) {
			row := t.Refused.InARow
			if now.Sub(t.Refused.Last) > mesh.TroubleLasts {
				row = 0
			}
			t.Refused = mesh.Refusal{Address: to, Errno: uint32(why), Cause: why.Error(),
				Count: t.Refused.Count + 1, InARow: row + 1, Last: now}
		})
	}
}

// Reported implements udp.Watcher. A report may be forged, so it changes nothing but what is told. One
// that is about no peer's port is certainly not about what was sent.
func (u *Engine) Reported(e udp.PathError) {
	means := mesh.MeaningOf(e.Type, e.Code, e.To.Addr().Is6())
	peer, ok := u.mesh.Load().at(e.To)
	switch {
	case !ok || means == mesh.OtherError:
		return
	case means == mesh.TooLarge:
		if u.options.Doubt != nil {
			u.options.Doubt(peer)
		}
		return
	}
	now := time.Now()
	u.troubles.change(e.To, func(t *mesh.Trouble) {
		t.Reported = mesh.PathError{
			Address: e.To, Means: means, Offender: e.Offender, Count: t.Reported.Count + 1, Last: now}
	})
}
