package daemon

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"example.org/meshd/internal/control"
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

// reading is what there is to know of a peer, or of the node, at one time.
type reading struct {
	rxPackets, rxBytes, txPackets, txBytes, drops uint64
	rtt, loss                                     float64 // ms, and 0 to 1; NaN if unknown
}

func (r reading) traffic() uint64 { return r.rxPackets + r.txPackets + r.drops }

// point is what happened in one step; rtt is the mean in it, loss that at its end.
type point struct{ rxPackets, rxBytes, txPackets, txBytes, drops, rtt, loss float32 }

// since returns what happened from an earlier reading to this one, in each of n
// steps.
func (r reading) since(was reading, n int) point {
	each := func(now, before uint64) float32 { return float32(float64(now-before) / float64(n)) }
	return point{
		each(r.rxPackets, was.rxPackets), each(r.rxBytes, was.rxBytes), each(r.txPackets, was.txPackets),
		each(r.txBytes, was.txBytes), each(r.drops, was.drops), float32(r.rtt), float32(r.loss),
	}
}

// series is what is remembered of a peer in one span: it grows until it is full.
type series struct {
	points  []point
	next    int // to be overwritten, once full
	last    reading
	rttSum  float64 // of the readings in this step
	rttSeen int
}

// add ends n steps.
func (s *series) add(now reading, n, room int) {
	now.rtt = s.rttSum / float64(s.rttSeen) // NaN if none
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

func newRemembered(first reading, now time.Time) *remembered {
	r := &remembered{total: first.traffic(), busy: now}
	for i := range r.spans {
		r.spans[i].last = first
	}
	return r
}

// history remembers what was counted, by peer. Methods may be called at any time
// from any goroutine.
type history struct {
	mu     sync.Mutex
	ends   [len(spans)]time.Time // of the last step
	node   *remembered
	peers  map[string]*remembered
	others map[string]uint64 // traffic of peers for which there is no room
}

// take adds a reading; it is called about once a second. The readings are of all
// peers that there are.
func (h *history) take(now time.Time, node reading, peers map[string]reading) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.node == nil {
		h.node, h.peers, h.others = newRemembered(node, now), map[string]*remembered{}, map[string]uint64{}
		for i := range h.ends {
			h.ends[i] = now
		}
	}
	for name := range h.peers {
		if _, stays := peers[name]; !stays {
			delete(h.peers, name)
		}
	}
	var steps [len(spans)]int
	for i, s := range spans {
		steps[i] = int(now.Sub(h.ends[i]) / s.step)
		h.ends[i] = h.ends[i].Add(time.Duration(steps[i]) * s.step)
	}
	h.node.take(now, node, steps)
	for name, r := range peers {
		if one := h.peerFor(name, r, now); one != nil {
			one.take(now, r, steps)
		}
	}
}

func (r *remembered) take(now time.Time, reading reading, steps [len(spans)]int) {
	if total := reading.traffic(); total != r.total {
		r.total, r.busy = total, now
	}
	for i := range r.spans {
		s := &r.spans[i]
		if !math.IsNaN(reading.rtt) {
			s.rttSum += reading.rtt
			s.rttSeen++
		}
		if steps[i] > 0 {
			s.add(reading, steps[i], spans[i].points)
		}
	}
}

// peerFor returns what is remembered of a peer. Where there is no room, a busy peer
// takes that of one that is idle; else nil is returned.
func (h *history) peerFor(name string, r reading, now time.Time) *remembered {
	if one := h.peers[name]; one != nil {
		return one
	}
	if len(h.peers) >= historyKept {
		was, known := h.others[name]
		h.others[name] = r.traffic()
		if !known || was == r.traffic() || !h.makeRoom(now) {
			return nil
		}
	}
	delete(h.others, name)
	h.peers[name] = newRemembered(r, now)
	return h.peers[name]
}

// makeRoom forgets the peer that has been idle the longest, if it was for long.
func (h *history) makeRoom(now time.Time) bool {
	idlest, since := "", now.Add(-historyIdle)
	for name, one := range h.peers {
		if one.busy.Before(since) {
			idlest, since = name, one.busy
		}
	}
	delete(h.peers, idlest)
	return idlest != ""
}

// answer is that of GET /v1/history, without BootID; nil if nothing is remembered of
// the peer.
func (h *history) answer(peer, name string) (*control.History, error) {
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
		one = h.peers[peer]
	}
	if one == nil {
		return nil, nil
	}
	return historyOf(peer, spans[i], h.ends[i], one.spans[i].oldestFirst()), nil
}

func historyOf(peer string, s span, end time.Time, points []point) *control.History {
	h := &control.History{Schema: control.Schema, Peer: peer, Span: s.name, StepSeconds: int(s.step.Seconds()), End: end.UTC()}
	for _, c := range []struct {
		to *[]*float64
		of func(point) float32
	}{
		{&h.RxPackets, func(p point) float32 { return p.rxPackets }}, {&h.RxBytes, func(p point) float32 { return p.rxBytes }},
		{&h.TxPackets, func(p point) float32 { return p.txPackets }}, {&h.TxBytes, func(p point) float32 { return p.txBytes }},
		{&h.Drops, func(p point) float32 { return p.drops }}, {&h.RTTMS, func(p point) float32 { return p.rtt }},
		{&h.Loss, func(p point) float32 { return p.loss }},
	} {
		*c.to = make([]*float64, s.points-len(points), s.points)
		for _, p := range points {
			value := float64(c.of(p))
			if math.IsNaN(value) {
				*c.to = append(*c.to, nil)
				continue
			}
			*c.to = append(*c.to, &value)
		}
	}
	return h
}
