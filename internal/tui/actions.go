package tui

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/x/ansi"
)

// What keys do beyond this program: they ask the daemon, the clipboard, the disk.

// asker tells whether there is somebody to ask, and says so if not.
func (m *Model) asker() bool {
	switch {
	case m.options.Asker == nil:
		m.say(true, "not over --host: run meshtui or meshd on that host")
	case m.lost != nil || m.data.status == nil:
		m.say(true, "meshd is not answering")
	default:
		return true
	}
	return false
}

func (m *Model) ping() tea.Cmd {
	p, ok := m.selected()
	if !m.asker() || !ok {
		return nil
	}
	if m.screen == overviewScreen && !m.dashboard() {
		m.say(false, "choose a peer first: 2 shows them")
		return nil
	}
	m.pinged = pinged{peer: p.Name}
	m.say(false, "ping "+p.Name+" ...")
	return askPing(m.options.Asker, p.Name, 0)
}

// look shows the file, and asks what the one on disk would change.
func (m *Model) look() tea.Cmd {
	if m.data.status == nil {
		return nil
	}
	to(configScreen)(m)
	return m.plan()
}

func (m *Model) plan() tea.Cmd {
	m.file = fileOnDisk{}
	if m.options.Asker == nil {
		return nil
	}
	return askPlan(m.options.Asker, m.data.status.Config.Path)
}

// reload asks whether to read the file now.
func (m *Model) reload() tea.Cmd {
	if !m.asker() {
		return nil
	}
	if m.data.status.Node == "" {
		m.say(true, "nothing is in force yet: an edit of the file is noticed by itself")
		return nil
	}
	m.asking = true
	return m.plan()
}

func (m *Model) answered(key string) tea.Cmd {
	switch key {
	case "y", "Y":
		m.asking = false
		m.say(false, "reloading ...")
		return askReload(m.options.Asker)
	case "n", "N", "esc", "q":
		m.asking = false
	}
	return nil
}

// clipboard sends a text to the clipboard of the terminal (OSC 52), which works over
// ssh where the terminal allows it.
func (m *Model) clipboard(what, text string) tea.Cmd {
	if m.options.Terminal == nil {
		return nil
	}
	return func() tea.Msg {
		if _, err := fmt.Fprint(m.options.Terminal, ansi.SetSystemClipboard(text)); err != nil {
			return noticeMsg{"copy: " + err.Error(), true}
		}
		return noticeMsg{what + " sent to the clipboard of the terminal", false}
	}
}

func (m *Model) copyRow() tea.Cmd {
	if m.screen == eventsScreen {
		e, ok := m.currentEvent()
		if !ok {
			return nil
		}
		return m.clipboard("event", e.At.Format(time.RFC3339)+" "+e.Level+" "+eventText(e))
	}
	p, ok := m.selected()
	if !ok {
		return nil
	}
	row := strings.Join([]string{p.Name, p.State, p.Address, strings.Join(p.Subnets, " "), millis(p.RTTMS) + " ms", percent(p.Loss)}, "  ")
	if !m.live() {
		row += "  as of " + m.data.status.Now.UTC().Format(time.RFC3339)
	}
	return m.clipboard("row", row)
}

func (m *Model) copyJSON() tea.Cmd {
	p, ok := m.selected()
	if !ok {
		return nil
	}
	doc, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		m.say(true, err.Error())
		return nil
	}
	return m.clipboard("JSON", string(doc))
}

// write stores the snapshot that is shown in a file, for a report.
func (m *Model) write() tea.Cmd {
	s := m.data.status
	if s == nil {
		return nil
	}
	return func() tea.Msg {
		doc, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			return noticeMsg{err.Error(), true}
		}
		f, err := os.CreateTemp("", fmt.Sprintf("meshtui-%s-%s-*.json", s.Node, s.Now.UTC().Format("20060102-150405")))
		if err != nil {
			return noticeMsg{"write: " + err.Error(), true}
		}
		defer f.Close()
		if _, err := f.Write(append(doc, '\n')); err != nil {
			return noticeMsg{"write: " + err.Error(), true}
		}
		return noticeMsg{"snapshot written to " + f.Name(), false}
	}
}
