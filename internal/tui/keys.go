package tui

import (
	"slices"
	"time"

	tea "github.com/charmbracelet/bubbletea"
)

// keys does what keys ask for. Those that come together, from a quick hand or over a
// slow line, are one message; Escape and a key are then taken for Alt and that key,
// which means nothing here.
func (m *Model) keys(msg tea.KeyMsg) tea.Cmd {
	if msg.Paste && m.bottom.prompt == nil { // a text is no command
		return nil
	}
	var cmds []tea.Cmd
	if msg.Alt {
		cmds = append(cmds, m.key(tea.KeyMsg{Type: tea.KeyEsc}))
		msg.Alt = false
	}
	if msg.Type != tea.KeyRunes {
		return tea.Batch(append(cmds, m.key(msg))...)
	}
	for _, r := range msg.Runes {
		cmds = append(cmds, m.key(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune{r}}))
		if m.bottom.asking { // a question is answered by somebody who has seen it
			break
		}
	}
	return tea.Batch(cmds...)
}

// key does what one key asks for: first what is being typed or answered, then what the
// screen knows, then what all screens know.
func (m *Model) key(msg tea.KeyMsg) tea.Cmd {
	defer m.settle() // the next key of the same message finds everything in its place
	key := msg.String()
	switch {
	case key == "ctrl+c":
		return tea.Quit
	case m.bottom.prompt != nil:
		m.typed(msg)
		return nil
	case m.bottom.asking:
		return m.answered(key)
	}
	if r, ok := m.screen().press(m.view(), key); ok {
		return m.do(r)
	}
	if act, ok := actions[key]; ok {
		return act(m)
	}
	return nil
}

// actions are what keys do on all screens that do not know better. help.go lists them for
// people.
var actions map[string]func(m *Model) tea.Cmd

// toggle is an action that only changes a choice.
func toggle(change func(c *choices)) func(m *Model) tea.Cmd {
	return func(m *Model) tea.Cmd { change(&m.choices); return nil }
}

// to is an action that shows a tab.
func to(t tab) func(m *Model) tea.Cmd {
	return func(m *Model) tea.Cmd { m.show(t); return nil }
}

// The table refers to functions that refer to the table: as the value of a variable that would be an
// initialization cycle, which the compiler refuses.
func init() { // after the functions, which refer to the table in the end
	pause := toggle(func(c *choices) { c.paused = !c.paused })
	actions = map[string]func(m *Model) tea.Cmd{
		"q":      func(*Model) tea.Cmd { return tea.Quit },
		"ctrl+z": func(*Model) tea.Cmd { return tea.Suspend },
		"1":      to(overviewTab), "2": to(peersTab), "3": to(eventsTab), "?": (*Model).help, "c": (*Model).look,
		"tab":       func(m *Model) tea.Cmd { return to((m.tab + 1) % tabs)(m) },
		"shift+tab": func(m *Model) tea.Cmd { return to((m.tab + tabs - 1) % tabs)(m) },
		"esc":       func(m *Model) tea.Cmd { m.back(); return nil },
		"/":         func(m *Model) tea.Cmd { m.typeFilter(); return nil },
		"s":         toggle(func(c *choices) { c.sort = (c.sort + 1) % sortKeys }),
		"S":         toggle(func(c *choices) { c.reverse = !c.reverse }),
		"u":         toggle(func(c *choices) { c.units = (c.units + 1) % unitsEnd }),
		"o":         toggle(func(c *choices) { c.compact = !c.compact }),
		"t":         toggle(func(c *choices) { c.span = (c.span + 1) % len(spans) }),
		"p":         pause, " ": pause,
		"[": func(m *Model) tea.Cmd { m.choices.cursor = m.view().neighbour(-1); return nil },
		"]": func(m *Model) tea.Cmd { m.choices.cursor = m.view().neighbour(1); return nil },
		"a": (*Model).restyle, "m": (*Model).mice, "Z": (*Model).zero, "r": (*Model).again,
		"+": (*Model).faster, "=": (*Model).faster, "-": (*Model).slower,
		"P": (*Model).ping, "R": (*Model).reload,
		"y": (*Model).copyRow, "Y": (*Model).copyJSON, "w": (*Model).write,
	}
}

// zero has counters count from now, or again from the daemon's start. Only this view is
// changed: the daemon's counters are monotonic, and others read them.
func (m *Model) zero() tea.Cmd {
	if m.choices.base != nil {
		m.choices.base = nil
		m.say(false, "counters start from meshd's start again")
	} else if m.data.status != nil {
		m.choices.base = m.data.status
		m.say(false, "counters start from now in this view; Z: from meshd's start")
	}
	return nil
}

// paces are the times between snapshots that there are to choose from.
var paces = []time.Duration{
	500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second,
}

// faster chooses the next shorter time.
func (m *Model) faster() tea.Cmd { return m.pace(-1) }

// slower chooses the next longer time.
func (m *Model) slower() tea.Cmd { return m.pace(1) }

// pace chooses another time between snapshots. The daemon learns it with a new connection.
func (m *Model) pace(by int) tea.Cmd {
	at := slices.IndexFunc(paces, func(p time.Duration) bool { return p >= m.options.Interval })
	if at < 0 { // --interval may be longer than all of them
		at = len(paces) - 1
	}
	next := paces[max(0, min(at+by, len(paces)-1))]
	if next == m.options.Interval {
		return nil
	}
	m.options.Interval = next
	return m.connect()
}

// again tries a lost connection now. A connection that works is left alone: the key lies
// beside others that are pressed often.
func (m *Model) again() tea.Cmd {
	if m.link.lost == nil && m.live() {
		return nil
	}
	return m.connect()
}

// mice turns the mouse on or off. It is off at first, since a terminal that sends clicks
// does not select text any more.
func (m *Model) mice() tea.Cmd {
	m.mouse = !m.mouse
	if m.mouse {
		m.say(false, "mouse on: the wheel moves the cursor, a click selects a peer; m turns it off")
		return tea.EnableMouseCellMotion
	}
	return tea.DisableMouse
}

// resume comes after a suspension, for which Bubble Tea has turned the mouse off.
func (m *Model) resume() tea.Cmd {
	if m.mouse {
		return tea.EnableMouseCellMotion
	}
	return nil
}

// click moves the cursor to the peer that was clicked at; the wheel is two keys. Where the
// rows stand on the screen is noted by settle, which knows the screen.
func (m *Model) click(msg tea.MouseMsg) tea.Cmd {
	switch {
	case msg.Button == tea.MouseButtonWheelUp:
		return m.key(tea.KeyMsg{Type: tea.KeyUp})
	case msg.Button == tea.MouseButtonWheelDown:
		return m.key(tea.KeyMsg{Type: tea.KeyDown})
	case msg.Button == tea.MouseButtonLeft && msg.Action == tea.MouseActionPress:
		line := msg.Y - above(m.height) - m.table.first
		if m.table.first > 0 && line >= 0 && line < min(m.table.room, len(m.table.rows)-m.table.top) {
			m.choices.cursor = m.table.rows[m.table.top+line].Name
		}
	}
	return nil
}
