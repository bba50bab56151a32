package tui

import (
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/text"
)

// tickless is how soon after a snapshot time alone changes nothing on the screen.
const tickless = 1500 * time.Millisecond

// tick is the clock of what is shown: ages grow although no data comes.
func tick() tea.Cmd { return tea.Tick(time.Second, func(t time.Time) tea.Msg { return tickMsg(t) }) }

// Update implements tea.Model: it takes one message, brings everything into its place, and
// asks for what the screen lacks. Nothing here waits.
func (m *Model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	now := m.options.Clock()
	if _, ticks := msg.(tickMsg); ticks && m.live() && now.After(m.data.heard) &&
		now.Sub(m.data.heard) < tickless {
		return m, tick() // snapshots are clock enough: one picture a second
	}
	m.now, m.painted = now, ""
	cmd := m.take(msg)
	m.settle()
	return m, tea.Batch(cmd, m.refresh(), m.refreshFlows())
}

// take does what a message says. Text of others becomes harmless here, before anything
// keeps it (text.Fields reaches every exported field by itself); what is kept is shown on
// screens, and goes to the clipboard and into files.
func (m *Model) take(msg tea.Msg) tea.Cmd {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		return m.resize(msg)
	case tea.KeyMsg:
		return m.keys(msg)
	case tea.MouseMsg:
		return m.click(msg)
	case tea.ResumeMsg:
		return m.resume()
	case tickMsg:
		return tick()
	case linesMsg:
		return m.lines(msg)
	case lostMsg:
		return m.lose(msg)
	case muteMsg:
		return m.mute(msg)
	case retryMsg:
		return m.retry(msg)
	case historyMsg:
		text.Fields(&msg.history)
		m.past(msg)
	case wayMsg:
		text.Fields(&msg.way)
		m.data.ways.found(msg)
	case pingMsg:
		text.Fields(&msg.reply)
		return m.pong(msg)
	case flowsMsg:
		m.flow(msg)
	case planMsg:
		text.Fields(&msg.plan)
		m.data.disk = onDisk{asked: true, plan: msg.plan, err: msg.err}
	case reloadMsg:
		text.Fields(&msg.result)
		m.reloaded(msg)
	case noticeMsg:
		m.say(msg.bad, msg.text)
	}
	return nil
}

// resize takes over the size of the terminal. One at a serial line says that it has none: it has the size
// that it is taken for, which Bubble Tea has to learn, too.
func (m *Model) resize(msg tea.WindowSizeMsg) tea.Cmd {
	if msg.Width <= 0 || msg.Height <= 0 {
		m.width, m.height = m.options.Width, m.options.Height
		return func() tea.Msg { return tea.WindowSizeMsg{Width: m.options.Width, Height: m.options.Height} }
	}
	m.width, m.height = msg.Width, msg.Height
	return nil
}

// lines takes over what a connection says.
func (m *Model) lines(msg linesMsg) tea.Cmd {
	if len(msg.lines) == 0 || !m.link.heard(msg.connection) {
		return nil
	}
	for _, w := range msg.lines {
		if !m.options.Tidy { // all of a snapshot, each time: a client cleans what is new in it
			text.Fields(&w)
		}
		switch {
		case w.Hello != nil:
			m.hello(w.Hello)
		case w.Status != nil && !m.held(w.Status):
			m.data.apply(w.Status, m.now)
		case w.Event != nil:
			m.data.happened(w.Event)
		}
	}
	return m.link.feed.pull
}

// held tells whether a pause holds the picture against a snapshot. A pause ends with the
// daemon that was looked at: numbers of two runs have nothing to do with each other.
func (m *Model) held(s *control.Status) bool {
	return m.choices.paused && m.data.status != nil && m.data.status.BootID == s.BootID
}

// hello begins a connection. After a restart of the daemon nothing is left to count from.
func (m *Model) hello(h *control.Hello) {
	if m.data.boot != h.BootID {
		m.choices.base = nil
	}
	m.data.hello(h, m.now)
	m.link.found()
	m.follow() // all events are told anew
	clear(m.asked)
}

// follow puts the cursor of the events screen back on the newest one.
func (m *Model) follow() {
	if s, ok := m.tabs[eventsTab].(events); ok {
		s.at = 0
		m.tabs[eventsTab] = s
	}
}

// settle makes what is chosen fit what is known: the cursor stands on a peer that there
// is, the rows are sorted, and the one under the cursor has room. It runs after each message
// and each key, so that drawing is free of decisions and the same view always gives the same
// picture.
func (m *Model) settle() {
	screen := m.screen()
	v := m.view()
	m.table.arrange(v)
	// A page stays with its peer, also when the file has no such peer any more.
	if _, there := v.selected(); !there && len(m.pages) == 0 && len(m.table.rows) > 0 {
		m.choices.cursor = m.table.rows[0].Name
	}
	m.table.first, m.table.room = 0, peersRoom(v.h)
	if l, ok := screen.(lister); ok {
		m.table.first, m.table.room = l.rows(m.view())
	}
	m.table.page = max(2, m.table.room) // half of it is one line at least
	m.table.reach(m.choices.cursor)
	if m.tab == eventsTab && len(m.pages) == 0 {
		m.data.seen = m.data.alarms
	}
}

// historyEvery is how old a chart may be.
const historyEvery = 5 * time.Second

// askedFor says when each history was asked for.
type askedFor map[historyKey]time.Time

// refresh asks for the histories, and the way to a peer, that are on the screen and too old. What is not on
// the screen is not asked for: a history is 300 steps of seven figures.
func (m *Model) refresh() tea.Cmd {
	screen := m.screen()
	charter, ok := screen.(charter)
	if !ok || m.options.Asker == nil || !m.live() || m.choices.paused {
		return nil
	}
	var cmds []tea.Cmd
	for _, key := range charter.charts(m.view()) {
		if m.now.Sub(m.asked[key]) >= historyEvery {
			m.asked[key] = m.now
			cmds = append(cmds, askHistory(m.options.Asker, key))
		}
	}
	if _, page := screen.(detail); page {
		cmds = append(cmds, m.askWay())
	}
	return tea.Batch(cmds...)
}

// historiesKept bounds the memory of charts that were looked at.
const historiesKept = 20

// past keeps a history, or forgets it: a peer that is gone and a connection that is lost
// show elsewhere, and an old chart would look true.
func (m *Model) past(msg historyMsg) {
	if msg.err != nil {
		delete(m.data.history, msg.key)
		return
	}
	if m.data.history == nil || len(m.data.history) >= historiesKept {
		m.data.history = map[historyKey]control.History{}
		clear(m.asked)
	}
	m.data.history[msg.key] = msg.history
}
