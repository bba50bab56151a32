package tui

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"example.org/meshd/internal/control"
)

// secondsOf is a view after some seconds of someMesh, without a history.
func secondsOf(n int) view {
	d := &data{}
	for second := range n {
		d.apply(someMesh(second), noon)
	}
	return view{data: d, now: noon, live: true, w: 80, h: 19, canAsk: true}
}

// rows writes flows as "name now n values".
func rows(flows []flow) string {
	var all []string
	for _, f := range flows {
		known := 0
		for _, v := range f.values {
			if !math.IsNaN(v) {
				known++
			}
		}
		all = append(all, fmt.Sprintf("%s %.4g %d", f.name, f.now, known))
	}
	return strings.Join(all, "|")
}

// What the node does, in the unit that is chosen, over the history or the last minute.
func TestNodeFlows(t *testing.T) {
	v := secondsOf(10)
	flows, of := nodeFlows(v)
	is(t, "without a history", rows(flows)+" "+of,
		"rx bit/s 4.8e+08 9|tx bit/s 4.32e+08 9|rx pkt/s 6e+04 0|tx pkt/s 6.668e+04 0|drops/s 0 0 1m")
	v.history = map[historyKey]control.History{nodeHistory: someHistory("", "5m")}
	flows, of = nodeFlows(v)
	is(t, "with one", rows(flows)+" "+of,
		"rx bit/s 4.8e+08 271|tx bit/s 4.32e+08 271|rx pkt/s 6e+04 271|tx pkt/s 6.668e+04 271|drops/s 0 271 5m")
	if peak := 8 * 1.2e8; math.Abs(max(flows[0].values[0], flows[0].values[31])-peak) > peak/100 {
		t.Errorf("%v bit/s, not %v", flows[0].values[31], peak)
	}
	v.units = inBytes
	flows, _ = nodeFlows(v)
	is(t, "in bytes", rows(flows[:1]), "rx byte/s 6e+07 271")
	v.live = false
	flows, _ = nodeFlows(v)
	is(t, "of old data", rows(flows[:1]), "rx byte/s NaN 271")
}

// While packets are encrypted their number is not known, now and before: that is a gap and not 0.
func TestFlowsOfEncrypted(t *testing.T) {
	d := &data{}
	for second := range 10 {
		d.apply(sealed(someMesh(second)), noon)
	}
	v := view{data: d, now: noon, live: true, w: 80, h: 19, canAsk: true}
	h := someHistory("", "5m")
	h.RxPackets, h.TxPackets = make([]*float64, 300), make([]*float64, 300)
	v.history = map[historyKey]control.History{nodeHistory: h, {"edge-02", "5m"}: h}
	flows, _ := nodeFlows(v)
	is(t, "of the node", rows(flows),
		"rx bit/s 4.8e+08 271|tx bit/s 4.32e+08 271|rx pkt/s NaN 0|tx pkt/s NaN 0|drops/s 0 271")
	p, _ := v.peer("edge-02")
	is(t, "of a peer", rows(peerFlows(v, p)[:2]), "rx b/s 4e+07 271|tx b/s 3.6e+07 271")
	v.units = inPackets
	is(t, "of a peer, packets", rows(peerFlows(v, p)[:2]), "rx p/s NaN 0|tx p/s NaN 0")
}

