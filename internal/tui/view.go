package tui

import (
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/tui/cell"
)

// What several screens ask a view for.

// sinceHeard is the time since the last snapshot. Our clock may have been set back.
func (v view) sinceHeard() time.Duration { return max(0, v.now.Sub(v.heard)) }

// daemonNow is the daemon's clock: that of the last snapshot and, as long as what
// that says is true, what went by since. Old data does not age; it is old.
func (v view) daemonNow() time.Time {
	if !v.live || v.paused {
		return v.status.Now
	}
	return v.status.Now.Add(v.sinceHeard())
}

// uptime is that of the daemon, as far as we know.
func (v view) uptime() time.Duration {
	told := time.Duration(v.status.UptimeSeconds * float64(time.Second))
	return told + v.daemonNow().Sub(v.status.Now)
}

// rate returns a peer's rate as far as it is true now; that of the node for "".
func (v view) rate(peer string) rate {
	if r, ok := v.rates[peer]; ok && v.live {
		return r
	}
	return noRate
}

// peer returns a peer of the snapshot by its name, which is unique in a file.
func (v view) peer(name string) (control.Peer, bool) {
	if v.status == nil {
		return control.Peer{}, false
	}
	p := peerOf(v.status, name)
	if p == nil {
		return control.Peer{}, false
	}
	return *p, true
}

// selected returns the peer under the cursor.
func (v view) selected() (control.Peer, bool) { return v.peer(v.cursor) }

// peerOf returns a peer of a status by its name; nil if there is none.
func peerOf(s *control.Status, name string) *control.Peer {
	for i := range s.Peers {
		if s.Peers[i].Name == name {
			return &s.Peers[i]
		}
	}
	return nil
}

// Z zeroes what this program shows. Everything that counts goes through the next three.

// counted returns a peer's counters since the view was zeroed. A peer that was not there
// then counts from its beginning.
func (v view) counted(p control.Peer) counters {
	c := sumOfPeer(&p)
	if v.base != nil {
		if was := peerOf(v.base, p.Name); was != nil {
			return c.less(sumOfPeer(was))
		}
	}
	return c
}

// dropsOf returns a peer's drops since the view was zeroed.
func (v view) dropsOf(p control.Peer) map[string]uint64 {
	if v.base != nil {
		if was := peerOf(v.base, p.Name); was != nil {
			return lessDrops(p.Drops, was.Drops)
		}
	}
	return p.Drops
}

// lessDrops returns what drops grew by. A counter that fell belongs to another run of the
// daemon; it is 0 and never wraps.
func lessDrops(now, was map[string]uint64) map[string]uint64 {
	rest := make(map[string]uint64, len(now))
	for reason, n := range now {
		rest[reason] = n - min(n, was[reason])
	}
	return rest
}

// faded makes lines faint while they are old, so that nothing old looks true. Colours go,
// too: a green "up" of five minutes ago is the most dangerous thing on this screen.
func (v view) faded(lines []cell.Line) []cell.Line {
	if v.live || v.status == nil {
		return lines
	}
	old := make([]cell.Line, len(lines))
	for i := range lines {
		old[i] = lines[i].As(cell.Dim)
	}
	return old
}

// neighbour is the peer some rows from the cursor; the cursor's own if there are no rows. It
// stops at the ends, where a list that went round would hide where it began.
func (v view) neighbour(by int) string {
	if len(v.rows) == 0 {
		return v.cursor
	}
	at := max(v.row(), 0) // a peer that is gone or filtered out has no row
	return v.rows[max(0, min(at+by, len(v.rows)-1))].Name
}
