package tui

import (
	"slices"
	"strings"
	"time"
	"unicode"

	tea "github.com/charmbracelet/bubbletea"

	"example.org/meshd/internal/control"
)

// prompt is the filter while somebody types it.
type prompt struct{ text string }

// keys does what keys ask for. Those that come together, from a quick hand or over a
// slow line, are one message; Escape and a key are then taken for Alt and that key,
// which means nothing here.
func (m *Model) keys(msg tea.KeyMsg) tea.Cmd {
	if msg.Paste && m.prompt == nil { // a text is no command
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
		if m.asking { // a question is answered by somebody who has seen it
			break
		}
	}
	return tea.Batch(cmds...)
}

func (m *Model) key(msg tea.KeyMsg) tea.Cmd {
	key := msg.String()
	switch {
	case key == "ctrl+c":
		return tea.Quit
	case m.prompt != nil:
		m.typed(msg)
		return nil
	case m.asking:
		return m.answered(key)
	}
	if act, ok := actions[key]; ok {
		return act(m)
	}
	if move, ok := moves[key]; ok {
		m.move(move(m.page()))
	}
	return nil
}

// moves are how far a key moves the cursor on a page of n rows. all is further than
// any list goes.
var moves = map[string]func(page int) int{
	"j": func(int) int { return 1 }, "down": func(int) int { return 1 },
	"k": func(int) int { return -1 }, "up": func(int) int { return -1 },
	"ctrl+d": func(n int) int { return n / 2 }, "ctrl+u": func(n int) int { return -n / 2 },
	"pgdown": func(n int) int { return n / 2 }, "pgup": func(n int) int { return -n / 2 },
	"G": func(int) int { return all }, "end": func(int) int { return all },
	"g": func(int) int { return -all }, "home": func(int) int { return -all },
}

const all = 1 << 30

// page is how many rows the list on the screen shows.
func (m *Model) page() int { return max(2, m.tableRoom()) }

// actions are what keys do besides moving.
var actions map[string]func(m *Model) tea.Cmd

func init() { // after the functions, which refer to the table in the end
	actions = map[string]func(m *Model) tea.Cmd{
		"q": func(*Model) tea.Cmd { return tea.Quit }, "ctrl+z": func(*Model) tea.Cmd { return tea.Suspend },
		"1": to(overviewScreen), "2": to(peersScreen), "3": to(eventsScreen), "?": (*Model).help, "c": (*Model).look,
		"tab":       func(m *Model) tea.Cmd { return to((m.tab() + 1) % 3)(m) },
		"shift+tab": func(m *Model) tea.Cmd { return to((m.tab() + 2) % 3)(m) },
		"enter":     (*Model).open, "esc": (*Model).back, "/": (*Model).search,
		"s": func(m *Model) tea.Cmd { m.sort = (m.sort + 1) % sortKeys; return nil },
		"S": func(m *Model) tea.Cmd { m.reverse = !m.reverse; return nil },
		"u": func(m *Model) tea.Cmd { m.units = (m.units + 1) % unitsEnd; return nil },
		"o": func(m *Model) tea.Cmd { m.compact = !m.compact; return nil },
		"t": func(m *Model) tea.Cmd { m.span = (m.span + 1) % len(spans); return nil },
		"a": func(m *Model) tea.Cmd { m.options.ASCII = !m.options.ASCII; m.restyle(); return nil },
		"p": (*Model).pause, " ": (*Model).pause, "m": (*Model).mice, "Z": (*Model).zero,
		"+": func(m *Model) tea.Cmd { return m.hurry(-1) }, "=": func(m *Model) tea.Cmd { return m.hurry(-1) },
		"-": func(m *Model) tea.Cmd { return m.hurry(1) },
		"[": func(m *Model) tea.Cmd { m.step(-1); return nil }, "]": func(m *Model) tea.Cmd { m.step(1); return nil },
		"r": (*Model).again, "P": (*Model).ping, "R": (*Model).reload, "y": (*Model).copyRow, "Y": (*Model).copyJSON, "w": (*Model).write,
	}
}

// to shows a screen.
func to(s screen) func(m *Model) tea.Cmd {
	return func(m *Model) tea.Cmd {
		if s > eventsScreen && m.screen <= eventsScreen {
			m.before = m.screen
		}
		m.screen, m.scrolled = s, 0
		if s == eventsScreen {
			m.unseen = m.data.alarms
		}
		return nil
	}
}

// help shows the keys, or goes back from them.
func (m *Model) help() tea.Cmd {
	if m.screen == helpScreen {
		return m.back()
	}
	m.helped = m.screen
	return to(helpScreen)(m)
}

// tab is the tab that the screen belongs to.
func (m *Model) tab() screen {
	if m.screen > eventsScreen {
		return m.before
	}
	return m.screen
}

// open shows more of what is under the cursor.
func (m *Model) open() tea.Cmd {
	if m.screen == eventsScreen {
		e, ok := m.currentEvent()
		if !ok || e.Peer == "" {
			return nil
		}
		m.cursor = e.Peer
	}
	if m.screen == overviewScreen && !m.dashboard() { // there is no cursor: it is the worst peer
		worst := m.worst()
		if worst == "" {
			return to(peersScreen)(m)
		}
		m.cursor = worst
	}
	if _, ok := m.selected(); ok {
		return to(detailScreen)(m)
	}
	return nil
}

