package tui

import (
	"fmt"

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
		if q := m.bottom.question; q != nil && q.careful {
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
	case m.bottom.question != nil:
		return m.answered(key)
	}
	if r, ok := m.screen().press(m.view(), key); ok {
		return m.do(r)
	}
	if act, ok := actions[key]; ok {
		return act(m)
	}
	m.say(false, fmt.Sprintf("'%s' does nothing here: ? shows the keys", key))
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
		"q": (*Model).leave, "Q": func(*Model) tea.Cmd { return tea.Quit },
		"ctrl+z": func(*Model) tea.Cmd { return tea.Suspend },
		"1":      to(overviewTab), "2": to(peersTab), "3": to(eventsTab), "4": to(nodeTab),
		"?": (*Model).help, "f1": (*Model).help, "c": (*Model).look,
		"F":   func(m *Model) tea.Cmd { m.open(flows{}); return nil },
		"tab": nextTab(1), "l": nextTab(1), "right": nextTab(1),
		"shift+tab": nextTab(-1), "h": nextTab(-1), "left": nextTab(-1),
		"esc": func(m *Model) tea.Cmd { m.back(); return nil },
		"/":   (*Model).typeFilter, ":": (*Model).typeName,
		"n": func(m *Model) tea.Cmd { return m.problem(1) },
		"N": func(m *Model) tea.Cmd { return m.problem(-1) },
		"s": toggle(func(c *choices) { c.sort = (c.sort + 1) % sortKeys }),
		"S": toggle(func(c *choices) { c.reverse = !c.reverse }),
		"A": by(sortName), "L": by(sortLoss), "D": by(sortDrops), "T": by(sortTraffic),
		"u": (*Model).nextUnit,
		"o": toggle(func(c *choices) { c.compact = !c.compact }),
		"t": toggle(func(c *choices) { c.span = (c.span + 1) % len(spans) }),
		"p": pause, " ": pause,
		"[": func(m *Model) tea.Cmd { m.choices.cursor = m.view().neighbour(-1); return nil },
		"]": func(m *Model) tea.Cmd { m.choices.cursor = m.view().neighbour(1); return nil },
		"a": (*Model).restyle, "m": (*Model).mice, "Z": (*Model).zero, "r": (*Model).again,
		"+": (*Model).faster, "=": (*Model).faster, "-": (*Model).slower,
		"P": (*Model).ping, "R": (*Model).reload,
		"y": (*Model).copyMenu, "Y": (*Model).copyJSON, "w": (*Model).write,
	}
}

// nextTab is an action that shows a neighbour of the tab there is; they go round.
func nextTab(by tab) func(m *Model) tea.Cmd {
	return func(m *Model) tea.Cmd { return to((m.tab + tabs + by) % tabs)(m) }
}

// by is an action that orders peers by a figure; a second press goes back to the order by state.
func by(k sortKey) func(m *Model) tea.Cmd {
	return toggle(func(c *choices) {
		if c.reverse = false; c.sort == k {
			c.sort = sortState
			return
		}
		c.sort = k
	})
}

// leave closes a page, or the program if there is none: that is what the key does in other programs.
func (m *Model) leave() tea.Cmd {
	if len(m.pages) == 0 {
		return tea.Quit
	}
	m.back()
	return nil
}

// nextUnit counts rates in another unit, and says in which: figures alone do not tell.
func (m *Model) nextUnit() tea.Cmd {
	m.choices.units = (m.choices.units + 1) % unitsEnd
	m.say(false, "rates are "+[...]string{"bits", "bytes", "packets"}[m.choices.units]+" per second")
	return nil
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

// again tries a lost connection now. A connection that works is left alone: the key lies
// beside others that are pressed often.
func (m *Model) again() tea.Cmd {
	if m.link.lost == nil && m.live() {
		return nil
	}
	return m.connect()
}
