package tui

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
)

// Rates are what counters grew by, divided by the daemon's own time; what cannot be
// known is a gap, never a spike.
func TestRates(t *testing.T) {
	m, c := newTest(80, 24)
	tell(m, hello("x"))
	for _, step := range []struct {
		name   string
		boot   string
		uptime float64
		rx     uint64
		want   float64
	}{
		{"the first snapshot", "x", 10, 1000, math.NaN()},
		{"a second later", "x", 11, 3000, 2000},
		{"two seconds later", "x", 13, 4000, 500},
		{"the same moment", "x", 13, 4000, math.NaN()},
		{"a counter that fell", "x", 14, 3000, math.NaN()},
		{"after that", "x", 15, 3500, 500},
		{"another daemon", "y", 1, 9e9, math.NaN()},
		{"its second snapshot", "y", 2, 9e9 + 7, 7},
	} {
		c.forward(time.Second)
		tell(m, snapshot(&control.Status{Node: "a", BootID: step.boot, UptimeSeconds: step.uptime, Now: noon,
			Totals: control.Totals{RxBytes: &step.rx, RxPackets: &step.rx},
			Peers:  []control.Peer{{Name: "b", State: control.Up, RxBytes: &step.rx, RxPackets: &step.rx}}}))
		t.Run(step.name, func(t *testing.T) {
			for _, name := range []string{"", "b"} {
				got := m.view().rate(name).rxBytes
				if got != step.want && !(math.IsNaN(got) && math.IsNaN(step.want)) {
					t.Errorf("%q: %v, not %v", name, got, step.want)
				}
			}
		})
	}
	track := m.data.tracks["b"]
	values := track.values(&track.rx)
	if got := values[len(values)-1]; got != 7 {
		t.Errorf("newest %v", got)
	}
	for i, v := range values[:len(values)-1] {
		if !math.IsNaN(v) {
			t.Errorf("%d s before: %v, of another run of the daemon", len(values)-1-i, v)
		}
	}
}

// A second that no snapshot told of is a gap in the chart, and one that a slower
// snapshot covers is not.
func TestTrack(t *testing.T) {
	track := newTrack()
	for _, s := range []struct {
		uptime, seconds, rx float64
		want                string
	}{
		{100, 1, 1, "[NaN NaN NaN NaN NaN NaN NaN 1]"},
		{101, 1, 2, "[NaN NaN NaN NaN NaN NaN 1 2]"},
		{104, 1, 3, "[NaN NaN NaN 1 2 NaN NaN 3]"},
		{106, 2, 4, "[NaN 1 2 NaN NaN 3 4 4]"},
		{300, 1, 5, "[NaN NaN NaN NaN NaN NaN NaN 5]"},
	} {
		t.Run(fmt.Sprint("at ", s.uptime), func(t *testing.T) {
			track.add(s.uptime, s.seconds, rate{rxBytes: s.rx})
			if got := fmt.Sprint(track.values(&track.rx)[52:]); got != s.want {
				t.Errorf("%s, not %s", got, s.want)
			}
		})
	}
}

// Tracks of peers that are gone are forgotten; a program that runs for a year would grow.
func TestTracksAreForgotten(t *testing.T) {
	d := &data{}
	d.apply(someMesh(0), noon)
	s := someMesh(1)
	s.Peers = s.Peers[:2]
	d.apply(s, noon)
	if len(d.tracks) != 3 || len(d.rates) != 3 { // two peers and the node
		t.Errorf("%d tracks, %d rates", len(d.tracks), len(d.rates))
	}
}

// A drop counter is fast while it grows, and was seen when it last did.
func TestDropsAreWatched(t *testing.T) {
	d := &data{}
	for second := range 3 {
		d.apply(someMesh(second), noon)
	}
	key := counterKey{dropsOf, "edge-05", "too_big"}
	if got := d.grew[key]; got.rate != 1 || !got.seen.Equal(noon.Add(2*time.Second)) {
		t.Errorf("%+v", got)
	}
	if _, ok := d.grew[counterKey{dropsOf, "edge-05", "spoofed_source"}]; ok {
		t.Error("a counter that never grew is kept")
	}
	s := someMesh(3)
	s.Peers[3].Drops["too_big"] = 30 // as it was
	d.apply(s, noon)
	if got := d.grew[key]; got.rate != 0 || !got.seen.Equal(noon.Add(2*time.Second)) {
		t.Errorf("after a second without drops: %+v", got)
	}
}

// Counters from a zeroed view never wrap.
func TestLess(t *testing.T) {
	got := counters{5, 5, 5, 5, 5, false}.less(counters{rxBytes: 3, txBytes: 7})
	if want := (counters{2, 0, 5, 5, 5, false}); got != want {
		t.Errorf("%+v, not %+v", got, want)
	}
	drops := lessDrops(map[string]uint64{"a": 5, "b": 1}, map[string]uint64{"a": 2, "b": 9})
	if drops["a"] != 3 || drops["b"] != 0 {
		t.Errorf("%v", drops)
	}
}

// A daemon that was started again is an event; what the one before told stays.
func TestRestart(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	press(m, "Z")
	send(m, lostMsg{m.link.number, errGone}, retryMsg{m.link.number})
	s := someMesh(0)
	s.BootID, s.UptimeSeconds = "new", 1
	starting := happening(control.Event{Seq: 1, At: noon, Level: "info", Kind: "starting", Message: "starting"})
	tell(m, hello("new"), snapshot(s), starting)
	press(m, "3")
	shows(t, m, "meshd was restarted: its counters start from zero", "edge-14 is down", "starting", "7 events")
	if m.choices.base != nil {
		t.Error("counters of another daemon are zeroed with those of the one before")
	}
	// The same daemon again: its events are told anew, and not twice.
	send(m, lostMsg{m.link.number, errGone}, retryMsg{m.link.number})
	tell(m, hello("new"), snapshot(s), starting)
	shows(t, m, "7 events")
}

// Of too many events the oldest go.
func TestEventsAreBounded(t *testing.T) {
	d := &data{}
	for i := range 3 * eventsKept {
		d.happened(&control.Event{Seq: uint64(i), At: noon, Level: "info", Message: "flood"})
	}
	if n := len(d.events); n > eventsKept || n < eventsKept/2 {
		t.Errorf("%d events are kept", n)
	}
	if newest := d.events[len(d.events)-1]; newest.Seq != 3*eventsKept-1 || newest.number != 3*eventsKept {
		t.Errorf("the newest is %d, number %d", newest.Seq, newest.number)
	}
}

// An event of another host may be as long as it likes: little of it is kept.
func TestLongEvents(t *testing.T) {
	long := strings.Repeat("é", 1<<20)
	e := control.Event{Message: long, Peer: long, Kind: long, Fields: map[string]string{long: long}}
	for i := range 100 {
		e.Fields[string(rune('a'+i))] = "x"
	}
	m, _ := newTest(80, 24)
	tell(m, hello("x"), happening(e))
	kept := m.data.events[len(m.data.events)-1]
	n := len(eventText(kept)) + len(kept.Kind)
	if n > 5*maxEventText || len(kept.Fields) != maxEventFields || len(kept.Message) < maxEventText {
		t.Errorf("%d bytes and %d fields are kept", n, len(kept.Fields))
	}
	checkFrame(t, m.View(), 80, 24)
}
