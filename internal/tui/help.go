package tui

import (
	"fmt"

	"example.org/meshd/internal/tui/cell"
)

// help is the page of all keys. Keys that a screen has in its last line are here, too: this
// is the one list that is complete.
type help struct{ page }

// hints implements screen; all others are in its body.
func (help) hints() []hint { return []hint{back, {"j k", "scroll"}} }

// press implements screen.
func (h help) press(v view, key string) (request, bool) {
	if key == "?" || key == "f1" { // the keys that opened it
		return request{back: true}, true
	}
	return h.page.press(v, key, len(h.lines(v)), func(p page) screen { return help{p} })
}

// body is as true without data as with it, so it never fades.
func (h help) body(v view) []cell.Line { return h.shown(h.lines(v), v.h) }

// A binding is a key, or several, and what it does.
type binding struct{ keys, does string }

// A group is bindings with a title.
type group struct {
	title    string
	bindings []binding
}

// The groups as they stand in two columns, or below each other on a narrow terminal.
var (
	helpLeft = []group{
		{"MOVE", []binding{{"j k ↑ ↓", "down, up"}, {"g G home end", "first, last"},
			{"^d ^u ^f ^b", "half a page, a page"}}},
		{"FIND", []binding{{"/", "filter: text state:down"}, {"", "loss>5 rtt>20 drift !not"},
			{":", "go to a peer by name"},
			{"n N", "next, last problem"}, {"[ ]", "previous, next peer"}, {"esc", "clear the filter"}}},
		{"DO", []binding{{"P", "ping the peer"}, {"R", "reload (asks first)"},
			{"c / F", "the file / flows"},
			{"y / Y", "copy n a s r j / JSON"}, {"w", "write a snapshot"}}},
	}
	helpRight = []group{
		{"VIEW", []binding{{"1 2 3 4", "the screens above"}, {"tab h l", "next, previous screen"},
			{"enter / esc", "open / back"}, {"s / S", "next order / reverse"},
			{"A D L T", "name drops loss traffic"}, {"u", "bit/s, byte/s, pkt/s"}, {"o", "columns on, off"},
			{"t", "span 5m, 1h, 24h"}, {"W E f", "warnings errors fold"},
			{"p or space", "pause, resume"}, {"+ / -", "faster, slower"}, {"m / a", "mouse / ASCII on, off"},
			{"Z", "zero the view (not meshd)"}, {"r", "connect again"}, {"q", "back, then quit"},
			{"Q ^c / ^z", "quit at once / suspend"}}},
	}
)

// lines are the whole page.
func (help) lines(v view) []cell.Line {
	left, right := groupLines(helpLeft), groupLines(helpRight)
	var lines []cell.Line
	if v.w < 72 {
		lines = append(left, right...)
	} else {
		n := max(len(left), len(right))
		lines = cell.Beside(cell.Fill(left, v.w/2, n), cell.Fill(right, v.w-v.w/2, n))
	}
	daemon := ""
	if v.status != nil {
		daemon = "   meshd " + v.status.Version
	}
	about := []cell.Line{
		cell.Styled(cell.Strong, " STATES ").Add(cell.Good, "● up ").Add(cell.Plain, "2 good probes   ").
			Add(cell.Warn, "◐ stale ").Add(cell.Plain, "3 missed   ").
			Add(cell.Bad, "■ DOWN ").Add(cell.Plain, "10 missed   ").Add(cell.Accent, "◇ draining"),
		cell.Styled(cell.Dim, " source "+v.where+"   meshtui "+v.version+daemon+"   man meshtui"),
	}
	if len(lines)+len(about) < v.h {
		lines = append(lines, cell.Line{})
	}
	return append(lines, about...)
}

// groupLines writes groups below each other.
func groupLines(groups []group) (lines []cell.Line) {
	for _, g := range groups {
		lines = append(lines, cell.Styled(cell.Strong, " "+g.title))
		for _, b := range g.bindings {
			lines = append(lines, cell.Styled(cell.Strong, fmt.Sprintf("  %-13s", b.keys)).Add(cell.Plain, b.does))
		}
	}
	return lines
}
