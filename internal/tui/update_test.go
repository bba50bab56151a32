package tui

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/tui/cell"
)

var errGone = fmt.Errorf("%w: nobody answers", control.ErrNotRunning)

// Rates are what counters grew by, divided by the daemon's own time; what cannot be
// known is a gap, never a spike.
func TestRates(t *testing.T) {
	status := func(boot string, uptime float64, rx uint64) *control.Status {
		return &control.Status{Node: "a", BootID: boot, UptimeSeconds: uptime, Now: noon, Totals: control.Totals{RxBytes: rx},
			Peers: []control.Peer{{Name: "b", State: control.Up, RxBytes: rx}}}
	}
	m, c := newTest(80, 24)
	tell(m, hello("x"))
	for i, step := range []struct {
		status *control.Status
		want   float64
	}{
		{status("x", 10, 1000), math.NaN()},
		{status("x", 11, 3000), 2000},
		{status("x", 13, 4000), 500}, // two seconds
		{status("x", 13, 4000), math.NaN()},
		{status("x", 14, 3000), math.NaN()}, // fell
		{status("x", 15, 3500), 500},
		{status("y", 1, 9e9), math.NaN()}, // another daemon
		{status("y", 2, 9e9+7), 7},
	} {
		c.forward(time.Second)
		tell(m, snapshot(step.status))
		for _, name := range []string{"", "b"} {
			if got := m.rateOf(name).rxBytes; got != step.want && !(math.IsNaN(got) && math.IsNaN(step.want)) {
				t.Errorf("step %d: %q %v, not %v", i, name, got, step.want)
			}
		}
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
	for _, s := range []struct{ uptime, seconds, rx float64 }{{100, 1, 1}, {101, 1, 2}, {104, 1, 3}, {106, 2, 4}, {300, 1, 5}} {
		track.add(s.uptime, s.seconds, rate{rxBytes: s.rx})
		got := fmt.Sprint(track.values(&track.rx)[52:])
		want := map[float64]string{
			100: "[NaN NaN NaN NaN NaN NaN NaN 1]", 101: "[NaN NaN NaN NaN NaN NaN 1 2]", 104: "[NaN NaN NaN 1 2 NaN NaN 3]",
			106: "[NaN 1 2 NaN NaN 3 4 4]", 300: "[NaN NaN NaN NaN NaN NaN NaN 5]",
		}[s.uptime]
		if got != want {
			t.Errorf("at %v: %s, not %s", s.uptime, got, want)
		}
	}
}

// A daemon that is gone is tried again, ever later; its data stays, as old.
func TestLosingTheDaemon(t *testing.T) {
	m, c := someDashboard(80, 24, nil)
	var waits []time.Duration
	for range 6 {
		send(m, lostMsg{m.connection, errGone})
		waits = append(waits, m.lost.retry.Sub(m.now))
		c.forward(waits[len(waits)-1])
		was := m.connection
		send(m, retryMsg{m.connection})
		if m.connection != was+1 || !m.lost.retry.IsZero() {
			t.Errorf("no new connection: %+v", m.lost)
		}
	}
	if got := fmt.Sprint(waits); got != "[500ms 1s 2s 4s 5s 5s]" {
		t.Error(got)
	}
	shows(t, m, "disconnected", "DATA 17 s OLD", "meshd is not answering", "nobody answers", "as of 14:07:52")
	press(m, "2")
	shows(t, m, "edge-05", "  -  ")
	press(m, "1")
	// What a connection that was given up still says is not heard.
	send(m, lostMsg{m.connection - 1, errors.New("late")}, linesMsg{m.connection - 1, []control.Watched{hello("z")}}, retryMsg{m.connection - 1})
	if m.data.last != "5d2e6f70" || errors.Is(m.lost.err, errors.New("late")) {
		t.Error("an old connection was heard")
	}
	tell(m, hello("5d2e6f70"), snapshot(someMesh(37)))
	shows(t, m, "● live 1s")
	hides(t, m, "not answering", "OLD")
	if m.attempts != 0 {
		t.Error("the next loss begins with long waits")
	}
}

// r does not wait.
func TestRetryNow(t *testing.T) {
	m, _ := newTest(80, 24)
	send(m, lostMsg{m.connection, errGone})
	was := m.connection
	press(m, "r")
	if m.connection != was+1 {
		t.Error("not tried")
	}
	tell(m, hello("x"), snapshot(someMesh(0)))
	press(m, "r")
	if m.connection != was+1 {
		t.Error("a connection that is well was given up")
	}
}

// A daemon that was started again is an event; what the one before told stays.
func TestRestart(t *testing.T) {
	m, _ := someDashboard(80, 24, nil)
	press(m, "Z")
	send(m, lostMsg{m.connection, errGone})
	s := someMesh(0)
	s.BootID, s.UptimeSeconds = "new", 1
	tell(m, hello("new"), snapshot(s), happening(control.Event{Seq: 1, At: noon, Level: "info", Kind: "starting", Message: "starting"}))
	press(m, "3")
	shows(t, m, "meshd was restarted: counters begin anew", "edge-14 is down", "starting", "7 events")
	// The same daemon again: its events are told anew, and not twice.
	send(m, lostMsg{m.connection, errGone})
	tell(m, hello("new"), snapshot(s), happening(control.Event{Seq: 1, At: noon, Level: "info", Kind: "starting", Message: "starting"}))
	shows(t, m, "7 events")
	if m.base != nil {
		t.Error("counters of another daemon are zeroed with those of the one before")
	}
}

// A daemon that says nothing any more is not live, though connected.
func TestSilence(t *testing.T) {
	m, c := someDashboard(80, 24, nil)
	c.forward(3 * time.Second)
	send(m, tickMsg(c.now))
	shows(t, m, "● live 1s")
	c.forward(2 * time.Second)
	send(m, tickMsg(c.now))
	shows(t, m, "○ silent", "no news for 5 s: meshd (pid 812) hangs")
	tell(m, snapshot(someMesh(25)))
	shows(t, m, "● live 1s")
}

// A pause holds the picture, not the connection.
func TestPause(t *testing.T) {
	m, c := someDashboard(80, 24, nil)
	press(m, "p")
	c.forward(30 * time.Second)
	tell(m, snapshot(rejected(someMesh(50))))
	shows(t, m, "◐ paused 30 s", "last heard 28 s ago")
	hides(t, m, "FILE")
	press(m, " ")
	tell(m, snapshot(rejected(someMesh(51))))
	shows(t, m, "FILE", "/etc/mesh.toml:31:12", "still running generation 12", "FILE REJECTED")
}

// The cursor follows its peer, whatever the order.
func TestCursorFollows(t *testing.T) {
	m, _ := someDashboard(80, 24, nil)
	press(m, "2", "g")
	shows(t, m, "> edge-14    ○ DOWN")
	press(m, "j", "j", "j", "k")
	shows(t, m, "> edge-02")
	press(m, "s", "S") // by name, backwards
	shows(t, m, "> edge-02", "sort name reversed", "rows 6-19/19")
	press(m, "G", "g")
	shows(t, m, "> edge-20", "rows 1-14/19")
	s := someMesh(30)
	s.Peers = s.Peers[:18] // edge-20 is gone
	tell(m, snapshot(s))
	hides(t, m, "edge-20")
	shows(t, m, "> edge-19")
	press(m, "enter")
	s = someMesh(31)
	s.Peers = s.Peers[:17]
	tell(m, snapshot(s))
	shows(t, m, "PEERS > edge-19", "the file in force has no such node any more")
}

// Each order puts the largest figure first.
func TestOrders(t *testing.T) {
	m, _ := someDashboard(80, 24, nil)
	press(m, "2")
	for key, want := range map[sortKey]string{
		sortState: "edge-14 edge-05 edge-02", sortName: "edge-02 edge-03 edge-04", sortRTT: "edge-20 edge-19 edge-18", sortLoss: "edge-14 edge-05 edge-02",
		sortRx: "edge-05 edge-02 edge-09", sortTx: "edge-05 edge-02 edge-09", sortDrops: "edge-14 edge-05 edge-02", sortSeen: "edge-14 edge-05 edge-03",
	} {
		m.sort = key
		var names []string
		for _, p := range m.rows()[:3] {
			names = append(names, p.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("by %s: %s, not %s", key, got, want)
		}
	}
}

// A filter acts while it is typed, and can be turned round and left.
func TestFilter(t *testing.T) {
	m, _ := someDashboard(80, 24, nil)
	press(m, "/")
	shows(t, m, "[2 Peers", "enter keeps")
	press(m, "1", "9", "2", ".", "1", "6", "8")
	shows(t, m, "rows 1-1/1", "edge-05")
	press(m, "enter")
	shows(t, m, "filter: 192.168", "> edge-05")
	press(m, "/", "ctrl+u", "!", "u", "p", "enter")
	shows(t, m, "filter: !up", "rows 1-2/2", "DOWN", "stale")
	press(m, "/", "ctrl+u", "(", "backspace", "(") // no regular expression
	shows(t, m, "rows 0-0/0", `no peer matches "("`)
	press(m, "esc")
	shows(t, m, "filter: none", "rows 1-14/19")
	press(m, "/", "d", "o", "w", "n", "enter", "3")
	shows(t, m, "1 event · filter: down", "edge-14 is down")
	press(m, "esc")
	shows(t, m, "5 events · filter: none")
}

// Keys that are pressed quickly come as one message.
func TestManyKeysAtOnce(t *testing.T) {
	m, _ := someDashboard(80, 24, nil)
	press(m, "2gjj/192")
	shows(t, m, "filter: 192", "rows 1-1/1")
	press(m, "enter")
	send(m, tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("ss"), Alt: true}) // Escape, s, s
	shows(t, m, "filter: none", "sort rtt")
	press(m, "1c")
	shows(t, m, "ON DISK")
}

// The alarms that nobody has looked at are counted in the tab.
func TestUnseenEvents(t *testing.T) {
	m, _ := someDashboard(80, 24, nil)
	shows(t, m, "3 Events 2!")
	press(m, "3")
	hides(t, m, "3 Events 2!")
	press(m, "1")
	tell(m, happening(control.Event{Seq: 6, At: noon, Level: "info", Message: "all is well"}))
	hides(t, m, "!  ")
	tell(m, happening(control.Event{Seq: 7, At: noon, Level: "error", Message: "it is not"}))
	shows(t, m, "3 Events 1!")
}

// The events screen follows the newest, unless somebody looks at an older one.
func TestEventsFollow(t *testing.T) {
	m, _ := someDashboard(80, 24, nil)
	press(m, "3")
	shows(t, m, "follows", "> 14:07:24 WARN  edge-05 is stale")
	press(m, "k")
	tell(m, happening(control.Event{Seq: 6, At: noon, Level: "info", Message: "news"}))
	shows(t, m, "2 newer", "> 14:05:33 ERROR edge-14 is down", "news")
	press(m, "enter")
	shows(t, m, "PEERS > edge-14")
	press(m, "esc", "G")
	shows(t, m, "follows", "> 14:07:33 INFO  news")
	press(m, "g")
	shows(t, m, "> 10:07:33 INFO  forwarding")
	for i := range 3 * eventsKept {
		tell(m, happening(control.Event{Seq: uint64(i + 7), At: noon, Level: "info", Message: "flood"}))
	}
	if len(m.data.events) > eventsKept {
		t.Errorf("%d events are kept", len(m.data.events))
	}
}

// answers is an asker that answers.
type answers struct {
	mute
	pings int
	err   error
}

func (a *answers) Ping(_ context.Context, r control.PingRequest) (control.Ping, error) {
	a.pings++
	p := control.Ping{Peer: r.Peer, Size: 108}
	if a.pings != 3 {
		p.RTTMS = new(float64(a.pings))
	}
	return p, a.err
}

// perform runs a command and what follows from it, as long as something does.
func perform(t *testing.T, m *Model, cmd tea.Cmd) {
	t.Helper()
	for n := 0; cmd != nil && n < 50; n++ {
		msg := cmd()
		if batch, ok := msg.(tea.BatchMsg); ok {
			for _, c := range batch {
				perform(t, m, c)
			}
			return
		}
		if msg == nil {
			return
		}
		cmd = m.take(msg)
	}
}

func TestPingKey(t *testing.T) {
	m, _ := someDashboard(80, 24, nil)
	a := &answers{}
	m.options.Asker = a
	perform(t, m, m.ping())
	shows(t, m, "choose a peer first")
	press(m, "2")
	perform(t, m, m.ping())
	shows(t, m, "ping edge-05 (108 bytes): 1.00 ms, 2.00 ms, no answer, 4.00 ms, 5.00 ms")
	a.err = errors.New("it broke")
	perform(t, m, m.ping())
	shows(t, m, "ping edge-05: it broke")
	m.options.Asker = nil
	perform(t, m, m.ping())
	shows(t, m, "not over --host")
}

func TestReloadKey(t *testing.T) {
	m, _ := someDashboard(80, 24, nil)
	press(m, "R")
	shows(t, m, "Read /etc/mesh.toml on edge-01 now?", "looking ...")
	press(m, "q") // answers the question, and nothing else
	hides(t, m, "now?")
	press(m, "R", "y")
	shows(t, m, "reloading ...")
	send(m, reloadMsg{control.ReloadResult{Generation: 13, Reload: control.Reload{OK: true, DurationMS: 41, Changes: []string{"+ peer edge-21"}}}, nil})
	shows(t, m, "generation 13 applied in 41 ms: + peer edge-21")
	send(m, reloadMsg{control.ReloadResult{Generation: 13, Reload: control.Reload{Error: "x:1:2: error: no\nx:2:1: error: never"}}, nil})
	shows(t, m, "rejected, still running generation 13: x:1:2: error: no (and 1 more)")
	send(m, reloadMsg{control.ReloadResult{}, fmt.Errorf("%w: only root", control.ErrPermission)})
	shows(t, m, "reload: not permitted: only root")
}

// The clipboard is the terminal's.
func TestCopy(t *testing.T) {
	m, _ := someDashboard(80, 24, nil)
	var out strings.Builder
	m.options.Terminal = &out
	perform(t, m, m.copyRow())
	shows(t, m, "row sent to the clipboard")
	if got := out.String(); got != "\x1b]52;c;ZWRnZS0wNSAgc3RhbGUgIDE5OC41MS4xMDAuNTo4Mjg1ICAxMC41LjAuMC8xNiAgNi44NSBtcyAgMTIl\x07" {
		t.Errorf("%q", got)
	}
	perform(t, m, m.copyJSON())
	shows(t, m, "JSON sent to the clipboard")
}

// A snapshot for a report is the API's object.
func TestWriteSnapshot(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	m, _ := someDashboard(120, 24, nil)
	perform(t, m, m.write())
	shows(t, m, "snapshot written to "+os.TempDir()+"/meshtui-edge-01-20261124-140752-")
	files, err := os.ReadDir(os.TempDir())
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if doc, err := os.ReadFile(os.TempDir() + "/" + files[0].Name()); err != nil || !strings.Contains(string(doc), `"schema": 1`) {
		t.Errorf("%s, %v", doc, err)
	}
}

// Z counts from now, in this view.
func TestZero(t *testing.T) {
	m, _ := someDashboard(80, 24, nil)
	press(m, "2", "Z")
	shows(t, m, "counters since 14:07:52")
	tell(m, snapshot(someMesh(21))) // too_big grows by one a second
	shows(t, m, "> edge-05    ◐ stale     6.85   12%   40.0M   36.0M   5.00k   5.56k      2   30s")
	press(m, "Z")
	hides(t, m, "counters since")
}

// Units, columns, spans, glyphs.
func TestViews(t *testing.T) {
	m, _ := someDashboard(80, 24, nil)
	press(m, "2")
	shows(t, m, "RX b/s", "40.0M")
	press(m, "u")
	shows(t, m, "RX B/s", "5.00M")
	press(m, "u")
	shows(t, m, "TX p/s", "5.00k")
	press(m, "o")
	hides(t, m, "LOSS", "DROPS")
	press(m, "o", "u", "enter", "t")
	shows(t, m, "-1h")
	press(m, "]")
	shows(t, m, "PEERS > edge-02")
	press(m, "[", "t", "t")
	shows(t, m, "PEERS > edge-05", "-5m ")
	press(m, "a")
	if strings.ContainsRune(m.View(), '●') {
		t.Error("still not ASCII")
	}
	was := m.connection
	press(m, "+")
	if m.options.Interval != 500*time.Millisecond || m.connection != was+1 {
		t.Errorf("interval %v", m.options.Interval)
	}
	press(m, "-", "-", "-", "-", "-", "-")
	if m.options.Interval != 10*time.Second {
		t.Errorf("interval %v", m.options.Interval)
	}
}

// A click chooses a row, the wheel moves.
func TestMouse(t *testing.T) {
	m, _ := someDashboard(80, 24, nil)
	press(m, "2", "m")
	shows(t, m, "mouse on")
	send(m, tea.MouseMsg{Y: 5, Button: tea.MouseButtonLeft, Action: tea.MouseActionPress})
	shows(t, m, "> edge-14")
	send(m, tea.MouseMsg{Button: tea.MouseButtonWheelDown}, tea.MouseMsg{Button: tea.MouseButtonWheelDown}, tea.MouseMsg{Button: tea.MouseButtonWheelUp})
	shows(t, m, "> edge-05")
	send(m, tea.MouseMsg{Y: 23, Button: tea.MouseButtonLeft, Action: tea.MouseActionPress})
	shows(t, m, "> edge-05")
	big, _ := someDashboard(140, 40, nil)
	send(big, tea.MouseMsg{Y: 15, Button: tea.MouseButtonLeft, Action: tea.MouseActionPress})
	shows(t, big, "> edge-14")
}

// Charts that are on the screen are asked for, once in five seconds.
func TestChartsAreAsked(t *testing.T) {
	m, c := someDashboard(80, 24, nil)
	asked := func() (keys []historyKey) {
		before := map[historyKey]time.Time{}
		for k, at := range m.askedFor {
			before[k] = at
		}
		send(m, tickMsg(c.now))
		for k, at := range m.askedFor {
			if before[k] != at {
				keys = append(keys, k)
			}
		}
		return keys
	}
	c.forward(time.Second)
	tell(m, snapshot(someMesh(20)))
	for i := range 10 {
		c.forward(time.Second)
		tell(m, snapshot(someMesh(21+i)))
	}
	if got := m.now.Sub(m.askedFor[historyKey{"", "5m"}]); got >= historyEvery {
		t.Errorf("the last question was %v ago", got)
	}
	press(m, "2", "enter")
	if _, ok := m.askedFor[historyKey{"edge-05", "5m"}]; !ok {
		t.Error("nobody asked for the peer's chart")
	}
	if got := asked(); len(got) != 0 {
		t.Errorf("asked again at once: %v", got)
	}
	m.options.Asker = nil // over --host
	tell(m, snapshot(someMesh(40)))
	shows(t, m, "-1m")
}

// A text that is pasted is none of ours, but for a filter.
func TestPaste(t *testing.T) {
	m, _ := someDashboard(80, 24, nil)
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

// The question is on screens of every size.
func TestReloadQuestionShows(t *testing.T) {
	for _, size := range [][2]int{{140, 40}, {80, 24}, {40, 8}, {30, 6}, {11, 1}} {
		m, _ := someDashboard(size[0], size[1], nil)
		press(m, "R")
		shows(t, m, "reload")
		press(m, "n")
		if m.asking {
			t.Error("still asked")
		}
	}
}

// A daemon that accepts and says nothing is said to hang, and tried again.
func TestMute(t *testing.T) {
	m, _ := newTest(80, 24)
	was := m.connection
	send(m, muteMsg{was})
	shows(t, m, "connected, but nothing is said for 4s: meshd hangs", "meshd does not tell")
	if m.lost == nil || m.lost.retry.IsZero() {
		t.Error("it is not tried again")
	}
	send(m, lostMsg{was, errors.New("context canceled")}) // of the connection that was given up
	hides(t, m, "context canceled")
	m.connect()
	tell(m, hello("x"), snapshot(someMesh(0)))
	send(m, muteMsg{m.connection})
	shows(t, m, "● live")
}

// What is old is faint, on every screen.
func TestOldIsFaint(t *testing.T) {
	for _, keys := range [][]string{{"1"}, {"2"}, {"3"}, {"2", "enter"}, {"c"}} {
		for _, size := range [][2]int{{80, 24}, {140, 40}} {
			m, c := someDashboard(size[0], size[1], nil)
			press(m, keys...)
			c.forward(20 * time.Second)
			send(m, tickMsg(c.now))
			frame := m.frame(m.width, m.height)
			for _, l := range frame[3 : len(frame)-2] {
				for _, s := range l {
					if s.Role == cell.Good || s.Role == cell.Accent {
						t.Errorf("%q after 20 s: %q is as if it were true", keys, l)
					}
				}
			}
		}
	}
	m, c := someDashboard(80, 24, nil)
	press(m, "2", "enter")
	c.forward(20 * time.Second)
	send(m, tickMsg(c.now))
	shows(t, m, " then")
}

// A peer that does not answer has no RTT now.
func TestNoRTTOfTheDead(t *testing.T) {
	m, _ := someDashboard(80, 24, nil)
	press(m, "2", "g", "enter")
	shows(t, m, "PEERS > edge-14", "- now")
}

// The overview's Enter opens the peer that is worst.
func TestOpenTheWorst(t *testing.T) {
	m, _ := someDashboard(80, 24, nil)
	m.cursor = "edge-02"
	press(m, "enter")
	shows(t, m, "PEERS > edge-14")
}

// Peers of which nothing is known are not well.
func TestUnknownIsNotWell(t *testing.T) {
	m, _ := someDashboard(80, 24, func(s *control.Status) *control.Status {
		s.Peers = s.Peers[:1]
		s.Peers[0].State = control.Unknown
		return s
	})
	shows(t, m, "◐ LOOK  1 unknown")
	hides(t, m, "WELL")
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
}

// The cursor stays on its event when others come that the filter hides.
func TestEventCursorWithFilter(t *testing.T) {
	m, _ := someDashboard(80, 24, nil)
	press(m, "3", "/", "edge-05", "enter", "k")
	shows(t, m, "> 13:55:33 INFO  edge-05 is up")
	tell(m, happening(control.Event{Seq: 9, At: noon, Level: "info", Message: "something else"}))
	shows(t, m, "> 13:55:33 INFO  edge-05 is up")
}

// A pause ends with the daemon that was looked at.
func TestPauseAndRestart(t *testing.T) {
	m, _ := newTest(80, 24)
	press(m, "p")
	tell(m, hello("x"), snapshot(someMesh(0)))
	shows(t, m, "paused", "edge-01")
	small, _ := someDashboard(30, 6, nil)
	press(small, "p")
	shows(t, small, "PAUSED 17 up")
}
