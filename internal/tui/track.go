package tui

import "math"

// trackSeconds is how much of each peer this program itself remembers; the daemon
// has the rest.
const trackSeconds = 60

// track is the last minute of one peer, a value for each second: a ring, whose place for a
// second is its number modulo the length. In float32 a mesh of 10,000 peers takes 5 MB.
type track struct {
	rx, tx [trackSeconds]float32
	last   int64 // second of the newest value, by the daemon's uptime
}

// newTrack returns a track of which nothing is known.
func newTrack() *track {
	t := &track{}
	nan := float32(math.NaN())
	for i := range t.rx {
		t.rx[i], t.tx[i] = nan, nan
	}
	return t
}

// add enters a rate for the seconds that it is of. uptime is the daemon's at the snapshot,
// seconds the time since the one before; seconds in between that no snapshot told of are gaps.
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
