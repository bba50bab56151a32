// Package history remembers what was counted: of each peer and of the node, in steps of three spans
// of time. It is pure but for its lock: its owner reads the counters and tells the time.
package history

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/probe"
)

// span is a time that is remembered in steps.
type span struct {
	name   string
	step   time.Duration
	points int
}

// spans are in the order of what a series remembers.
var spans = [3]span{
	{"5m", time.Second, 300},
	{"1h", 10 * time.Second, 360},
	{"24h", 2 * time.Minute, 720},
}

// historyKept bounds how many peers are remembered, and with them the memory of them
// all: one takes 39 kB after a day. In a larger mesh it is those that are busy.
const (
	historyKept = 1000
	historyIdle = time.Minute // after which a busy peer may take the place of an idle one
)

// Counts is what the counters of a reading are of.
type Counts uint8

// The kinds.
const (
	Inner    Counts = iota // inner packets, and their bytes
	Messages               // bytes of WireGuard's messages; packets are not counted
	Nothing                // neither is counted
)

// Reading is what there is to know of a peer, or of the node, at one time. Counters only grow, and those of
// messages begin anew with the interface of WireGuard.
type Reading struct {
	Counts                                        Counts
	RxPackets, RxBytes, TxPackets, TxBytes, Drops uint64
	RTT, Loss                                     float64 // ms, and 0 to 1; NaN if unknown
}

// Of returns the reading of traffic, whose round trip time and loss are not known. sealed tells that packets
// travel encrypted.
func Of(t mesh.Traffic, sealed bool) Reading {
	r := Reading{RxPackets: t.RxPackets, RxBytes: t.RxBytes,
		TxPackets: t.TxPackets, TxBytes: t.TxBytes, Drops: t.Dropped(),
		RTT: math.NaN(), Loss: math.NaN()}
	if sealed {
		r.Counts, r.RxBytes, r.TxBytes = Nothing, t.Messages.Rx, t.Messages.Tx
	}
	if sealed && t.Messages.Known {
		r.Counts = Messages
	}
	return r
}

// Probed adds what probes say of a peer.
func (r *Reading) Probed(g probe.Glance) {
	if g.Probes == 0 {
		return
	}
	if r.Loss = g.Loss; g.LastAnswered {
		r.RTT = float64(g.Last.Microseconds()) / 1000
	}
}

// traffic changes whenever anything happened to the peer's packets; it tells the busy from the idle.
func (r Reading) traffic() uint64 {
	return r.RxPackets + r.RxBytes + r.TxPackets + r.TxBytes + r.Drops
}

// point is what happened in one step; rtt is the mean in it, loss that at its end.
// float32 halves the memory, and 24 bits are more than a chart or a rate shows.
type point struct{ rxPackets, rxBytes, txPackets, txBytes, drops, rtt, loss float32 }

// since returns what happened from an earlier reading to this one, in each of n
// steps. What was not counted all the time, or of the same things, is NaN: a zero would say that nothing
// happened.
func (r Reading) since(was Reading, n int) point {
	unknown := float32(math.NaN())
	each := func(now, before uint64, counted bool) float32 {
		if !counted || now < before {
			return unknown
		}
		return float32(float64(now-before) / float64(n))
	}
	packets := r.Counts == Inner && was.Counts == Inner
	bytes := r.Counts == was.Counts && r.Counts != Nothing
	return point{
		each(r.RxPackets, was.RxPackets, packets), each(r.RxBytes, was.RxBytes, bytes),
		each(r.TxPackets, was.TxPackets, packets), each(r.TxBytes, was.TxBytes, bytes),
		each(r.Drops, was.Drops, true), float32(r.RTT), float32(r.Loss),
	}
}

// series is what is remembered of a peer in one span: it grows until it is full.
type series struct {
	points  []point
	next    int // to be overwritten, once full
	last    Reading
	rttSum  float64 // of the readings in this step
	rttSeen int
}

// add ends n steps.
func (s *series) add(now Reading, n, room int) {
	now.RTT = s.rttSum / float64(s.rttSeen) // NaN if none
	// After a pause, as of a suspended host, n steps end at once: each gets its share, so that sums
	// stay true and no peak is shown that there was not.
	p := now.since(s.last, n)
	for range min(n, room) {
		if len(s.points) < room {
			if len(s.points) == cap(s.points) { // append would make too much room
				s.points = append(make([]point, 0, min(max(16, 2*len(s.points)), room)), s.points...)
			}
			s.points = append(s.points, p)
			continue
		}
		s.points[s.next] = p
		s.next = (s.next + 1) % room
	}
	s.last, s.rttSum, s.rttSeen = now, 0, 0
}

// oldestFirst returns the points in the order of time.
func (s *series) oldestFirst() []point { return slices.Concat(s.points[s.next:], s.points[:s.next]) }

// remembered is what is kept of a peer.
type remembered struct {
	spans [len(spans)]series
	total uint64    // traffic at the last reading
	busy  time.Time // when there was some last
}

// newRemembered starts with a first reading: what was counted before it belongs to no step.
func newRemembered(first Reading, now time.Time) *remembered {
	r := &remembered{total: first.traffic(), busy: now}
	for i := range r.spans {
		r.spans[i].last = first
	}
	return r
}

// History remembers what was counted, by peer. Its zero value is ready. Methods may be called at any time
// from any goroutine.
type History struct {
	mu     sync.Mutex
	ends   [len(spans)]time.Time // of the last step
	node   *remembered
	lost   lost    // by the node
	places []place // of the peers of the last Take, in their order
	kept   int     // how many of them are remembered
}

// Peer is a reading of a peer.
type Peer struct {
	Name string
	Reading
}

