package tui

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/text"
)

// How soon a lost connection is tried again: at first, and at most.
const (
	retryFirst = 500 * time.Millisecond
	retryLast  = 5 * time.Second
)

// historyEvery is how old a chart may be.
const historyEvery = 5 * time.Second

// noticeFor is how long the last line tells something else than keys.
const noticeFor = 8 * time.Second

// tickless is how soon after a snapshot time alone changes nothing on the screen.
const tickless = 1500 * time.Millisecond

func tick() tea.Cmd { return tea.Tick(time.Second, func(t time.Time) tea.Msg { return tickMsg(t) }) }

// Update implements tea.Model.
func (m *Model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	now := m.options.Clock()
	if _, ticks := msg.(tickMsg); ticks && m.live() && now.Sub(m.data.heard) < tickless && now.After(m.data.heard) {
		return m, tick() // snapshots are clock enough: one picture a second
	}
	m.now, m.painted = now, ""
	cmd := m.take(msg)
	m.settle()
	return m, tea.Batch(cmd, m.refresh())
}

func (m *Model) take(msg tea.Msg) tea.Cmd {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tea.KeyMsg:
		return m.keys(msg)
	case tea.MouseMsg:
		return m.click(msg)
	case tickMsg:
		return tick()
	case linesMsg:
		return m.lines(msg)
	case lostMsg:
		return m.lose(msg)
	case tea.ResumeMsg:
		if m.mouse { // which Bubble Tea has turned off
			return tea.EnableMouseCellMotion
		}
	case muteMsg:
		return m.mute(msg)
	case retryMsg:
		if msg.connection == m.connection && m.lost != nil {
			return m.connect()
		}
	case historyMsg:
		text.Fields(&msg.history)
		m.past(msg)
	case pingMsg:
		text.Fields(&msg.reply)
		return m.pong(msg)
	case planMsg:
		text.Fields(&msg.file.changes)
		m.file = msg.file
	case reloadMsg:
		text.Fields(&msg.result)
		m.reloaded(msg)
	case noticeMsg:
		m.say(msg.bad, msg.text)
	}
	return nil
}

// connect opens a new connection in the place of the one there was.
func (m *Model) connect() tea.Cmd {
	if m.feed != nil {
		m.feed.cancel()
	}
	if m.lost != nil {
		m.lost.retry = time.Time{}
	}
	m.connection++
	m.feed = newFeed(m.connection)
	connection := m.connection
	return tea.Batch(m.feed.run(m.options.Watcher, m.options.Interval), m.feed.pull,
		tea.Tick(m.patience(), func(time.Time) tea.Msg { return muteMsg{connection} }))
}

// patience is how long a new connection may say nothing. A meshd of this host answers
// in milliseconds; ssh has to come about first.
func (m *Model) patience() time.Duration {
	if m.options.Asker == nil {
		return 20 * time.Second
	}
	return 4 * time.Second
}

// mute gives up a connection that has not said a word.
func (m *Model) mute(msg muteMsg) tea.Cmd {
	if msg.connection != m.connection || m.heardFrom == m.connection {
		return nil
	}
	m.feed.cancel()
	m.connection++ // what the old one still says is not heard
	return m.lose(lostMsg{m.connection, fmt.Errorf("connected, but nothing is said for %v: meshd hangs, or was stopped", m.patience())})
}

// lose notes that a connection has ended, and when it is tried again.
func (m *Model) lose(msg lostMsg) tea.Cmd {
	if msg.connection != m.connection {
		return nil
	}
	since := m.now
	if m.lost != nil {
		since = m.lost.since
	}
	wait := min(retryFirst<<min(m.attempts, 10), retryLast)
	m.attempts++
	m.lost = &lost{err: msg.err, since: since, retry: m.now.Add(wait)}
	connection := m.connection
	return tea.Tick(wait, func(time.Time) tea.Msg { return retryMsg{connection} })
}

// lines takes over what a connection says.
func (m *Model) lines(msg linesMsg) tea.Cmd {
	if msg.connection != m.connection || len(msg.lines) == 0 {
		return nil
	}
	m.heardFrom = msg.connection
	for _, w := range msg.lines {
		text.Fields(&w)
		switch {
		case w.Hello != nil:
			m.hello(w.Hello)
		case w.Status != nil && (!m.paused || m.data.status == nil || m.data.status.BootID != w.Status.BootID):
			m.snapshot(w.Status)
		case w.Event != nil:
			m.happened(w.Event)
		}
	}
	if m.screen == eventsScreen {
		m.unseen = m.data.alarms
	}
	return m.feed.pull
}

func (m *Model) hello(h *control.Hello) {
	if m.data.last != h.BootID {
		m.unseen, m.base = 0, nil
	}
	m.data.hello(h, m.now)
	m.lost, m.attempts, m.data.alarms, m.event = nil, 0, 0, 0
	clear(m.askedFor)
}

