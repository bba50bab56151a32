package tui

import (
	"math"
	"time"

	"example.org/meshd/internal/tui/cell"
)

// lossSeconds is how much of each reason for drops this program remembers. The daemon's history has more; of
// another host's, over ssh, there is none.
const lossSeconds = 300

// losses are the drops of the node by reason, per second, of the last minutes.
type losses map[string]*lossTrack

// lossTrack is a ring: the place of a second is its number modulo the length.
type lossTrack struct {
	values [lossSeconds]float32
	last   int64 // second of the newest value, by the daemon's uptime
}

// add enters what was lost since the snapshot before, seconds ago. uptime is the daemon's. Reasons that never
// lost a packet have no track.
func (l losses) add(now, was map[string]uint64, uptime, seconds float64) {
	for reason, n := range now {
		t := l[reason]
		if n == 0 && t == nil {
			continue
		}
		if t == nil {
			t = &lossTrack{last: int64(uptime - seconds)} // all zero, which is true of a counter that is
			for i := range t.values {
				if was[reason] > 0 { // of this one it is not known when it grew
					t.values[i] = float32(math.NaN())
				}
			}
			l[reason] = t
		}
		t.add(int64(uptime), grown(n, was[reason], seconds), seconds)
	}
}

// add enters a rate for the seconds that it is of; others in between that no snapshot told of are gaps.
func (t *lossTrack) add(now int64, rate, seconds float64) {
	known := now - int64(math.Ceil(seconds))
	for s := max(t.last+1, now-lossSeconds+1); s <= now; s++ {
		t.values[s%lossSeconds] = float32(math.NaN())
		if s > known {
			t.values[s%lossSeconds] = float32(rate)
		}
	}
	t.last = max(now, t.last)
}

// lost tells whether a track has any loss in it.
func (t *lossTrack) lost() bool {
	for _, v := range t.values {
		if v > 0 {
			return true
		}
	}
	return false
}

// lossChart draws the drops of the node for a reason in w cells, over the span that is chosen; nil where it
// lost no packet in that time. Without a history it is what this program has seen, of the last minutes.
func (v view) lossChart(reason string, w int) cell.Line {
	h, told := v.history[nodeKey(v)]
	if !told || h.Reasons == nil {
		return v.losses.chart(reason, w)
	}
	values, lost := make([]float64, len(h.Reasons[reason].Drops)), false
	for i, n := range h.Reasons[reason].Drops {
		if values[i] = math.NaN(); n != nil {
			values[i] = *n
			lost = lost || *n > 0
		}
	}
	if !lost {
		return nil
	}
	return cell.Styled(cell.Chart, cell.Spark(values, h.End.Unix()/int64(stepOf(h)), w, 0))
}

// lossSpan is the span of the charts of drops.
func (v view) lossSpan() string {
	if h, told := v.history[nodeKey(v)]; told && h.Reasons != nil {
		return spans[v.span]
	}
	return spans[0]
}

// lastLost is when the node lost a packet for a reason last, as histories tell; zero if they do not.
func (v view) lastLost(reason string) (last time.Time) {
	for _, span := range spans {
		if at := v.history[historyKey{"", span}].Reasons[reason].Last; at.After(last) {
			last = at
		}
	}
	return last
}

// chart draws the drops of a reason in w cells; nil where it lost no packet in that time.
func (l losses) chart(reason string, w int) cell.Line {
	t := l[reason]
	if t == nil || !t.lost() {
		return nil
	}
	values := make([]float64, lossSeconds)
	for i := range values {
		values[i] = float64(t.values[(t.last+1+int64(i))%lossSeconds])
	}
	return cell.Styled(cell.Chart, cell.Spark(values, t.last, w, 0))
}
