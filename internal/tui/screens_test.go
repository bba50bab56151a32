package tui

import (
	"fmt"
	"strings"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/tui/cell"
)

// Keys that are pressed quickly come as one message.
func TestManyKeysAtOnce(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	press(m, "2gjj/192")
	shows(t, m, "filter: 192", "rows 1-1/1")
	press(m, "enter")
	send(m, tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("ss"), Alt: true}) // Escape, s, s
	shows(t, m, "filter: none", "sort rtt")
	press(m, "1c")
	shows(t, m, "ON DISK")
}

// A text that is pasted is none of ours, but for a filter.
func TestPaste(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	paste := tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("2Ry"), Paste: true}
	send(m, paste)
	shows(t, m, "[1 Overview]")
	press(m, "/")
	send(m, paste)
	shows(t, m, "filter: 2Ry")
	press(m, "esc")
	send(m, tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("Ry")}) // too quick to have seen the question
	shows(t, m, "now?", "y yes  n no")
}

// Tabs go round; a page closes with its tab.
func TestTabs(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	for _, want := range []string{"[2 Peers", "[3 Events", "[4 Node", "[1 Overview"} {
		press(m, "tab")
		shows(t, m, want)
	}
	press(m, "shift+tab", "h")
	shows(t, m, "[3 Events")
	press(m, "right")
	shows(t, m, "[4 Node")
	press(m, "2", "enter")
	shows(t, m, "[2 Peers", "PEERS > edge-05")
	press(m, "2")
	hides(t, m, "PEERS >")
}

// Escape leaves a page, and then clears the filter. Help lies on top of what there is; all
// other pages take each other's place.
func TestPages(t *testing.T) {
	for name, test := range map[string]struct{ keys, shows string }{
		"a page":              {"2 enter", "PEERS > edge-05"},
		"left":                {"2 enter esc", "rows 1-13/19"},
		"help on a page":      {"2 enter ? esc", "PEERS > edge-05"},
		"help by its own key": {"2 enter ? ?", "PEERS > edge-05"},
		"another page":        {"2 enter c esc", "rows 1-13/19"},
		"a page from help":    {"2 enter ? c esc", "rows 1-13/19"},
		"a filter on a page":  {"2 enter /", "rows 1-13/19"},
		"a filter on help":    {"3 ? /", "[2 Peers"},
		"a filter on events":  {"3 /", "[3 Events"},
		"escape and a filter": {"2 / d o w n enter enter esc", "filter: down"},
		"escape twice":        {"2 / d o w n enter enter esc esc", "filter: none"},
		"next peer":           {"2 enter ]", "PEERS > edge-02"},
		"previous peer":       {"2 enter ] [ [", "PEERS > edge-14"},
		"another span":        {"2 enter t", "-1h"},
		"the first span":      {"2 enter t t t", "-5m "},
	} {
		t.Run(name, func(t *testing.T) {
			m, _ := someDashboard(80, 24, asItIs)
			press(m, strings.Fields(test.keys)...)
			shows(t, m, test.shows)
		})
	}
}

// The overview's Enter opens the peer that is worst; without one it shows them all.
func TestOpenTheWorst(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	choose(m, "edge-02")
	press(m, "enter")
	shows(t, m, "PEERS > edge-14")
	fine, _ := someDashboard(80, 24, func(s *control.Status) *control.Status {
		s.Peers, s.Health = s.Peers[:2], control.Health{Level: control.OK}
		return s
	})
	press(fine, "enter")
	shows(t, fine, "[2 Peers", "rows 1-2/2")
}

// A large overview is the dashboard, with a cursor; not while there is nothing to show.
func TestDashboardStandsIn(t *testing.T) {
	m, _ := someDashboard(120, 30, asItIs)
	shows(t, m, "┌─ peers 19", "> edge-05")
	press(m, "j")
	shows(t, m, "> edge-02")
	press(m, "enter")
	shows(t, m, "PEERS > edge-02")
	press(m, "esc")
	send(m, tea.WindowSizeMsg{Width: 119, Height: 30})
	hides(t, m, "┌─ peers")
	send(m, tea.WindowSizeMsg{Width: 120, Height: 30}, lostMsg{m.link.number, errGone})
	hides(t, m, "┌─ peers")
	shows(t, m, "meshd is not answering")
}

// Before there is data each screen says what it waits for, but for the help.
func TestWaiting(t *testing.T) {
	m, _ := newTest(80, 24)
	for _, keys := range []string{"1", "2", "3", "2 enter", "c", "R", "j", "P", "y", "Y", "w", "Z", "[", "esc"} {
		press(m, strings.Fields(keys)...)
		shows(t, m, "connecting to /run/meshd/meshd.sock")
	}
	press(m, "?")
	shows(t, m, "MOVE", "source /run/meshd/meshd.sock   meshtui 0.1.0   man")
	press(m, "esc", "1")
	tell(m, hello("x"), snapshot(someMesh(0)))
	shows(t, m, "FAILED  1 DOWN")
}

