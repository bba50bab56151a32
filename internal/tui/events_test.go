package tui

import (
	"strings"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
)

// news is an event without a peer.
func news(level, message string) control.Watched {
	return happening(control.Event{At: noon, Level: level, Message: message})
}

// The alarms that were not looked at are counted in the tab.
func TestUnseenEvents(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	shows(t, m, "3 Events 2!")
	press(m, "3")
	hides(t, m, "3 Events 2!")
	press(m, "1")
	tell(m, news("info", "all is well"))
	hides(t, m, "!  ")
	tell(m, news("error", "it is not"))
	shows(t, m, "3 Events 1!")
	// A new connection tells all events anew: those that were seen stay so.
	lines := []control.Watched{hello("5d2e6f70")}
	for _, e := range someEvents {
		lines = append(lines, happening(e))
	}
	tell(m, lines...)
	hides(t, m, "!  ")
	tell(m, hello("another"), news("warn", "of another daemon"))
	shows(t, m, "3 Events 1!")
}

// The events screen follows the newest, unless somebody looks at an older one.
func TestEventsFollow(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	press(m, "3")
	shows(t, m, "follows", "> 14:07:24 warn  edge-05 is stale")
	press(m, "k")
	tell(m, news("info", "news"))
	shows(t, m, "2 newer", "> 14:05:33 ERROR edge-14 is down", "news")
	press(m, "1", "3") // it stays where it was left
	shows(t, m, "2 newer", "> 14:05:33 ERROR edge-14 is down")
	press(m, "j", "j")
	shows(t, m, "follows", "> 14:07:33 info  news")
	press(m, "g")
	shows(t, m, "> 10:07:33 info  forwarding")
	for range 3 * eventsKept { // the event under the cursor is forgotten
		tell(m, news("info", "flood"))
	}
	shows(t, m, "newer", "> 14:07:33 info  flood")
}

// Enter shows the peer of an event, if the event has one and the mesh has it.
func TestOpenThePeerOfAnEvent(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	press(m, "3", "k", "enter")
	shows(t, m, "PEERS > edge-14")
	press(m, "esc")
	shows(t, m, "[3 Events]")
	press(m, "g", "enter") // an event of the node
	shows(t, m, "[3 Events]", "> 10:07:33")
	tell(m, happening(control.Event{At: noon, Level: "info", Kind: "peer_up", Peer: "long-gone"}))
	press(m, "G", "enter")
	hides(t, m, "PEERS >")
}

// The cursor stays on its event when others come that the filter hides.
func TestEventCursorWithFilter(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	press(m, "3", "/", "edge-05", "enter", "k")
	shows(t, m, "> 13:55:33 info  edge-05 is up")
	tell(m, news("info", "something else"))
	shows(t, m, "> 13:55:33 info  edge-05 is up")
	press(m, "/", "ctrl+u", "x", "x", "x")
	shows(t, m, "0 events", "no events")
	press(m, "enter", "y", "enter", "j", "k")
	shows(t, m, "no events")
}

// A cursor is found among what the filter keeps, whatever is there.
func TestEventsCursor(t *testing.T) {
	numbers := func(all ...uint64) (kept []folded) {
		for _, n := range all {
			kept = append(kept, folded{event: event{number: n}, first: n, times: 1})
		}
		return kept
	}
	for name, test := range map[string]struct {
		at   uint64
		kept []folded
		want int
	}{
		"follows":            {0, numbers(1, 2, 3), 2},
		"on one":             {2, numbers(1, 2, 3), 1},
		"hidden":             {2, numbers(1, 3), 0},
		"hidden, none older": {2, numbers(3, 4), 0},
		"hidden, none newer": {9, numbers(3, 4), 1},
		"none":               {2, nil, -1},
		"none to follow":     {0, nil, -1},
	} {
		t.Run(name, func(t *testing.T) {
			if got := (events{at: test.at}).cursor(test.kept); got != test.want {
				t.Errorf("%d, not %d", got, test.want)
			}
		})
	}
}

// What an event says comes from its kind and fields, never out of its message.
func TestEventText(t *testing.T) {
	m, _ := someDashboard(140, 40, asItIs)
	press(m, "3")
	shows(t, m, "ERROR edge-14 is down: it does not answer (silent 10.2s)",
		"info  edge-05 is up (rtt 14.2ms, was unknown)")
	hides(t, m, "any words")
	tell(m, happening(control.Event{At: noon, Level: "warn", Kind: "peer_from_the_future", Peer: "edge-09",
		Message: "peer glows"}))
	shows(t, m, "warn  edge-09: peer glows")
}

// The newest events of a peer, and of all, are listed as on the screen of events: the newest last.
func TestNewestEvents(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	text := func(peer string, n int) string {
		var all []string
		for _, l := range newestEvents(m.view(), peer, 40, n) {
			all = append(all, l.String()[:5])
		}
		return strings.Join(all, " ")
	}
	if got := text("edge-05", 9); got != "13:55 14:07" {
		t.Errorf("of a peer: %s", got)
	}
	if got := text("", 2); got != "14:05 14:07" {
		t.Errorf("of all: %s", got)
	}
}

// An event about the health says its level once, as `meshd events` does: "(was ok)" and not "(now degraded,
// was ok)". Fields that are empty say nothing.
func TestEventSaysNothingTwice(t *testing.T) {
	e := control.Event{Kind: "health", Level: "warn", Message: "health is degraded",
		Fields: map[string]string{"now": "degraded", "was": "ok", "worst": ""}}
	_, got := eventWords(e)
	if _, want := words.Told(e); got != want {
		t.Errorf("%q, not %q", got, want)
	}
}