func (m *Model) snapshot(s *control.Status) {
	m.data.apply(s, m.now)
	if _, there := m.selected(); !there && m.screen != detailScreen { // which says that it is gone
		if rows := m.rows(); len(rows) > 0 {
			m.cursor = rows[0].Name
		}
	}
}

func (m *Model) happened(e *control.Event) {
	shorten(e)
	one := event{*e, m.data.last}
	m.data.add(one)
	if alarming(e.Level) {
		m.data.alarms++
	}
	if m.event > 0 && m.chooses(one) { // the cursor stays on its event
		m.event++
	}
}

// Bounds of an event, of which many are kept: another host may say whatever it likes.
const (
	maxEventText   = 4096 // bytes of a text in it
	maxEventFields = 32
)

// shorten cuts the texts of an event.
func shorten(e *control.Event) {
	for _, s := range []*string{&e.Level, &e.Kind, &e.Peer, &e.Message} {
		*s = cut(*s)
	}
	kept := map[string]string{}
	for _, k := range slices.Sorted(maps.Keys(e.Fields))[:min(len(e.Fields), maxEventFields)] {
		kept[cut(k)] = cut(e.Fields[k])
	}
	e.Fields = kept
}

func cut(s string) string {
	if len(s) <= maxEventText {
		return s
	}
	return strings.ToValidUTF8(s[:maxEventText], "") + "…"
}

// alarming tells whether an event of this level needs eyes.
func alarming(level string) bool { return level == "warn" || level == "error" }

// refresh asks for the histories that are on the screen and too old.
func (m *Model) refresh() tea.Cmd {
	if m.options.Asker == nil || !m.live() || m.paused {
		return nil
	}
	var cmds []tea.Cmd
	for _, key := range m.charts() {
		if m.now.Sub(m.askedFor[key]) >= historyEvery {
			m.askedFor[key] = m.now
			cmds = append(cmds, askHistory(m.options.Asker, key))
		}
	}
	return tea.Batch(cmds...)
}

// charts are the histories that are on the screen.
func (m *Model) charts() (keys []historyKey) {
	if m.screen == overviewScreen {
		keys = append(keys, historyKey{"", "5m"})
	}
	if m.cursor != "" && (m.screen == detailScreen || m.screen == overviewScreen && m.dashboard()) {
		keys = append(keys, historyKey{m.cursor, spans[m.span]})
	}
	return keys
}

// historiesKept bounds the memory of charts that were looked at.
const historiesKept = 20

func (m *Model) past(msg historyMsg) {
	if msg.err != nil { // a peer that is gone, or a connection that is lost: both show elsewhere
		delete(m.data.history, msg.key)
		return
	}
	if m.data.history == nil || len(m.data.history) >= historiesKept {
		m.data.history = map[historyKey]control.History{}
		clear(m.askedFor)
	}
	m.data.history[msg.key] = msg.history
}

// say puts a text in the last line for a while.
func (m *Model) say(bad bool, words string) {
	m.notice = notice{text.Clean(words), bad, m.now.Add(noticeFor)}
}

// pinged is a series of pings: how many were answered, and the words for each.
type pinged struct {
	peer  string
	words []string
}

// pong notes the answer to a ping, and asks again.
func (m *Model) pong(msg pingMsg) tea.Cmd {
	if msg.peer != m.pinged.peer || msg.n != len(m.pinged.words) {
		return nil
	}
	word := "no answer"
	switch {
	case msg.err != nil:
		m.pinged = pinged{}
		m.say(true, "ping "+msg.peer+": "+msg.err.Error())
		return nil
	case msg.reply.Error != "":
		word = msg.reply.Error
	case msg.reply.RTTMS != nil:
		word = millis(msg.reply.RTTMS) + " ms"
	}
	m.pinged.words = append(m.pinged.words, word)
	m.say(msg.reply.RTTMS == nil, fmt.Sprintf("ping %s (%d bytes): %s", msg.peer, msg.reply.Size, strings.Join(m.pinged.words, ", ")))
	n := len(m.pinged.words)
	if n == pings {
		m.pinged = pinged{}
		return nil
	}
	next := askPing(m.options.Asker, msg.peer, n)
	return tea.Tick(pingEvery, func(time.Time) tea.Msg { return next() })
}

// reloaded tells the outcome of a reload.
func (m *Model) reloaded(msg reloadMsg) {
	r := msg.result
	switch {
	case msg.err != nil:
		m.say(true, "reload: "+msg.err.Error())
	case !r.Reload.OK:
		m.say(true, fmt.Sprintf("rejected, still running generation %d: %s", r.Generation, oneLine(r.Reload.Error)))
	case len(r.Reload.Changes) == 0:
		m.say(false, fmt.Sprintf("generation %d: nothing to change", r.Generation))
	default:
		m.say(false, fmt.Sprintf("generation %d applied in %.0f ms: %s", r.Generation, r.Reload.DurationMS, strings.Join(r.Reload.Changes, ", ")))
	}
}
