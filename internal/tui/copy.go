package tui

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/x/ansi"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
)

// What can be copied of a peer: mostly one address, to paste into a command.
var copies = []struct {
	key, name string
	of        func(m *Model, p control.Peer) string
}{
	{"n", "name", func(_ *Model, p control.Peer) string { return p.Name }},
	{"a", "address", func(_ *Model, p control.Peer) string { return p.Active() }},
	{"s", "subnets", func(_ *Model, p control.Peer) string {
		return strings.Join(append(p.Subnets[:len(p.Subnets):len(p.Subnets)], p.Routes...), " ")
	}},
	{"r", "row", (*Model).row},
	{"j", "JSON", func(_ *Model, p control.Peer) string {
		doc, err := json.MarshalIndent(p, "", "  ")
		return cmp.Or(string(doc), fmt.Sprint(err))
	}},
}

// copyMenu asks what to copy of the peer under the cursor.
func (m *Model) copyMenu() tea.Cmd {
	p, ok := m.view().selected()
	if !ok {
		return nil
	}
	q := &question{brief: "copy? n a s r j", answers: map[string]func(*Model) tea.Cmd{}}
	menu := "copy of " + p.Name + ": "
	for _, c := range copies {
		menu += " " + c.key + " " + c.name + " "
		q.answers[c.key] = func(m *Model) tea.Cmd { return m.clipboard(clip{c.name, c.of(m, p)}) }
	}
	q.words = func(view) string { return menu + " esc" }
	m.bottom.question = q
	return nil
}

// copyJSON copies all that is known of the peer under the cursor.
func (m *Model) copyJSON() tea.Cmd {
	if m.copyMenu(); m.bottom.question == nil {
		return nil
	}
	return m.answered("j")
}

// row is a peer in one line. One that is old says so, since it leaves the screen that would.
func (m *Model) row(p control.Peer) string {
	row := strings.Join([]string{p.Name, words.State(p), words.Endpoint(p), strings.Join(p.Subnets, " "),
		words.Millis(p.RTTMS) + " ms", words.Percent(p.Loss)}, "  ")
	if !m.live() {
		row += "  as of " + m.data.status.Now.UTC().Format(time.RFC3339)
	}
	return row
}

// clipboard sends a text to the clipboard of the terminal (OSC 52 of xterm's control
// sequences), which works over ssh where the terminal allows it. There is no answer to it,
// so all that can be said is that it was sent.
func (m *Model) clipboard(c clip) tea.Cmd {
	if m.options.Terminal == nil {
		return nil
	}
	return func() tea.Msg {
		if _, err := fmt.Fprint(m.options.Terminal, ansi.SetSystemClipboard(c.text)); err != nil {
			return noticeMsg{"copy: " + err.Error(), true}
		}
		return noticeMsg{c.what + " sent to the terminal (OSC 52); if nothing arrives: w writes a file", false}
	}
}