// back leaves a screen, or clears the filter.
func (m *Model) back() tea.Cmd {
	switch {
	case m.screen == helpScreen:
		m.screen, m.scrolled = m.helped, 0
	case m.screen > eventsScreen:
		m.screen, m.scrolled = m.before, 0
	case m.filter.text != "":
		m.filter = filter{}
		m.event = 0
	}
	return nil
}

// search begins to type a filter.
func (m *Model) search() tea.Cmd {
	if m.screen == overviewScreen && !m.dashboard() || m.screen > eventsScreen {
		m.screen = peersScreen
	}
	m.prompt = &prompt{m.filter.text}
	return nil
}

// typed takes a key of a filter; it acts while it is typed.
func (m *Model) typed(msg tea.KeyMsg) {
	switch msg.Type {
	case tea.KeyEnter:
		m.prompt = nil
		m.toFirst()
		return
	case tea.KeyEsc:
		m.prompt, m.filter = nil, filter{}
		return
	case tea.KeyBackspace:
		if r := []rune(m.prompt.text); len(r) > 0 {
			m.prompt.text = string(r[:len(r)-1])
		}
	case tea.KeyCtrlU:
		m.prompt.text = ""
	case tea.KeySpace, tea.KeyRunes:
		m.prompt.text += strings.Map(printable, string(msg.Runes))
	}
	m.filter = newFilter(m.prompt.text)
	m.event = 0
}

func printable(r rune) rune {
	if !unicode.IsPrint(r) {
		return -1
	}
	return r
}

// toFirst puts the cursor on a peer that shows.
func (m *Model) toFirst() {
	rows := m.rows()
	if len(rows) > 0 && !slices.ContainsFunc(rows, func(p control.Peer) bool { return p.Name == m.cursor }) {
		m.cursor = rows[0].Name
	}
}

// move moves the cursor by some rows.
func (m *Model) move(by int) {
	if m.screen == eventsScreen {
		m.event = max(0, min(m.event-by, len(m.chosen())-1))
		return
	}
	if m.screen > eventsScreen {
		m.scrolled = max(0, min(m.scrolled+by, m.overlong()))
		return
	}
	if m.screen == peersScreen || m.dashboard() {
		m.step(by)
	}
}

// step moves the cursor to another peer.
func (m *Model) step(by int) {
	rows := m.rows()
	if len(rows) == 0 {
		return
	}
	at := slices.IndexFunc(rows, func(p control.Peer) bool { return p.Name == m.cursor })
	m.cursor = rows[max(0, min(max(at, 0)+by, len(rows)-1))].Name
}

func (m *Model) pause() tea.Cmd {
	m.paused = !m.paused
	return nil
}

func (m *Model) mice() tea.Cmd {
	m.mouse = !m.mouse
	if m.mouse {
		m.say(false, "mouse on: the wheel moves, a click chooses; m turns it off")
		return tea.EnableMouseCellMotion
	}
	return tea.DisableMouse
}

// zero has counters count from now, or again from the daemon's start.
func (m *Model) zero() tea.Cmd {
	if m.base != nil {
		m.base = nil
		m.say(false, "counters count from meshd's start again")
	} else if m.data.status != nil {
		m.base = m.data.status
		m.say(false, "counters count from now in this view; Z: from meshd's start")
	}
	return nil
}

// paces are the times between snapshots that there are to choose from.
var paces = []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second}

func (m *Model) hurry(by int) tea.Cmd {
	at := slices.IndexFunc(paces, func(p time.Duration) bool { return p >= m.options.Interval })
	if at < 0 {
		at = len(paces) - 1
	}
	next := paces[max(0, min(at+by, len(paces)-1))]
	if next == m.options.Interval {
		return nil
	}
	m.options.Interval = next
	return m.connect()
}

// again tries a lost connection now.
func (m *Model) again() tea.Cmd {
	if m.lost == nil && m.live() {
		return nil
	}
	return m.connect()
}

// click moves the cursor to what the mouse is at.
func (m *Model) click(msg tea.MouseMsg) tea.Cmd {
	switch {
	case msg.Button == tea.MouseButtonWheelUp:
		m.move(-1)
	case msg.Button == tea.MouseButtonWheelDown:
		m.move(1)
	case msg.Button == tea.MouseButtonLeft && msg.Action == tea.MouseActionPress:
		first := m.firstRow()
		if rows := m.rows(); first > 0 && msg.Y >= first && m.top+msg.Y-first < len(rows) && msg.Y-first < m.tableRoom() {
			m.cursor = rows[m.top+msg.Y-first].Name
		}
	}
	return nil
}

// firstRow is the line of the screen with the first peer; 0 if there is no table.
func (m *Model) firstRow() int {
	above := chrome(m.height) - 2
	if chrome(m.height) == 3 {
		above = 2
	}
	switch {
	case m.screen == peersScreen:
		return above + 2
	case m.screen == overviewScreen && m.dashboard():
		return above + dashTop + 2
	}
	return 0
}
