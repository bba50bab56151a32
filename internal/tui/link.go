package tui

import (
	"fmt"
	"time"

	tea "github.com/charmbracelet/bubbletea"
)

// How soon a lost connection is tried again: at first, and at most. Each failure in a row
// doubles the wait.
const (
	retryFirst = 500 * time.Millisecond
	retryLast  = 5 * time.Second
)

// A link is where data comes from: one connection after the other. Each has a number,
// since what a connection that was given up still says must not be heard.
type link struct {
	number    int // of the connection in use
	heardFrom int // the one that has said something
	feed      *feed
	lost      *lost // nil while connected
	attempts  int   // in a row that failed
}

// lost is a connection that is no more.
type lost struct {
	err   error
	since time.Time
	retry time.Time // when it is tried again; zero: it is being tried
}

// close ends the connection in use.
func (l *link) close() {
	if l.feed != nil {
		l.feed.cancel()
	}
}

// connect opens a new connection in the place of the one there was. Three commands run at
// once: the connection itself, the wait for its first lines, and an alarm clock for one
// that says nothing. What is known stays until the new connection says otherwise.
func (m *Model) connect() tea.Cmd {
	l := &m.link
	l.close()
	if l.lost != nil {
		l.lost.retry = time.Time{}
	}
	l.number++
	l.feed = newFeed(l.number)
	number := l.number
	return tea.Batch(l.feed.run(m.options.Watcher, m.options.Interval), l.feed.pull,
		tea.Tick(m.patience(), func(time.Time) tea.Msg { return muteMsg{number} }))
}

// patience is how long a new connection may say nothing. A meshd of this host answers
// in milliseconds; ssh has to connect and log in first.
func (m *Model) patience() time.Duration {
	if m.options.Asker == nil {
		return 20 * time.Second
	}
	return 4 * time.Second
}

// mute gives up a connection that has said nothing yet: a meshd that was stopped by a
// signal still accepts connections, since the kernel does that.
func (m *Model) mute(msg muteMsg) tea.Cmd {
	l := &m.link
	if msg.connection != l.number || l.heardFrom == l.number {
		return nil
	}
	l.feed.cancel()
	l.number++ // what the old one still says is not heard
	return m.lose(lostMsg{l.number,
		fmt.Errorf("connected, but meshd sent nothing for %v: it hangs or was stopped", m.patience())})
}

// lose notes that a connection has ended, and when it is tried again. It is tried for ever:
// somebody who watches a restart must not have to start this program anew. The time of the
// loss is that of the first of several failures.
func (m *Model) lose(msg lostMsg) tea.Cmd {
	l := &m.link
	if msg.connection != l.number {
		return nil
	}
	since := m.now
	if l.lost != nil {
		since = l.lost.since
	}
	wait := min(retryFirst<<min(l.attempts, 10), retryLast) // 10: the shift must not overflow
	l.attempts++
	l.lost = &lost{err: msg.err, since: since, retry: m.now.Add(wait)}
	number := l.number
	return tea.Tick(wait, func(time.Time) tea.Msg { return retryMsg{number} })
}

// retry tries a lost connection anew, unless that has been done by a key.
func (m *Model) retry(msg retryMsg) tea.Cmd {
	if msg.connection != m.link.number || m.link.lost == nil {
		return nil
	}
	return m.connect()
}

// found notes that the connection in use works.
func (l *link) found() { l.lost, l.attempts = nil, 0 }