// A body that does not fit is scrolled, and help goes back to where it was asked for.
func TestScroll(t *testing.T) {
	m, _ := someDashboard(64, 20, rejected)
	press(m, "2", "enter", "?")
	shows(t, m, "MOVE", "lines more: j")
	press(m, "G")
	shows(t, m, "STATES")
	hides(t, m, "MOVE", "lines more")
	press(m, "?")
	shows(t, m, "PEERS > edge-05")
	press(m, "esc", "c", "G")
	shows(t, m, "net.ipv4.ip_forward is 0")
	send(m, tea.WindowSizeMsg{Width: 140, Height: 60}) // all fits
	shows(t, m, "FILE", "net.ipv4.ip_forward is 0")
	press(m, "g", "k")
	shows(t, m, "FILE")
}

func TestPageShown(t *testing.T) {
	var body []cell.Line
	for i := range 5 {
		body = append(body, cell.Text(fmt.Sprint(i)))
	}
	for name, test := range map[string]struct {
		above, h int
		want     string
	}{
		"fits":          {0, 5, "0|1|2|3|4"},
		"more room":     {3, 9, "0|1|2|3|4"},
		"the top":       {0, 3, "0|1| ↓ 3 lines more: j"},
		"the middle":    {1, 3, "1|2| ↓ 2 lines more: j"},
		"the end":       {2, 3, "2|3|4"},
		"after it grew": {4, 3, "2|3|4"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, l := range (page{test.above}).shown(body, test.h) {
				got = append(got, l.String())
			}
			if s := strings.Join(got, "|"); s != test.want {
				t.Errorf("%s, not %s", s, test.want)
			}
		})
	}
}

// Charts that are on the screen are asked for, once in five seconds.
func TestChartsAreAsked(t *testing.T) {
	m, c := someDashboard(80, 24, asItIs)
	for i := range 11 {
		c.forward(time.Second)
		tell(m, snapshot(someMesh(20+i)))
	}
	if got := m.now.Sub(m.asked[nodeHistory]); got >= historyEvery {
		t.Errorf("the last question was %v ago", got)
	}
	peer := historyKey{"edge-05", "5m"}
	if _, ok := m.asked[peer]; ok {
		t.Error("a chart is asked for that is not on the screen")
	}
	press(m, "2", "enter")
	at, ok := m.asked[peer]
	if !ok {
		t.Error("nobody asked for the peer's chart")
	}
	c.forward(time.Second)
	tell(m, snapshot(someMesh(31)))
	if m.asked[peer] != at {
		t.Error("asked again after a second")
	}
	m.options.Asker = nil // over --host
	tell(m, snapshot(someMesh(40)))
	shows(t, m, "-1m")
}

// A chart that is not to be had is none, and few are kept.
func TestHistories(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	send(m, historyMsg{nodeHistory, control.History{}, errGone})
	if _, ok := m.data.history[nodeHistory]; ok {
		t.Error("an old chart stays")
	}
	for i := range 100 {
		send(m, historyMsg{historyKey{fmt.Sprint(i), "5m"}, someHistory("", "5m"), nil})
	}
	if n := len(m.data.history); n > historiesKept {
		t.Errorf("%d histories are kept", n)
	}
}

// What is old is faint, on every screen.
func TestOldIsFaint(t *testing.T) {
	for _, keys := range []string{"1", "2", "3", "2 enter", "c"} {
		for _, size := range [][2]int{{80, 24}, {140, 40}} {
			t.Run(fmt.Sprint(keys, " ", size), func(t *testing.T) {
				m, c := someDashboard(size[0], size[1], asItIs)
				press(m, strings.Fields(keys)...)
				c.forward(20 * time.Second)
				send(m, tickMsg(c.now))
				frame := m.frame(m.width, m.height)
				for _, l := range frame[3 : len(frame)-2] {
					for _, s := range l {
						if s.Role == cell.Good || s.Role == cell.Accent {
							t.Errorf("%q is as if it were true", l)
						}
					}
				}
			})
		}
	}
	m, c := someDashboard(80, 24, asItIs)
	press(m, "2", "enter")
	c.forward(20 * time.Second)
	send(m, tickMsg(c.now))
	shows(t, m, " then")
}

// A peer that does not answer has no RTT now.
func TestNoRTTOfTheDead(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	press(m, "2", "g", "enter")
	shows(t, m, "PEERS > edge-14", "- now")
}
