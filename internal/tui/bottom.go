package tui

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	tea "github.com/charmbracelet/bubbletea"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/text"
	"example.org/meshd/internal/tui/cell"
)

// bottom is the last line where it is something else than keys: what is being typed, a question, or
// what just happened.
type bottom struct {
	prompt   *prompt   // nil unless somebody types
	question *question // nil unless something is asked
	notice   notice
}

// A prompt is a text that is being typed. Its functions are called with all of it.
type prompt struct {
	mark  string                        // what stands before it
	keys  string                        // how to end it
	text  string                        //
	acts  func(m *Model, text string)   // while it is typed
	about func(v view, t string) string // what it leads to, behind it
	enter func(m *Model, text string)
	leave func(m *Model)
}

// A question waits for one of some keys. Escape, n and q leave it, unless they answer it.
type question struct {
	words   func(v view) string      // for the last line
	brief   string                   // for a terminal of one line
	box     func(v view) []cell.Line // over the body; nil: there is none
	answers map[string]func(*Model) tea.Cmd
	careful bool // an answer counts only from somebody who has seen the question
}

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

// answered takes a key as the answer to the question; other keys are no answer.
func (m *Model) answered(key string) tea.Cmd {
	if act, ok := m.bottom.question.answers[key]; ok {
		m.bottom.question = nil
		return act(m)
	}
	if slices.Contains([]string{"n", "N", "esc", "q"}, key) {
		m.bottom.question = nil
	}
	return nil
}

// typeFilter begins to type a filter, with the one there is. It acts while it is typed: what is left on
// the screen tells when to stop.
func (m *Model) typeFilter() tea.Cmd {
	m.bottom.prompt = &prompt{mark: "/", keys: "enter keeps  esc clears", text: m.choices.filter.text,
		acts: (*Model).setFilter,
		enter: func(m *Model, _ string) {
			if len(m.table.rows) > 0 && m.view().row() < 0 { // the cursor's peer is hidden
				m.choices.cursor = m.table.rows[0].Name
			}
		},
		leave: func(m *Model) { m.setFilter("") },
	}
	return nil
}

// setFilter changes which peers and events show.
func (m *Model) setFilter(text string) {
	m.choices.filter = newFilter(text)
	m.follow() // the event under the cursor may be hidden now
}

// typeName begins to type the name of a peer to go to. The peer that Enter leads to stands beside it.
func (m *Model) typeName() tea.Cmd {
	m.bottom.prompt = &prompt{mark: ":", keys: "enter goes there  esc leaves",
		about: func(v view, t string) string {
			if name := v.named(t); name != "" && name != t {
				return " → " + name
			}
			return ""
		},
		enter: func(m *Model, t string) {
			if name := m.view().named(t); name != "" {
				m.jump(name)
			} else if t != "" {
				m.say(true, fmt.Sprintf("no peer has %q in its name", t))
			}
		},
	}
	return nil
}

// named is the peer that a text is the name of, or begins, or is a part of, in this order; empty if there
// is none.
func (v view) named(text string) string {
	if v.status == nil || text == "" {
		return ""
	}
	for _, fits := range []func(name, text string) bool{strings.EqualFold, strings.HasPrefix, strings.Contains} {
		i := slices.IndexFunc(v.status.Peers, func(p control.Peer) bool { return fits(p.Name, text) })
		if i >= 0 {
			return v.status.Peers[i].Name
		}
	}
	return ""
}

// typed takes a key of a prompt. Keys that are no text do nothing, so that it is only left by Enter and
// Escape.
func (m *Model) typed(msg tea.KeyMsg) {
	p := m.bottom.prompt
	switch msg.Type {
	case tea.KeyEnter:
		m.bottom.prompt = nil
		p.enter(m, p.text)
		return
	case tea.KeyEsc:
		m.bottom.prompt = nil
		if p.leave != nil {
			p.leave(m)
		}
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
	if p.acts != nil {
		p.acts(m, p.text)
	}
}

// printable leaves out what no name and no filter has, as in a text that is pasted.
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
		return b.prompt.line(m.view(), w)
	case b.question != nil:
		return cell.Styled(cell.Strong, " "+b.question.words(m.view())).Fit(w)
	case m.now.Before(b.notice.until):
		role := cell.Strong
		if b.notice.bad {
			role = cell.Bad
		}
		said, keys := cell.Styled(role, " "+b.notice.text), hintLine(always)
		if said.Width()+keys.Width()+3 <= w { // a long one has the line for itself: it is to be read
			return said.Spread(keys.Add(cell.Plain, " "), w)
		}
		return said.Fit(w)
	case m.link.lost != nil:
		return keysLine([]hint{{"r", "retry now"}, {"1 2 3 4", "old data"}, {"w", "write file"},
			{"esc", "back"}}, w)
	}
	return keysLine(m.screen().hints(), w)
}

// line is a prompt as it is typed. Of a long text the end shows, where the cursor is.
func (p *prompt) line(v view, w int) cell.Line {
	keys, about := cell.Styled(cell.Dim, p.keys+" "), ""
	if p.about != nil {
		about = p.about(v, p.text)
	}
	typed := " " + p.mark + p.text
	if room := w - keys.Width() - cell.Width(about) - 3; cell.Width(typed) > room {
		r := []rune(typed)
		typed = "…" + string(r[max(0, len(r)-max(room-1, 1)):])
	}
	return cell.Styled(cell.Strong, typed).Add(cell.Selected, " ").Add(cell.Plain, about).Spread(keys, w)
}

// always are the keys that each last line ends in: who is lost needs them most.
var always = []hint{{"?", "help"}, {"q", "quit"}}

// keysLine fits hints into a line of w cells. Those at the end leave first; help and quit stay.
func keysLine(hints []hint, w int) cell.Line {
	right := hintLine(always).Add(cell.Plain, " ")
	line := cell.Text(" ")
	for _, h := range hints {
		next := line.Join(hintLine([]hint{h})).Add(cell.Plain, "  ")
		if next.Width()+1+right.Width() <= w {
			line = next
		}
	}
	return line.Spread(right, w)
}

// hintLine writes hints beside each other.
func hintLine(hints []hint) (line cell.Line) {
	for i, h := range hints {
		if i > 0 {
			line = line.Add(cell.Plain, "  ")
		}
		line = line.Add(cell.Strong, h.key).Add(cell.Dim, " "+h.does)
	}
	return line
}