// What a peer does: steps of a history are of several seconds, rates are of one.
func TestPeerFlows(t *testing.T) {
	v := secondsOf(10)
	p, _ := v.peer("edge-02")
	is(t, "asked, no answer yet", rows(peerFlows(v, p)),
		"rx b/s 4e+07 0|tx b/s 3.6e+07 0|rtt ms 2.8 0|loss % 0 0")
	v.canAsk = false
	is(t, "the last minute", rows(peerFlows(v, p)), "rx b/s 4e+07 9|tx b/s 3.6e+07 9|rtt ms 2.8 0|loss % 0 0")
	v.units = inPackets
	is(t, "which has no packets", rows(peerFlows(v, p)[:1]), "rx p/s 5000 0")
	v.canAsk, v.span, v.units = true, 1, inBits
	v.history = map[historyKey]control.History{{"edge-02", "1h"}: someHistory("edge-02", "1h")}
	is(t, "an hour", rows(peerFlows(v, p)), "rx b/s 4e+07 271|tx b/s 3.6e+07 271|rtt ms 2.8 271|loss % 0 271")
	h := v.history[historyKey{"edge-02", "1h"}]
	for unit, want := range map[units]float64{inBits: *h.RxBytes[9] * 8 / 10, inBytes: *h.RxBytes[9] / 10,
		inPackets: *h.RxPackets[9] / 10} {
		v.units = unit
		if got := peerFlows(v, p)[0].values[9]; math.Abs(got-want) > want/1e6 {
			t.Errorf("%s: %v, not %v", unit, got, want)
		}
	}
	v.live = false
	is(t, "of old data", rows(peerFlows(v, p)[2:]), "rtt ms NaN 271|loss % NaN 271")
}

// A peer that does not answer has no RTT now, though the API keeps its last one.
func TestLastRTT(t *testing.T) {
	for state, known := range map[string]bool{
		control.Up: true, control.Unknown: true, control.Stale: false, control.Down: false,
		control.Silent: false, control.OneWay: false, control.Draining: true, "from the future": true,
	} {
		t.Run(state, func(t *testing.T) {
			if got := lastRTT(control.Peer{State: state, RTTLastMS: new(1.0)}); (got != nil) != known {
				t.Errorf("%v", got)
			}
		})
	}
}

func TestMeanAndPeak(t *testing.T) {
	nan := math.NaN()
	for name, test := range map[string]struct {
		values     []float64
		mean, peak float64
	}{
		"some": {[]float64{1, 2, 6}, 3, 6}, "gaps": {[]float64{nan, 2, nan, 4}, 3, 4},
		"zeros": {[]float64{0, 0}, 0, 0},
		"none":  {nil, nan, nan}, "only gaps": {[]float64{nan}, nan, nan},
	} {
		mean, peak := meanAndPeak(test.values)
		is(t, name, fmt.Sprint(mean, peak), fmt.Sprint(test.mean, test.peak))
	}
}

// The axis begins where the chart does, and says what time it is of.
func TestTimeAxis(t *testing.T) {
	v := secondsOf(3)
	axis := func() string { return strings.TrimLeft(timeAxis(v, "edge-02", 80).String(), " ") }
	is(t, "true now", strings.Join(strings.Fields(axis()), " "), "-5m now")
	v.live = false
	is(t, "old", strings.Join(strings.Fields(axis()), " "), "-5m then")
	v.span, v.canAsk = 2, false
	is(t, "over --host", strings.Join(strings.Fields(axis()), " "), "-1m then")
	v.canAsk = true
	v.history = map[historyKey]control.History{{"edge-02", "24h"}: {RxBytes: make([]*float64, 10)}}
	if at := strings.Index(timeAxis(v, "edge-02", 80).String(), "-24h"); at != beforeChart+56 {
		t.Errorf("the axis of ten values begins at %d", at)
	}
}

// A narrow table of traffic has no means; both are as wide as they should be.
func TestTraffic(t *testing.T) {
	v := secondsOf(10)
	for w, want := range map[int]string{42: " TRAFFIC       now    peak  last 1m",
		78: " TRAFFIC          now     avg 1m    peak 1m   last 1m"} {
		t.Run(fmt.Sprint(w, " cells"), func(t *testing.T) {
			lines := traffic(v, w)
			if got := lines[0].String(); got != want {
				t.Errorf("%q, not %q", got, want)
			}
			for _, l := range lines[1:] {
				if l.Width() > w {
					t.Errorf("%q is too wide", l)
				}
			}
		})
	}
}
