package tui

import (
	"math"
	"time"

	"example.org/meshd/internal/control"
)

// data is what is known of the daemon, and when it was heard. What is shown is
// computed from it alone.
type data struct {
	status  *control.Status // the last snapshot; nil before the first
	heard   time.Time       // when that came, by our own clock
	rates   map[string]rate // by peer; the node's own is ""
	tracks  map[string]*track
	dropped map[dropKey]drop
	events  []event // oldest first
	alarms  uint64  // events that are no mere information, since the start of this program
	last    string  // boot id of the daemon that was heard last

	history map[historyKey]control.History
}

// rate is what happens in a second. Its fields are NaN where that is not known: after
// a gap, and in the first second.
type rate struct{ rxBytes, txBytes, rxPackets, txPackets, drops float64 }

var noRate = rate{math.NaN(), math.NaN(), math.NaN(), math.NaN(), math.NaN()}

// dropKey names a drop counter; the totals have the peer "".
type dropKey struct{ peer, reason string }

// drop is how fast one drop counter grows, and when it last did.
type drop struct {
	rate float64
	seen time.Time // by the daemon's clock; zero: not since we watch
}

// event is an event, and the run of the daemon that it is of.
type event struct {
	control.Event
	boot string
}

// eventsKept bounds what is remembered of one daemon and of those before it.
const eventsKept = control.EventsKept

// apply takes over a snapshot that came at a time.
func (d *data) apply(s *control.Status, at time.Time) {
	was := d.status
	if was != nil && was.BootID != s.BootID {
		was = nil
	}
	seconds := 0.0
	if was != nil {
		seconds = s.UptimeSeconds - was.UptimeSeconds
	}
	before := map[string]*control.Peer{}
	if was != nil {
		for i := range was.Peers {
			before[was.Peers[i].Name] = &was.Peers[i]
		}
	}
	rates := make(map[string]rate, len(s.Peers)+1)
	rates[""] = noRate
	if was != nil {
		rates[""] = perSecond(sumOf(s.Totals), sumOf(was.Totals), seconds)
		d.watchDrops("", s.Totals.Drops, was.Totals.Drops, seconds, s.Now)
	}
	for i := range s.Peers {
		p := &s.Peers[i]
		rates[p.Name] = noRate
		if b := before[p.Name]; b != nil {
			rates[p.Name] = perSecond(sumOfPeer(p), sumOfPeer(b), seconds)
			d.watchDrops(p.Name, p.Drops, b.Drops, seconds, s.Now)
		}
	}
	tracks := make(map[string]*track, len(rates))
	for name, r := range rates {
		t := d.tracks[name]
		if t == nil || was == nil {
			t = newTrack()
		}
		t.add(s.UptimeSeconds, seconds, r)
		tracks[name] = t
	}
	d.status, d.heard, d.rates, d.tracks, d.last = s, at, rates, tracks, s.BootID
}

// counters is a reading of what grows.
type counters struct{ rxBytes, txBytes, rxPackets, txPackets, drops uint64 }

func sumOf(t control.Totals) counters {
	return counters{t.RxBytes, t.TxBytes, t.RxPackets, t.TxPackets, sum(t.Drops)}
}

func sumOfPeer(p *control.Peer) counters {
	return counters{p.RxBytes, p.TxBytes, p.RxPackets, p.TxPackets, sum(p.Drops)}
}

func sum(drops map[string]uint64) (n uint64) {
	for _, d := range drops {
		n += d
	}
	return n
}

// perSecond divides what came by the seconds it took.
func perSecond(now, was counters, seconds float64) rate {
	return rate{
		grown(now.rxBytes, was.rxBytes, seconds), grown(now.txBytes, was.txBytes, seconds),
		grown(now.rxPackets, was.rxPackets, seconds), grown(now.txPackets, was.txPackets, seconds),
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

func (d *data) watchDrops(peer string, now, was map[string]uint64, seconds float64, at time.Time) {
	for reason, n := range now {
		key := dropKey{peer, reason}
		have, known := d.dropped[key]
		have.rate = grown(n, was[reason], seconds)
		if have.rate > 0 {
			have.seen = at
		} else if !known {
			continue
		}
		if d.dropped == nil {
			d.dropped = map[dropKey]drop{}
		}
		d.dropped[key] = have
	}
}

// hello begins a connection. The daemon tells all its events anew, so what we had of
// this run of it goes; what there is of the runs before stays, and so does the fact
// that it was started again.
func (d *data) hello(h *control.Hello, at time.Time) {
	var kept []event
	for _, e := range d.events {
		if e.boot != h.BootID {
			kept = append(kept, e)
		}
	}
	d.events = kept
	if d.last != "" && d.last != h.BootID {
		d.note(h.BootID, "warn", "restarted", "meshd was restarted: counters begin anew", at)
	}
	d.last = h.BootID
}

// note adds an event of our own, which no daemon's number has.
func (d *data) note(boot, level, kind, message string, at time.Time) {
	d.add(event{control.Event{At: at, Level: level, Kind: kind, Message: message}, "meshtui " + boot})
}

func (d *data) add(e event) {
	if len(d.events) >= eventsKept {
		d.events = append([]event(nil), d.events[len(d.events)-eventsKept+eventsKept/10:]...)
	}
	d.events = append(d.events, e)
}

// trackSeconds is how much of each peer this program itself remembers; the daemon
// has the rest.
const trackSeconds = 60

// track is the last minute of one peer, a value for each second.
type track struct {
	rx, tx [trackSeconds]float32
	last   int64 // second of the newest value, by the daemon's uptime
}

func newTrack() *track {
	t := &track{}
	nan := float32(math.NaN())
	for i := range t.rx {
		t.rx[i], t.tx[i] = nan, nan
	}
	return t
}

// add enters a rate for the seconds that it is of.
func (t *track) add(uptime, seconds float64, r rate) {
	now := int64(uptime)
	from := max(t.last+1, now-trackSeconds+1)
	known := now - int64(math.Ceil(seconds)) // what is older was not measured
	for s := from; s <= now; s++ {
		rx, tx := math.NaN(), math.NaN()
		if s > known {
			rx, tx = r.rxBytes, r.txBytes
		}
		t.rx[s%trackSeconds], t.tx[s%trackSeconds] = float32(rx), float32(tx)
	}
	t.last = max(now, t.last)
}

// values returns what a track has of one direction, oldest first.
func (t *track) values(ring *[trackSeconds]float32) []float64 {
	out := make([]float64, trackSeconds)
	for i := range out {
		out[i] = float64(ring[(t.last+1+int64(i))%trackSeconds])
	}
	return out
}
