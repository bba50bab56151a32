package tui

import (
	"fmt"
	"math"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/tui/cell"
)

// A flow is one line of figures with a chart: what there is now, what there was.
type flow struct {
	name   string
	now    float64   // NaN: not known
	values []float64 // per second, oldest first; NaN: not known
	last   int64     // number of the newest, see cell.Spark
	top    float64   // see cell.Spark
	role   cell.Role // of the chart
}

// nodeKey is the history of all that the node did, over the span that is chosen.
func nodeKey(v view) historyKey { return historyKey{"", spans[v.span]} }

// Histories are the daemon's: it was there before this program. Tracks are what this program
// saw itself, a minute at most, and stand in where there is nobody to ask.

// nodeFlows are what all peers together do, as the history tells or, without one, the
// last minute that we saw ourselves. of is the time that the values are of.
func nodeFlows(v view) (flows []flow, of string) {
	now := v.rate("")
	unit, factor := "bit/s", 8.0
	if v.units == inBytes {
		unit, factor = "byte/s", 1
	}
	flows = []flow{
		{name: "rx " + unit, now: factor * now.rxBytes, role: cell.Chart},
		{name: "tx " + unit, now: factor * now.txBytes, role: cell.Chart},
		{name: "rx pkt/s", now: now.rxPackets, role: cell.Chart},
		{name: "tx pkt/s", now: now.txPackets, role: cell.Chart},
		{name: "drops/s", now: now.drops, role: cell.Chart},
	}
	h, ok := v.history[nodeKey(v)]
	if !ok {
		if t := v.tracks[""]; t != nil { // which has no packets and no drops
			flows[0].track(t, &t.rx, factor)
			flows[1].track(t, &t.tx, factor)
		}
		return flows, "1m"
	}
	flows[0].past(h, h.RxBytes, factor/stepOf(h))
	flows[1].past(h, h.TxBytes, factor/stepOf(h))
	flows[2].past(h, h.RxPackets, 1/stepOf(h))
	flows[3].past(h, h.TxPackets, 1/stepOf(h))
	flows[4].past(h, h.Drops, 1/stepOf(h))
	return flows, spans[v.span]
}

// peerFlows are rates, RTT and loss of a peer over the span that is chosen, or, where there
// is nobody to ask for a history, rates of the last minute.
func peerFlows(v view, p control.Peer) []flow {
	now := v.rate(p.Name)
	flows := []flow{
		{name: "rx " + v.units.String(), now: v.units.rx(now), role: cell.Chart},
		{name: "tx " + v.units.String(), now: v.units.tx(now), role: cell.Chart},
		{name: "rtt ms", now: math.NaN(), role: cell.Chart},
		{name: "loss %", now: math.NaN(), top: 100, role: cell.Chart},
	}
	if last := lastRTT(p); last != nil && v.live {
		flows[2].now = *last
	}
	if p.Loss != nil && v.live {
		flows[3].now = 100 * *p.Loss
	}
	h, ok := v.history[historyKey{p.Name, spans[v.span]}]
	t := v.tracks[p.Name]
	switch {
	case ok:
		rx, tx, factor := h.RxBytes, h.TxBytes, map[units]float64{inBits: 8, inBytes: 1}[v.units]
		if v.units == inPackets {
			rx, tx, factor = h.RxPackets, h.TxPackets, 1
		}
		flows[0].past(h, rx, factor/stepOf(h))
		flows[1].past(h, tx, factor/stepOf(h))
		flows[2].past(h, h.RTTMS, 1)
		flows[3].past(h, h.Loss, 100)
	case t != nil && !v.canAsk && v.units != inPackets: // tracks are of bytes
		factor := map[units]float64{inBits: 8, inBytes: 1}[v.units]
		flows[0].track(t, &t.rx, factor)
		flows[1].track(t, &t.tx, factor)
	}
	return flows
}

// lastRTT is that of the last answer, of a peer that answers; nil for the others. The API
// keeps the figure, but an old one beside "now" would be a lie.
func lastRTT(p control.Peer) *float64 {
	switch p.State {
	case control.Down, control.Stale, control.Silent, control.OneWay:
		return nil
	}
	return p.RTTLastMS
}

