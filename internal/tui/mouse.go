package tui

import tea "github.com/charmbracelet/bubbletea"

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
