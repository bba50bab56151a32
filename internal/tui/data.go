package tui

import (
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
)

// data is what is known of the daemon, and when it was heard. What is shown is
// computed from it alone.
type data struct {
	status  *control.Status // the last snapshot; nil before the first
	heard   time.Time       // when that came, by our own clock
	boot    string          // boot id of the daemon that was heard last
	rates   map[string]rate // by peer; the node's own is ""
	tracks  map[string]*track
	names   names // how names of peers are shown
	grew    map[counterKey]growth
	losses  losses // of the node
	ways    ways
	history map[historyKey]control.History
	disk    onDisk
	flows   toldFlows

	events []event // oldest first
	number uint64  // of the newest event, from 1 for each program
	alarms uint64  // events of this connection that are no mere information
	seen   uint64  // as many of them as the events screen has shown
}

// rate is what happens in a second: bytes, packets and drops. Its fields are NaN where that
// is not known: after a gap, and in the first second.
type rate struct{ rxBytes, txBytes, rxPackets, txPackets, drops float64 }

// noRate is that of which nothing is known.
var noRate = rate{math.NaN(), math.NaN(), math.NaN(), math.NaN(), math.NaN()}

// onDisk is what the configuration file says now, compared with what runs.
type onDisk struct {
	asked bool         // whether the comparison has come back
	plan  control.Plan // what applying the file would change
	err   error        // why it cannot be read, or not be applied
}

// event is an event, and the run of the daemon that it is of.
type event struct {
	control.Event
	boot   string
	number uint64 // names it as long as this program runs
}

// eventsKept bounds what is remembered of one daemon and of those before it.
const eventsKept = control.EventsKept

// apply takes over a snapshot that came at a time. Rates are by the daemon's own clock, so
// that a late snapshot is no lower rate; between two runs of a daemon there is none.
func (d *data) apply(s *control.Status, at time.Time) {
	was, seconds := d.status, 0.0
	if was != nil && was.BootID != s.BootID {
		was = nil
	}
	if was == nil {
		d.losses = losses{}
	}
	rates := make(map[string]rate, len(s.Peers)+1)
	rates[""] = noRate
	before := func(int, string) *control.Peer { return nil }
	if was != nil {
		seconds = s.UptimeSeconds - was.UptimeSeconds
		rates[""] = perSecond(sumOf(s), sumOf(was), seconds)
		d.watchNode(s, was, seconds)
		d.losses.add(s.Totals.Drops, was.Totals.Drops, s.UptimeSeconds, seconds)
		before = peersOf(was)
	}
	for i := range s.Peers {
		p := &s.Peers[i]
		rates[p.Name] = noRate
		if b := before(i, p.Name); b != nil {
			rates[p.Name] = perSecond(sumOfPeer(p), sumOfPeer(b), seconds)
			d.watch(dropsOf, p.Name, p.Drops, b.Drops, seconds, s.Now)
		}
	}
	d.names = namesOf(s.Peers)
	d.tracks = d.tracked(rates, was == nil, s.UptimeSeconds, seconds)
	d.status, d.heard, d.rates, d.boot = s, at, rates, s.BootID
}

// peersOf finds peers of a status by name, and by the place at which they most likely are: that of another
// snapshot of the same peers.
func peersOf(s *control.Status) func(place int, name string) *control.Peer {
	var at map[string]int
	return func(place int, name string) *control.Peer {
		if place < len(s.Peers) && s.Peers[place].Name == name {
			return &s.Peers[place]
		}
		if at == nil { // some have come or gone; a search for each of 10,000 peers would be slow
			at = make(map[string]int, len(s.Peers))
			for i := range s.Peers {
				at[s.Peers[i].Name] = i
			}
		}
		if i, ok := at[name]; ok {
			return &s.Peers[i]
		}
		return nil
	}
}

// tracked enters rates into the tracks of their peers. Those of peers that are gone, and
// with fresh all, are forgotten.
func (d *data) tracked(rates map[string]rate, fresh bool, uptime, seconds float64) map[string]*track {
	tracks := make(map[string]*track, len(rates))
	for name, r := range rates {
		t := d.tracks[name]
		if t == nil || fresh {
			t = newTrack()
		}
		t.add(uptime, seconds, r)
		tracks[name] = t
	}
	return tracks
}

// counters is a reading of what grows. They are of inner packets, since the daemon's start.
type counters struct {
	rxBytes, txBytes, rxPackets, txPackets, drops uint64
	encrypted                                     bool // bytes are of messages, and packets are not counted
}

