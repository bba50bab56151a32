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
	"example.org/meshd/internal/tui/cell"
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
	q := &question{brief: "copy?", answers: map[string]func(*Model) tea.Cmd{}}
	menu := ""
	for _, c := range copies {
		q.brief += " " + c.key
		menu += c.key + " " + c.name + "  "
		q.answers[c.key] = func(m *Model) tea.Cmd { return m.clipboard(clip{c.name, c.of(m, p)}) }
	}
	menu += "esc"
	q.words = func(v view) string {
		const least = len("copy of :  ") + 1 + leastName // and what stands before all
		name := v.names.short(p.Name)
		switch room := v.w - cell.Width(menu) - least + leastName; {
		case room >= min(leastName, cell.Width(name)):
			return "copy of " + cell.FitMiddle(name, min(room, cell.Width(name))) + ":  " + menu
		case cell.Width(menu) < v.w:
			return menu
		}
		return q.brief
	}
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
		words.Millis(rttOf(p)) + " ms", words.Percent(lossOf(p))}, "  ")
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
