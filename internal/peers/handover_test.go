package peers_test

import (
	"slices"
	"testing"
	"time"

	"example.org/meshd/internal/peers"
)

// A moment is a time after noon at which a peer is looked at, and what follows.
type moment struct {
	second       int
	socket, left int // when the peer was heard, and left to the socket, seconds after noon; -1: never
	state        peers.State
	bySocket     bool
	refused      bool
}

// Where no probe comes in, the host's own rules decide about data.
func TestHandover(t *testing.T) {
	for name, course := range map[string][]moment{
		"a firewall drops what the peer sends": {
			{1, 1, 1, peers.Up, false, false},
			{3, 1, 3, peers.Stale, false, false}, // a moment without packets is nothing yet
			{4, 1, 4, peers.Stale, true, true},
			{14, 1, 14, peers.Down, true, true},
			{99, 1, 14, peers.Down, true, true},
			{100, 100, 100, peers.Up, false, false}, // the rule is gone
		},
		"the peer's host is off": {
			{4, 1, 1, peers.Stale, true, false},
			{14, 1, 1, peers.Down, true, false}, // so that a forged datagram goes to the socket, too
		},
		"meshd of the peer is stopped, and its programs send on": {
			{4, 1, 1, peers.Stale, true, false}, // the trial
			{5, 5, 5, peers.Down, false, false},
			{14, 5, 5, peers.Down, false, false},
			{15, 5, 5, peers.Down, true, false}, // the next: a rule may have come
			{16, 16, 16, peers.Down, false, false},
			{20, 20, 20, peers.Up, false, false},
		},
		"then a firewall drops it": {
			{4, 1, 1, peers.Stale, true, false},
			{5, 5, 5, peers.Down, false, false},
			{15, 5, 5, peers.Down, true, false},
			{16, 5, 16, peers.Down, true, true},
			{60, 5, 60, peers.Down, true, true},
		},
		"the peer does not hear us, and asks itself": {
			{4, 4, 4, peers.Stale, false, false},
			{14, 13, 13, peers.Down, false, false},
		},
		"the peer was never there": {
			{1, -1, -1, peers.Unknown, false, false},
			{11, -1, -1, peers.Down, true, false},
		},
		"the peer was never heard, and sends": {
			{1, -1, 1, peers.Unknown, false, false},
			{11, -1, 11, peers.Down, true, true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := peers.New()
			for _, m := range course {
				now := noon.Add(time.Duration(m.second) * time.Second)
				heard := peers.Heard{Socket: after(m.socket), Left: after(m.left)}
				d, _ := r.Report("a", func(f *peers.Facts) { f.Asked, f.State = true, m.state })
				heed := func() []int { return r.Heed(now, []string{"nobody", "a"}, []peers.Heard{{}, heard}) }
				if changed := heed(); len(changed) > 0 {
					d, _ = r.Report("a", func(f *peers.Facts) { f.Hear(now, heard) })
				}
				if changed := heed(); len(changed) > 0 {
					t.Errorf("after %d s: it is to be decided again: %v", m.second, changed)
				}
				if refused := slices.Contains(r.Refused(), "a"); d.InBySocket != m.bySocket || refused != m.refused {
					t.Errorf("after %d s: by the socket %v, refused %v", m.second, d.InBySocket, refused)
				}
			}
		})
	}
}

// after returns a time some seconds after noon; zero for -1.
func after(seconds int) time.Time {
	if seconds < 0 {
		return time.Time{}
	}
	return noon.Add(time.Duration(seconds) * time.Second)
}

// An answer ends the handover at once, whoever looks at the peer next. Peers that are not asked are
// never handed over, and answering peers cost nothing.
func TestHandoverEnds(t *testing.T) {
	r := peers.New()
	down := func(f *peers.Facts) { f.Asked, f.State = true, peers.Down; f.Hear(noon, peers.Heard{}) }
	report(t, r, "a", down, peers.Directive{InBySocket: true}, true)
	if got := r.Unheard(); !slices.Equal(got, []string{"a"}) {
		t.Errorf("%q", got)
	}
	report(t, r, "a", isUp, peers.Directive{}, true)
	report(t, r, "a", func(f *peers.Facts) { f.Hear(noon, peers.Heard{}) }, peers.Directive{}, false)
	report(t, r, "b", isUp, peers.Directive{}, true)
	if got := r.Unheard(); len(got) > 0 {
		t.Errorf("still looked at: %q", got)
	}
	report(t, r, "a", down, peers.Directive{InBySocket: true}, true)
	report(t, r, "a", func(f *peers.Facts) { f.Asked = false }, peers.Directive{}, true)
}