// sumOf reads the counters of the node: peers that are gone are in them, too.
func sumOf(s *control.Status) counters {
	t := s.Totals
	c := counters{orNone(t.RxBytes), orNone(t.TxBytes), orNone(t.RxPackets), orNone(t.TxPackets), sum(t.Drops),
		t.RxPackets == nil}
	if c.encrypted {
		c.rxBytes, c.txBytes = words.Messages(*s)
	}
	return c
}

// sumOfPeer reads the counters of one peer.
func sumOfPeer(p *control.Peer) counters {
	c := counters{orNone(p.RxBytes), orNone(p.TxBytes), orNone(p.RxPackets), orNone(p.TxPackets), sum(p.Drops),
		p.RxPackets == nil}
	if c.encrypted && p.WireGuard != nil {
		c.rxBytes, c.txBytes = p.WireGuard.RxBytes, p.WireGuard.TxBytes
	}
	return c
}

// orNone returns a counter, 0 if there is none.
func orNone(n *uint64) uint64 {
	if n == nil {
		return 0
	}
	return *n
}

// sum adds up drops of all reasons.
func sum(drops map[string]uint64) (n uint64) {
	for _, d := range drops {
		n += d
	}
	return n
}

// less returns what counters grew by; one that fell is 0.
func (c counters) less(b counters) counters {
	diff := func(now, was uint64) uint64 { return now - min(now, was) }
	return counters{
		diff(c.rxBytes, b.rxBytes), diff(c.txBytes, b.txBytes),
		diff(c.rxPackets, b.rxPackets), diff(c.txPackets, b.txPackets), diff(c.drops, b.drops), c.encrypted,
	}
}

// perSecond divides what was counted by the seconds that it took. Bytes of messages and of inner packets
// have nothing in common.
func perSecond(now, was counters, seconds float64) rate {
	if now.encrypted != was.encrypted {
		return noRate
	}
	packets := seconds
	if now.encrypted {
		packets = 0 // no rate
	}
	return rate{
		grown(now.rxBytes, was.rxBytes, seconds), grown(now.txBytes, was.txBytes, seconds),
		grown(now.rxPackets, was.rxPackets, packets), grown(now.txPackets, was.txPackets, packets),
		grown(now.drops, was.drops, seconds),
	}
}

// grown is a gap where a counter fell, never a spike.
func grown(now, was uint64, seconds float64) float64 {
	if now < was || seconds <= 0 {
		return math.NaN()
	}
	return float64(now-was) / seconds
}

// hello begins a connection. The daemon tells all its events anew, so what we had of
// this run of it goes; what there is of the runs before stays, and so does the fact
// that it was started again.
func (d *data) hello(h *control.Hello, at time.Time) {
	d.events = slices.DeleteFunc(d.events, func(e event) bool { return e.boot == h.BootID })
	d.alarms = 0 // they are counted anew as they are told anew; those that were seen stay so
	if d.boot != h.BootID {
		d.seen = 0
	}
	if d.boot != "" && d.boot != h.BootID {
		d.add(control.Event{At: at, Level: "warn", Kind: "restarted",
			Message: "meshd was restarted: its counters start from zero"}, "meshtui "+h.BootID)
	}
	d.boot = h.BootID
}

// happened takes over an event of the daemon.
func (d *data) happened(e *control.Event) {
	shorten(e)
	d.add(*e, d.boot)
	if alarming(e.Level) {
		d.alarms++
	}
}

// add remembers an event. Of too many the oldest tenth goes at once, so that not each
// event moves all others.
func (d *data) add(e control.Event, boot string) {
	if len(d.events) >= eventsKept {
		d.events = slices.Clone(d.events[len(d.events)-eventsKept+eventsKept/10:])
	}
	d.number++
	d.events = append(d.events, event{e, boot, d.number})
}

// Bounds of an event, of which many are kept: another host may say whatever it likes.
const (
	maxEventText   = 4096 // bytes of a text in it
	maxEventFields = 32
)

// shorten cuts the texts of an event.
func shorten(e *control.Event) {
	for _, s := range []*string{&e.Level, &e.Kind, &e.Peer, &e.Message} {
		*s = cut(*s)
	}
	kept := map[string]string{}
	for _, k := range slices.Sorted(maps.Keys(e.Fields))[:min(len(e.Fields), maxEventFields)] {
		kept[cut(k)] = cut(e.Fields[k])
	}
	e.Fields = kept
}

// cut shortens a text, between two runes.
func cut(s string) string {
	if len(s) <= maxEventText {
		return s
	}
	return strings.ToValidUTF8(s[:maxEventText], "") + "…"
}
