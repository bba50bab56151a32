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

// A link is where data comes from: one connection after the other.
type link struct {
	connection       // the one in use
	lost       *lost // nil while connected
	attempts   int   // in a row that failed
}

// A connection has a number, since what one that was given up still says must not be heard, and a
// state, since a timer may ring for one that has ended meanwhile.
type connection struct {
	number int
	state  state
	feed   *feed
}

// state is how far a connection is. It only grows: each state is reached once.
type state int

const (
	opening state = iota // nothing was heard yet: it may be given up
	talking              // it says something from time to time
	ended                // it says nothing any more, and is tried again
)

// lost is why there is no data. It outlives the connections that are tried in vain.
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
	number := l.number + 1
	l.connection = connection{number: number, feed: newFeed(number)}
	return tea.Batch(l.feed.run(m.options.Watcher, m.options.Interval), l.feed.pull,
		m.after(m.patience(), muteMsg{number}))
}

// patience is how long a new connection may say nothing. A meshd of this host answers
// in milliseconds; ssh has to connect and log in first.
func (m *Model) patience() time.Duration {
	if m.options.Asker == nil {
		return 20 * time.Second
	}
	return 4 * time.Second
}

// heard notes that a connection says something, and tells whether it is to be heard.
func (l *link) heard(number int) bool {
	if number != l.number || l.state == ended {
		return false
	}
	l.state = talking
	return true
}

// mute gives up a connection that has said nothing yet: a meshd that was stopped by a
// signal still accepts connections, since the kernel does that.
func (m *Model) mute(msg muteMsg) tea.Cmd {
	if msg.connection != m.link.number || m.link.state != opening {
		return nil
	}
	m.link.close()
	return m.end(fmt.Errorf("connected, but meshd sent nothing for %v: it hangs or was stopped", m.patience()))
}

// lose notes that a connection has ended by itself.
func (m *Model) lose(msg lostMsg) tea.Cmd {
	if msg.connection != m.link.number || m.link.state == ended {
		return nil
	}
	return m.end(msg.err)
}

// end ends the connection in use, and tries again later, for ever: somebody who watches a restart must
// not have to start this program anew. The time of the loss is that of the first of several failures.
func (m *Model) end(err error) tea.Cmd {
	l := &m.link
	l.state = ended
	since := m.now
	if l.lost != nil {
		since = l.lost.since
	}
	wait := min(retryFirst<<min(l.attempts, 10), retryLast) // 10: the shift must not overflow
	l.attempts++
	l.lost = &lost{err: err, since: since, retry: m.now.Add(wait)}
	return m.after(wait, retryMsg{l.number})
}

// retry tries a lost connection anew, unless that has been done by a key.
func (m *Model) retry(msg retryMsg) tea.Cmd {
	if msg.connection != m.link.number || m.link.state != ended {
		return nil
	}
	return m.connect()
}

// found notes that the connection in use works.
func (l *link) found() { l.lost, l.attempts = nil, 0 }

// after sends a message some time from now. Tests have a clock of their own.
func after(wait time.Duration, msg tea.Msg) tea.Cmd {
	return tea.Tick(wait, func(time.Time) tea.Msg { return msg })
}
