package tui

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/text/hostile"
)

// Whatever another host says, in whichever field, each screen shows it and nothing of
// it is obeyed. The frames have no colours, so every escape in them is one too many.
func TestHostileHost(t *testing.T) {
	c := &clockwork{noon}
	clock := func() time.Time { return c.now }
	m := New(Options{Watcher: mute{}, Asker: mute{}, Where: hostile.Bytes, Clock: clock})
	t.Cleanup(m.Close)
	evil := errors.New(hostile.Bytes)
	watched := func(kind string) (w control.Watched) {
		hostile.Fill(&w)
		switch kind {
		case "hello":
			w.Status, w.Event = nil, nil
		case "snapshot":
			w.Hello, w.Event = nil, nil
			w.Status.Peers = append(w.Status.Peers, w.Status.Peers[0], w.Status.Peers[0])
			w.Status.Peers[0].State, w.Status.Peers[1].State, w.Status.Peers[1].Name = control.Up, control.Down, "b"
			w.Status.Config.LastReload.OK = false
		default:
			w.Hello, w.Status = nil, nil
		}
		return w
	}
	var history control.History
	var ping control.Ping
	var reload control.ReloadResult
	var plan []string
	hostile.Fill(&history)
	hostile.Fill(&ping)
	hostile.Fill(&reload)
	hostile.Fill(&plan)
	reload.Reload.OK = false
	said := 0
	for _, msg := range []tea.Msg{
		tea.WindowSizeMsg{Width: 160, Height: 50}, lostMsg{m.connection, evil},
		linesMsg{0, []control.Watched{watched("hello"), watched("snapshot"), watched("event")}},
		linesMsg{0, []control.Watched{watched("snapshot")}}, historyMsg{historyKey{"", "5m"}, history, nil},
		planMsg{fileOnDisk{true, plan, nil}}, planMsg{fileOnDisk{true, nil, evil}},
		reloadMsg{reload, nil}, reloadMsg{reload, evil}, pingMsg{"b", 0, ping, nil}, pingMsg{"b", 0, ping, evil},
		noticeMsg{hostile.Bytes, true}, lostMsg{0, evil},
	} {
		switch of := msg.(type) { // all of them are of the connection there is
		case linesMsg:
			msg = linesMsg{m.connection, of.lines}
		case lostMsg:
			msg = lostMsg{m.connection, of.err}
		case pingMsg:
			m.pinged = pinged{peer: "b"}
		}
		send(m, msg)
		for _, keys := range []string{"1", "2", "2 enter", "3", "c", "c R", "?", "/ x esc"} {
			press(m, strings.Fields(keys)...)
			if fault := hostile.Fault(m.View()); fault != "" || strings.Contains(m.View(), "\t") {
				t.Errorf("%T, keys %s: %s", msg, keys, fault)
			}
			said += strings.Count(m.View(), `\u001b`)
			press(m, "n", "esc")
		}
	}
	if said < 100 {
		t.Errorf("the text is seen %d times only", said)
	}
	status := watched("snapshot").Status
	var out bytes.Buffer
	if err := Plain(&out, *status, noon, false); err != nil || hostile.Fault(out.String()) != "" {
		t.Errorf("%v, %s", err, hostile.Fault(out.String()))
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
