package tui

import (
	"strings"
	"time"
	"unicode"

	tea "github.com/charmbracelet/bubbletea"

	"example.org/meshd/internal/text"
	"example.org/meshd/internal/tui/cell"
)

// bottom is the last line where it is something else than keys: the filter while it is
// typed, a question, or what just happened.
type bottom struct {
	prompt *prompt // nil unless somebody types
	asking bool    // "reload?" is on the screen
	notice notice
}

// prompt is a filter that is not finished. It acts all the same.
type prompt struct{ text string }

// notice is what stands in the last line for a while.
type notice struct {
	text  string
	bad   bool
	until time.Time
}

// noticeFor is how long a notice stands: long enough to read a rejected file's first fault.
const noticeFor = 8 * time.Second

// say puts words into the last line for a while. They may hold what others said.
func (m *Model) say(bad bool, words string) {
	m.bottom.notice = notice{text.Clean(words), bad, m.now.Add(noticeFor)}
}

// typeFilter begins to type a filter, with the one there is.
func (m *Model) typeFilter() { m.bottom.prompt = &prompt{m.choices.filter.text} }

// setFilter changes which peers and events show.
func (m *Model) setFilter(text string) {
	m.choices.filter = newFilter(text)
	m.follow() // the event under the cursor may be hidden now
}

// typed takes a key of a filter, which acts while it is typed: what is left on the screen
// tells when to stop. Keys that are no text do nothing, so that a filter is only left by
// Enter and Escape.
func (m *Model) typed(msg tea.KeyMsg) {
	p := m.bottom.prompt
	switch msg.Type {
	case tea.KeyEnter:
		m.bottom.prompt = nil
		if len(m.table.rows) > 0 && m.view().row() < 0 { // the cursor's peer is hidden
			m.choices.cursor = m.table.rows[0].Name
		}
		return
	case tea.KeyEsc:
		m.bottom.prompt = nil
		m.setFilter("")
		return
	case tea.KeyBackspace:
		if r := []rune(p.text); len(r) > 0 {
			p.text = string(r[:len(r)-1])
		}
	case tea.KeyCtrlU:
		p.text = ""
	case tea.KeySpace, tea.KeyRunes: // also a text that is pasted
		p.text += strings.Map(printable, string(msg.Runes))
	}
	m.setFilter(p.text)
}

// printable leaves out what a filter cannot match, as in a text that is pasted.
func printable(r rune) rune {
	if !unicode.IsPrint(r) {
		return -1
	}
	return r
}

// footer is the last line: what is being typed, what just happened, or keys. What waits for
// the user is before what only tells something.
func (m *Model) footer(w int) cell.Line {
	b := m.bottom
	switch {
	case b.prompt != nil:
		typed := cell.Styled(cell.Strong, " /"+b.prompt.text).Add(cell.Selected, " ")
		return typed.Spread(cell.Styled(cell.Dim, "enter keeps  esc clears "), w)
	case b.asking:
		s := m.data.status
		return cell.Styled(cell.Warn, " reload?  y yes  n no   "+s.Config.Path+" on "+s.Node).Fit(w)
	case m.now.Before(b.notice.until):
		role := cell.Good
		if b.notice.bad {
			role = cell.Bad
		}
		return cell.Styled(role, " "+b.notice.text).Fit(w)
	case m.link.lost != nil:
		return cell.Styled(cell.Dim, " r retry now  1 2 3 old data  esc back  w write file  q quit").Fit(w)
	}
	return cell.Styled(cell.Dim, " "+m.screen().hints()).Fit(w)
}
