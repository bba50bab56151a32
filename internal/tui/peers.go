package tui

import (
	"fmt"
	"slices"
	"strings"

	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/tui/cell"
)

// peers is the screen of all peers: their table, and what it has no room for. It holds
// nothing of its own, since the dashboard shows the same table with the same cursor.
type peers struct{}

// hints implements screen.
func (peers) hints() []hint {
	return []hint{{"j k", "move"}, {"enter", "detail"}, {"/", "filter"}, {"s", "sort"}, {"n", "next problem"},
		{"P", "ping"}, {":", "go to"}, {"y", "copy"}, {"u", "units"}, {"o", "columns"}, {"S", "reverse"},
		{"R", "reload"}}
}

// press implements screen.
func (peers) press(v view, key string) (request, bool) { return listed(v, key) }

// rows implements lister: a note and the titles stand above the table.
func (peers) rows(v view) (first, room int) { return 2, peersRoom(v.h) }

// aboutLines is how many lines there are below the table: the sum of all peers, a rule, and two about the
// selected one.
const aboutLines = 4

// peersRoom is how many peers a body of h lines has room for. On a low terminal the table
// is worth more than what is below it.
func peersRoom(h int) int {
	if h >= 12 {
		return h - 2 - aboutLines
	}
	return max(1, h-2)
}

// body implements screen: a note, the table, and below a rule the selected peer.
func (peers) body(v view) []cell.Line {
	lines := []cell.Line{tableNote(v).Fit(v.w)}
	lines = append(lines, cell.Fill(tableLines(v, v.w, v.room+1), v.w, v.room+1)...)
	if v.h-2-v.room >= aboutLines {
		lines = append(lines, allLine(v, v.w), cell.Rule(v.w))
		lines = append(lines, aboutPeer(v)...)
	}
	return v.faded(lines)
}

// tableNote is the line above the table: what is shown of what, in which order.
func tableNote(v view) cell.Line {
	direction, since := "", ""
	if v.reverse {
		direction = " reversed"
	}
	if v.base != nil {
		since = " · counters since " + words.Clock(v.base.Now)
	}
	return cell.Styled(cell.Dim, fmt.Sprintf(" rows %s · sort %s%s · filter: %s%s%s",
		shownRows(v), v.sort, direction, v.filter, since, v.names.title()))
}

// aboutPeer is what the table has no room for, of the selected peer: two lines.
func aboutPeer(v view) []cell.Line {
	p, ok := v.selected()
	if !ok {
		return make([]cell.Line, 2)
	}
	where, role := endpoint(p)
	first := cell.Styled(cell.Strong, " "+p.Name).Add(role, "  "+where)
	if p.Version != "" {
		first = first.Add(cell.Dim, "  meshd "+p.Version)
	}
	first = first.Add(cell.Plain, "  ").Add(fileRole(p), words.File(p))
	if p.Drain != nil {
		first = first.Add(cell.Accent, "  "+words.Maintenance(*p.Drain, v.status.Now))
	}
	second := cell.Styled(cell.Dim, " subnets ").
		Add(cell.Plain, strings.Join(slices.Concat(p.Subnets, p.Routes), " "))
	if drops := words.Drops(v.dropsOf(p)); drops != "" {
		role := cell.Plain
		if v.grows(p) {
			role = cell.Warn
		}
		second = second.Add(cell.Dim, "   drops: ").Add(role, drops)
	}
	return []cell.Line{first, second}
}