// Node is a reading of the node.
type Node struct {
	Reading
	Lost map[string]uint64 // Drops by reason; they only grow
}

// place is what History has for one peer.
type place struct {
	name  string
	kept  *remembered // nil: there is no room
	total uint64      // traffic at the last reading, of a peer for which there is no room
	seen  bool        // total is known
}

// Take adds a reading; it is called about once a second. The readings are of all peers that there are, each
// once; it costs least if they come in the same order each time. Take does not keep the slice.
func (h *History) Take(now time.Time, node Node, peers []Peer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.node == nil {
		h.node = newRemembered(node.Reading, now)
		for i := range h.ends {
			h.ends[i] = now
		}
	}
	h.arrange(peers)
	var steps [len(spans)]int
	for i, s := range spans {
		steps[i] = int(now.Sub(h.ends[i]) / s.step)
		// By whole steps, and not to now: else each step would begin late, and an hour would not have 360.
		h.ends[i] = h.ends[i].Add(time.Duration(steps[i]) * s.step)
	}
	h.node.take(now, node.Reading, steps)
	h.lost.take(now, node.Lost, steps)
	for i := range peers {
		one := &h.places[i]
		if one.kept == nil {
			h.admit(one, peers[i].Reading, now)
		}
		if one.kept != nil {
			one.kept.take(now, peers[i].Reading, steps)
		}
	}
}

// arrange gives each peer its place. A peer that left the file is forgotten at once, also if there was no
// room for it: names come and go for months. One of the same name that comes later is another.
func (h *History) arrange(peers []Peer) {
	same := func(at place, p Peer) bool { return at.name == p.Name }
	if slices.EqualFunc(h.places, peers, same) { // as nearly always
		return
	}
	before := make(map[string]place, len(h.places))
	for _, one := range h.places {
		before[one.name] = one
	}
	h.places, h.kept = make([]place, len(peers)), 0
	for i, p := range peers {
		h.places[i] = before[p.Name]
		h.places[i].name = p.Name
		if h.places[i].kept != nil {
			h.kept++
		}
	}
}

// take adds a reading, and ends those steps that are over in each span.
func (r *remembered) take(now time.Time, reading Reading, steps [len(spans)]int) {
	if total := reading.traffic(); total != r.total {
		r.total, r.busy = total, now
	}
	for i := range r.spans {
		s := &r.spans[i]
		if !math.IsNaN(reading.RTT) {
			s.rttSum += reading.RTT
			s.rttSeen++
		}
		if steps[i] > 0 {
			s.add(reading, steps[i], spans[i].points)
		}
	}
}

// admit begins to remember a peer. Where there is no room, a busy peer takes that of one that is idle.
func (h *History) admit(one *place, r Reading, now time.Time) {
	if h.kept >= historyKept {
		// Only a peer whose traffic grew since its last reading is worth a place.
		grew := one.seen && one.total != r.traffic()
		one.total, one.seen = r.traffic(), true
		if !grew || !h.makeRoom(now) {
			return
		}
	}
	h.kept++
	*one = place{name: one.name, kept: newRemembered(r, now)}
}

// makeRoom forgets the peer that has been idle the longest, if it was for long.
func (h *History) makeRoom(now time.Time) bool {
	var idlest *place
	since := now.Add(-historyIdle)
	for i := range h.places {
		if one := &h.places[i]; one.kept != nil && one.kept.busy.Before(since) {
			idlest, since = one, one.kept.busy
		}
	}
	if idlest == nil {
		return false
	}
	idlest.kept = nil
	h.kept--
	return true
}

// of returns what is remembered of a peer; nil if nothing is. h.mu is held.
func (h *History) of(peer string) *remembered {
	if i := slices.IndexFunc(h.places, func(one place) bool { return one.name == peer }); i >= 0 {
		return h.places[i].kept
	}
	return nil
}

// Answer is that of GET /v1/history, without BootID; nil if nothing is remembered of
// the peer.
func (h *History) Answer(peer, name string) (*control.History, error) {
	i := slices.IndexFunc(spans[:], func(s span) bool { return s.name == name })
	if name == "" {
		i = 0
	}
	if i < 0 {
		var names []string
		for _, s := range spans {
			names = append(names, s.name)
		}
		return nil, fmt.Errorf("span must be one of %s, not %q", strings.Join(names, ", "), name)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	one := h.node
	if peer != "" {
		one = h.of(peer)
	}
	if one == nil {
		return nil, nil
	}
	answer := historyOf(peer, spans[i], h.ends[i], one.spans[i].oldestFirst())
	if peer == "" {
		answer.Reasons = h.lost.answer(i, len(one.spans[i].points))
	}
	return answer, nil
}

// historyOf returns points in the form of the API: always s.points values, the newest last, null
// where nothing is known yet.
func historyOf(peer string, s span, end time.Time, points []point) *control.History {
	h := &control.History{Schema: control.Schema, Peer: peer, Span: s.name,
		StepSeconds: int(s.step.Seconds()), End: end.UTC()}
	for _, c := range []struct {
		to *[]*float64
		of func(point) float32
	}{
		{&h.RxPackets, func(p point) float32 { return p.rxPackets }},
		{&h.RxBytes, func(p point) float32 { return p.rxBytes }},
		{&h.TxPackets, func(p point) float32 { return p.txPackets }},
		{&h.TxBytes, func(p point) float32 { return p.txBytes }},
		{&h.Drops, func(p point) float32 { return p.drops }}, {&h.RTTMS, func(p point) float32 { return p.rtt }},
		{&h.Loss, func(p point) float32 { return p.loss }},
	} {
		*c.to = make([]*float64, s.points-len(points), s.points)
		for _, p := range points {
			*c.to = append(*c.to, number(c.of(p)))
		}
	}
	return h
}
