package tui

import (
	"slices"
	"time"

	tea "github.com/charmbracelet/bubbletea"
)

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
