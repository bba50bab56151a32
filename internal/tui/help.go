package tui

import (
	"fmt"

	"example.org/meshd/internal/tui/cell"
)

// A binding is a key, or several, and what it does.
type binding struct{ keys, does string }

// Groups of bindings as the help shows them: two columns.
var (
	helpLeft = []group{
		{"MOVE", []binding{{"j k ↑ ↓", "down, up"}, {"g G home end", "first, last"}, {"^d ^u PgDn", "half a page"}}},
		{"FIND", []binding{{"/", "filter (regexp)"}, {"! in front", "all but those"}, {"[ ]", "previous, next peer"}, {"esc", "clear the filter"}}},
		{"DO", []binding{{"P", "ping the peer"}, {"R", "reload (asks first)"}, {"c", "the file, and its plan"}, {"y / Y", "copy row / JSON"}, {"w", "write a snapshot"}}},
	}
	helpRight = []group{
		{"VIEW", []binding{{"1 2 3 / tab", "overview, peers, events"}, {"enter / esc", "open / back"}, {"s / S", "next order / reverse"},
			{"u", "bit/s, byte/s, pkt/s"}, {"o", "columns on, off"}, {"t", "span 5m, 1h, 24h"}, {"p or space", "pause, resume"}, {"+ / -", "faster, slower"},
			{"m", "mouse on, off"}, {"a", "ASCII glyphs on, off"}, {"Z", "zero the view (not meshd)"}, {"r", "connect again"}, {"q ^c / ^z", "quit / suspend"}}},
	}
)

type group struct {
	title    string
	bindings []binding
}

// helpBody lists all keys.
func (m *Model) helpBody(w, h int) []cell.Line {
	column := func(groups []group) (lines []cell.Line) {
		for _, g := range groups {
			lines = append(lines, cell.Styled(cell.Strong, " "+g.title))
			for _, b := range g.bindings {
				lines = append(lines, cell.Styled(cell.Accent, fmt.Sprintf("  %-13s", b.keys)).Add(cell.Plain, b.does))
			}
		}
		return lines
	}
	left, right := column(helpLeft), column(helpRight)
	var lines []cell.Line
	if w < 72 {
		lines = append(left, right...)
	} else {
		n := max(len(left), len(right))
		lines = cell.Beside(cell.Fill(left, w/2, n), cell.Fill(right, w-w/2, n))
	}
	about := []cell.Line{
		cell.Styled(cell.Strong, " STATES ").Add(cell.Good, "● up ").Add(cell.Plain, "2 good probes   ").Add(cell.Warn, "◐ stale ").
			Add(cell.Plain, "3 missed   ").Add(cell.Bad, "○ DOWN ").Add(cell.Plain, "10 missed"),
		cell.Styled(cell.Dim, " source "+m.options.Where+"   meshtui "+m.options.Version+m.daemonVersion()+"   man meshtui"),
	}
	if len(lines)+len(about) < h {
		lines = append(lines, cell.Line{})
	}
	return append(lines, about...)
}

func (m *Model) daemonVersion() string {
	if m.data.status == nil {
		return ""
	}
	return "   meshd " + m.data.status.Version
}
