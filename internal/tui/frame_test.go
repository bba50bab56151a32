package tui

import (
	"fmt"
	"strings"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"example.org/meshd/internal/control"
)

// situation is what a dashboard may be in.
type situation func(m *Model, c *clockwork)

func connected(*Model, *clockwork) {}

func gone(m *Model, _ *clockwork) { send(m, lostMsg{m.link.number, errGone}) }

func wentSilent(m *Model, c *clockwork) {
	c.forward(14 * time.Second)
	send(m, tickMsg(c.now))
}

func paused(m *Model, _ *clockwork) { press(m, "p") }

// How true it is always shows, on a narrow terminal too.
func TestHeader(t *testing.T) {
	for name, test := range map[string]struct {
		situation situation
		w         int
		want      string
	}{
		"live": {connected, 80,
			" meshtui · edge-01 · gen 12 ok · user+gso              ● live 1s · 14:07:52 UTC"},
		"silent": {wentSilent, 80,
			" meshtui · edge-01 · gen 12 · DATA 14 s OLD             ■ silent · 14:08:06 UTC"},
		"disconnected": {gone, 80,
			" meshtui · edge-01 · gen 12 · DATA 0 s OLD        ■ disconnected · 14:07:52 UTC"},
		"paused": {paused, 80,
			" meshtui · edge-01 · gen 12 ok · user+gso           ◐ paused 0 s · 14:07:52 UTC"},
		"narrow":      {connected, 40, " edge-01 · gen 12 ok · user+… ● live 1s"},
		"narrow, old": {wentSilent, 40, " edge-01 · gen 12 · DATA 14 s… ■ silent"},
	} {
		m, c := someDashboard(test.w, 24, asItIs)
		test.situation(m, c)
		is(t, name, written(m.header(test.w)), test.want)
	}
	m, _ := newTest(80, 24)
	is(t, "connecting", strings.Join(strings.Fields(m.header(80).String()), " "),
		"meshtui ◐ connecting · 14:07:33 UTC")
}

// A terminal that is too small says in one line how many peers are up, and whether that is true.
func TestOneLine(t *testing.T) {
	for name, test := range map[string]struct {
		situation situation
		want      string
	}{
		"live":     {connected, "1 DOWN 1 stale 17 up gen 12 ok"},
		"silent":   {wentSilent, "OLD 14s 1 DOWN 1 stale 17 up"},
		"lost":     {gone, "OLD 0s 1 DOWN 1 stale 17 up"},
		"paused":   {paused, "PAUSED 1 DOWN 1 stale 17 up"},
		"question": {func(m *Model, _ *clockwork) { press(m, "R") }, "reload? y/n"},
	} {
		m, c := someDashboard(30, 6, asItIs)
		test.situation(m, c)
		is(t, name, written(m.oneLine()), test.want)
	}
	m, _ := newTest(30, 6)
	is(t, "connecting", written(m.oneLine()), "connecting")
	gone(m, nil)
	is(t, "nobody there", written(m.oneLine()), "meshd is not answering")
	bad, _ := someDashboard(30, 6, rejected)
	is(t, "a file that is rejected", written(bad.oneLine()), "1 DOWN 1 stale 17 up gen 12 FILE REJECTED")
	is(t, "starting", written(startingScene(30, 6).oneLine()), "0 up starting")
}

// The last line is keys, unless there is something else to say.
func TestFooter(t *testing.T) {
	for name, test := range map[string]struct{ keys, want string }{
		"keys of a screen":      {"2", " j k move  enter detail"},
		"keys of the waiting":   {"?", " esc q back  j k scroll"},
		"a filter":              {"2 / a b", " /ab"},
		"a question":            {"R", " reload?  y yes  n no   /etc/mesh.toml on edge-01"},
		"what happened":         {"Z", " counters start from now in this view"},
		"no such key":           {"x", " 'x' does nothing here: ? shows the keys"},
		"a name":                {": e d", " :ed  → edge-02"},
		"undone":                {"Z Z", " counters start from meshd's start again"},
		"a question goes first": {"Z R", " reload?"},
	} {
		t.Run(name, func(t *testing.T) {
			m, _ := someDashboard(80, 24, asItIs)
			press(m, strings.Fields(test.keys)...)
			if got := m.footer(80).String(); !strings.HasPrefix(got, test.want) {
				t.Errorf("%q, not %q", got, test.want)
			}
		})
	}
	m, c := someDashboard(80, 24, asItIs)
	press(m, "Z")
	c.forward(noticeFor)
	tell(m, snapshot(someMesh(28)))
	hides(t, m, "counters start") // it stood long enough
	gone(m, c)
	shows(t, m, " r retry now  1 2 3 4 old data")
}

// Each screen says how to get help and how to leave, however narrow the terminal is.
func TestFootersEndInHelpAndQuit(t *testing.T) {
	for name, make := range scenes {
		for _, w := range []int{40, 64, 80, 100, 120, 140, 200} {
			m := make(w, 30)
			if b := m.bottom; b.prompt != nil || b.question != nil || b.notice.text != "" {
				continue // these are to be read, and end by themselves
			}
			is(t, fmt.Sprint(name, " ", w), last(written(m.footer(w)), len("? help  q quit")), "? help  q quit")
		}
	}
}

// last is the end of a text.
func last(s string, n int) string { return s[max(0, len(s)-n):] }

// A picture is painted once for each message, and not at all for a tick that changes nothing.
func TestPaintedOnce(t *testing.T) {
	m, c := someDashboard(80, 24, asItIs)
	first := m.View()
	c.forward(time.Second)
	send(m, tickMsg(c.now))
	if m.painted == "" || m.View() != first {
		t.Error("a tick right after a snapshot is drawn")
	}
	c.forward(time.Second)
	send(m, tickMsg(c.now))
	if m.painted != "" || m.View() == first {
		t.Error("a tick without snapshots is not drawn: the clock stands still")
	}
	send(m, tea.WindowSizeMsg{Width: 90, Height: 24})
	checkFrame(t, m.View(), 90, 24)
	none, _ := newTest(0, 0) // as one at a serial line
	checkFrame(t, none.View(), 80, 24)
	send(m, tea.WindowSizeMsg{})
	checkFrame(t, m.View(), 80, 24)
	early := New(Options{Watcher: mute{}})
	if got := early.View(); got != "" {
		t.Errorf("%q before the terminal has said anything", got)
	}
}

// The tabs count peers and new alarms where there is room, and say how the mesh is.
func TestTabLine(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	is(t, "wide", written(m.tabLine(80)),
		"[1 Overview]  2 Peers 17/19   3 Events 2!   4 Node                    ■ FAILED")
	is(t, "narrow", written(m.tabLine(40)), "[1 Overview]  2   3   4       ■ FAILED")
	press(m, "3")
	is(t, "events", written(m.tabLine(80)),
		" 1 Overview   2 Peers 17/19  [3 Events]  4 Node                       ■ FAILED")
	none, _ := newTest(80, 24)
	is(t, "without data", written(none.tabLine(80)), "[1 Overview]  2 Peers   3 Events   4 Node")
	tell(none, hello("x"), snapshot(&control.Status{BootID: "x"}))
	is(t, "without peers", written(none.tabLine(80)),
		"[1 Overview]  2 Peers 0/0   3 Events   4 Node                       ◐ STARTING")
}
