package tui

import (
	"errors"
	"strings"
	"testing"

	tea "github.com/charmbracelet/bubbletea"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/text/hostile"
)

// hostileLine is a line of a connection in which every text hurts.
func hostileLine(kind string) (w control.Watched) {
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

// hostileMessages are all messages that carry text of others.
func hostileMessages(m *Model) []tea.Msg {
	evil := errors.New(hostile.Bytes)
	var history control.History
	var ping control.Ping
	var reload control.ReloadResult
	var plan control.Plan
	for _, v := range []any{&history, &ping, &reload, &plan} {
		hostile.Fill(v)
	}
	reload.Reload.OK = false
	sentences := control.Plan{Changes: []string{hostile.Bytes}}
	return []tea.Msg{
		tea.WindowSizeMsg{Width: 160, Height: 50}, lostMsg{m.link.number, evil},
		linesMsg{0, []control.Watched{hostileLine("hello"), hostileLine("snapshot"), hostileLine("event")}},
		linesMsg{0, []control.Watched{hostileLine("snapshot")}}, historyMsg{nodeHistory, history, nil},
		planMsg{plan, nil}, planMsg{sentences, nil}, planMsg{err: evil}, reloadMsg{reload, nil},
		reloadMsg{reload, evil},
		pingMsg{"b", 0, ping, nil}, pingMsg{"b", 0, ping, evil}, noticeMsg{hostile.Bytes, true}, lostMsg{0, evil},
	}
}

// Whatever another host says, in whichever field, each screen shows it and nothing of
// it is obeyed. The frames have no colours, so every escape in them is one too many.
func TestHostileHost(t *testing.T) {
	m, _ := newTest(80, 24)
	t.Cleanup(m.Close)
	m.options.Where = New(Options{Where: hostile.Bytes}).options.Where
	said := 0
	for _, msg := range hostileMessages(m) {
		switch of := msg.(type) { // all of them are of the connection there is
		case linesMsg:
			msg = linesMsg{m.link.number, of.lines}
		case lostMsg:
			msg = lostMsg{m.link.number, of.err}
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
}

// Text is clean where it is kept, not only where it is drawn: the clipboard and files get
// it from there. A field that is added to the API later is filled here, too.
func TestWhatIsKeptIsClean(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	m, _ := newTest(80, 24)
	tell(m, hostileLine("hello"), hostileLine("snapshot"), hostileLine("event"))
	var plan control.Plan
	var history control.History
	hostile.Fill(&plan)
	hostile.Fill(&history)
	send(m, planMsg{plan: plan}, historyMsg{nodeHistory, history, nil})
	path, err := writeSnapshot(m.data.status)
	if err != nil || hostile.Fault(path) != "" {
		t.Errorf("%q, %v", path, err)
	}
	for name, kept := range map[string]any{
		"status": m.data.status, "events": m.data.events[len(m.data.events)-1].Event,
		"plan": m.data.disk.plan, "history": m.data.history[nodeHistory],
	} {
		t.Run(name, func(t *testing.T) {
			if fault := hostile.Fault(spelled(kept)); fault != "" {
				t.Error(fault)
			}
		})
	}
}
