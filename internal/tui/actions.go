package tui

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/tui/cell"
)

// What keys do beyond this program: they ask the daemon, the clipboard, the disk. Each of
// them returns a command, which Bubble Tea runs in a goroutine of its own; what comes of it
// is a message. So no key waits, and a daemon that hangs leaves the screen alive.

// canAsk tells whether there is somebody to ask, and says so if not. Over --host there is
// not: ssh carries one stream, and each question would be a login of its own.
func (m *Model) canAsk() bool {
	switch {
	case m.options.Asker == nil:
		m.say(true, "not available with --host: run meshtui or meshd on that host")
	case m.link.lost != nil || m.data.status == nil:
		m.say(true, "meshd is not answering")
	default:
		return true
	}
	return false
}

// pinged is a series of pings: to whom, and the words for each answer.
type pinged struct {
	peer  string
	words []string
}

// ping begins a series of pings to the peer under the cursor. A second press begins anew,
// so an impatient hand does not flood the peer.
func (m *Model) ping() tea.Cmd {
	p, ok := m.view().selected()
	if !m.canAsk() || !ok {
		return nil
	}
	m.pinged = pinged{peer: p.Name}
	m.say(false, "ping "+p.Name+" ...")
	return askPing(m.options.Asker, p.Name, 0)
}

// pong notes the answer to a ping, and asks again. An answer to an earlier series is
// ignored: the key may have been pressed for another peer since.
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
		word = words.Millis(msg.reply.RTTMS) + " ms"
	}
	m.pinged.words = append(m.pinged.words, word)
	answers := strings.Join(m.pinged.words, ", ")
	// All answers of the series stand in the last line: one alone says little about loss.
	m.say(msg.reply.RTTMS == nil, fmt.Sprintf("ping %s (%d bytes): %s", msg.peer, msg.reply.Size, answers))
	n := len(m.pinged.words)
	if n == pings {
		m.pinged = pinged{}
		return nil
	}
	next := askPing(m.options.Asker, msg.peer, n)
	return tea.Tick(pingEvery, func(time.Time) tea.Msg { return next() })
}

// look shows the file, and asks what the one on disk would change. A second press asks
// again, for somebody who edits in another window.
func (m *Model) look() tea.Cmd {
	if m.data.status == nil {
		return nil
	}
	m.open(file{})
	return m.compare()
}

// compare asks what the file on disk would change.
func (m *Model) compare() tea.Cmd {
	m.data.disk = onDisk{}
	if m.options.Asker == nil {
		return nil
	}
	return askPlan(m.options.Asker, m.data.status.Config.Path)
}

// reload asks the user whether to read the file now. The question shows what would change,
// since the file may be another one than the user thinks.
func (m *Model) reload() tea.Cmd {
	if !m.canAsk() {
		return nil
	}
	if m.data.status.Node == "" {
		m.say(true, "no file is in force yet: meshd reads the file by itself when it is edited")
		return nil
	}
	m.bottom.question = &question{
		words: func(v view) string {
			where := "   " + v.status.Config.Path + " on " + v.status.Node
			if v.disk.faulty() {
				return "nothing to reload  e copy edit command  esc leave it" + where
			}
			return "reload?  y yes  n no" + where
		},
		brief: "reload? y/n", box: reloadBox, careful: true,
		answers: map[string]func(*Model) tea.Cmd{"y": (*Model).doReload, "Y": (*Model).doReload,
			"e": (*Model).copyEdit},
	}
	return m.compare()
}

// copyEdit copies the command that edits the file, for somebody who has found it faulty.
func (m *Model) copyEdit() tea.Cmd {
	return m.clipboard(clip{"edit command", m.data.disk.edit(m.data.status.Config.Path)})
}

// doReload has the file read, unless it is known that it cannot be applied.
func (m *Model) doReload() tea.Cmd {
	if m.data.disk.faulty() {
		m.say(true, "the file cannot be applied: c shows its faults")
		return nil
	}
	m.say(false, "reloading ...")
	return askReload(m.options.Asker)
}

// reloaded tells the outcome of a reload: what was wrong, or what changed, or that nothing
// did. The snapshot that follows shows the new generation.
func (m *Model) reloaded(msg reloadMsg) {
	r := msg.result
	switch {
	case msg.err != nil:
		m.say(true, "reload: "+msg.err.Error())
	case !r.Reload.OK:
		fault := words.OneLine(r.Reload.Error)
		m.say(true, fmt.Sprintf("rejected, still running generation %d: %s", r.Generation, fault))
	case len(r.Reload.Changes) == 0:
		m.say(false, fmt.Sprintf("generation %d: nothing to change", r.Generation))
	default:
		changes := changeList(r.Reload.Changes)
		m.say(false, fmt.Sprintf("generation %d applied in %.0f ms: %s",
			r.Generation, r.Reload.DurationMS, changes))
	}
}

// write stores the snapshot that is shown in a file, for a report.
func (m *Model) write() tea.Cmd {
	s := m.data.status
	if s == nil {
		return nil
	}
	return func() tea.Msg {
		path, err := writeSnapshot(s)
		if err != nil {
			return noticeMsg{"write: " + err.Error(), true}
		}
		return noticeMsg{"snapshot written to " + path, false}
	}
}

// writeSnapshot writes a status into a new file in the folder for temporary files, which
// only its owner can read: names and addresses of a mesh are not for everybody.
func writeSnapshot(s *control.Status) (path string, err error) {
	doc, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return "", err
	}
	pattern := fmt.Sprintf("meshtui-%s-%s-*.json", s.Node, s.Now.UTC().Format("20060102-150405"))
	f, err := os.CreateTemp("", pattern)
	if err != nil {
		return "", err
	}
	defer f.Close()
	_, err = f.Write(append(doc, '\n'))
	return f.Name(), err
}

// restyle paints with ASCII alone from now on, or with all glyphs again.
func (m *Model) restyle() tea.Cmd {
	m.options.ASCII = !m.options.ASCII
	m.theme = cell.NewTheme(m.options.Colour, m.options.ASCII)
	return nil
}