// past gives a flow the values of a history, each times by. What was not known is a gap: a
// zero would say that nothing passed.
func (f *flow) past(h control.History, values []*float64, by float64) {
	f.values = make([]float64, len(values))
	for i, v := range values {
		f.values[i] = math.NaN()
		if v != nil {
			f.values[i] = *v * by
		}
	}
	f.last = h.End.Unix() / int64(stepOf(h))
}

// track gives a flow one direction of a track, each value times by.
func (f *flow) track(t *track, ring *[trackSeconds]float32, by float64) {
	f.values, f.last = t.values(ring), t.last
	for i := range f.values {
		f.values[i] *= by
	}
}

// stepOf is the length of a history's steps in seconds; a daemon may tell none.
func stepOf(h control.History) float64 { return float64(max(1, h.StepSeconds)) }

// meanAndPeak sum up values; NaN if none is known. Gaps do not count: a mean over them would
// be that of a mesh that was quiet.
func meanAndPeak(values []float64) (mean, peak float64) {
	sum, n := 0.0, 0
	peak = math.NaN()
	for _, v := range values {
		if math.IsNaN(v) {
			continue
		}
		sum, n = sum+v, n+1
		if !(peak >= v) { // also if there is no peak yet
			peak = v
		}
	}
	return sum / float64(n), peak
}

// traffic is a table of the node's flows, w cells wide. A narrow one has no means: the peak
// says more about whether something was wrong.
func traffic(v view, w int) []cell.Line {
	flows, of := nodeFlows(v)
	wide := w >= 60
	head := fmt.Sprintf(" %-9s%8s%8s", "TRAFFIC", "now", "peak")
	if wide {
		head = fmt.Sprintf(" %-10s %9s %10s %10s ", "TRAFFIC", "now", "avg "+of, "peak "+of)
	}
	lines := []cell.Line{cell.Styled(cell.Dim, head+"  last "+of)}
	for _, f := range flows {
		mean, peak := meanAndPeak(f.values)
		now := words.SI(f.now)
		var line cell.Line
		if wide {
			line = cell.Styled(cell.Dim, fmt.Sprintf(" %-10s", f.name)).Add(cell.Strong, fmt.Sprintf(" %9s", now)).
				Add(cell.Plain, fmt.Sprintf(" %10s %10s ", words.SI(mean), words.SI(peak)))
		} else {
			line = cell.Styled(cell.Dim, fmt.Sprintf(" %-9s", f.name)).Add(cell.Strong, fmt.Sprintf("%8s", now)).
				Add(cell.Plain, fmt.Sprintf("%8s", words.SI(peak)))
		}
		chart := cell.Spark(f.values, f.last, w-line.Width()-3, f.top)
		lines = append(lines, line.Add(cell.Plain, "  ").Add(f.role, chart))
	}
	return lines
}

// beforeChart is how many cells of a peer's chart have its name and figure.
const beforeChart = 14

// peerCharts draws the flows of a peer in lines of w cells: "rx b/s  40.0M  ▆▇▇█▅▄▃".
func peerCharts(v view, p control.Peer, w int) (lines []cell.Line) {
	for i, f := range peerFlows(v, p) {
		figure := words.SI(f.now)
		if i >= 2 && !math.IsNaN(f.now) { // RTT and loss are small: "0.21", not "0.2"
			figure = words.Millis(&f.now)
		}
		lines = append(lines, cell.Styled(cell.Dim, fmt.Sprintf("%-7s", f.name)).
			Add(cell.Strong, cell.FitRight(figure, 6)+" ").
			Add(f.role, cell.Spark(f.values, f.last, w-beforeChart, f.top)))
	}
	return lines
}

// timeAxis stands below the charts of a peer: what time they are of.
func timeAxis(v view, peer string, w int) cell.Line {
	end, values, of := "now", trackSeconds, spans[v.span]
	if !v.live {
		end = "then"
	}
	if h, ok := v.history[historyKey{peer, of}]; ok {
		values = len(h.RxBytes)
	}
	if !v.canAsk {
		of = "1m"
	}
	from := cell.Fit("", beforeChart+cell.Unused(values, w-beforeChart)) + "-" + of
	return cell.Styled(cell.Dim, from).Spread(cell.Styled(cell.Dim, end), w)
}
