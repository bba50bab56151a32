package tui

import (
	"fmt"
	"slices"
	"strings"

	"example.org/meshd/internal/tui/cell"
)

// Heights of the dashboard's rows of boxes; the table between them has the rest.
const (
	dashTop    = 10
	dashBottom = 9
)

// dashboardBody is the overview on a large screen: everything at once.
func (m *Model) dashboardBody(w, h int) []cell.Line {
	s := m.data.status
	third := w / 3
	trouble := append([]cell.Line{cell.Text(" ").Join(verdict(s))}, m.attention(w-2*third-4, dashTop-3)...)
	if !m.live() {
		trouble[0] = cell.Styled(cell.Bad, " no news for "+span(m.sinceHeard())+fmt.Sprintf(": meshd (pid %d) hangs?", s.PID))
	}
	top := cell.Beside(
		cell.Box(cell.Styled(cell.Strong, "node"), "", m.nodeLines(third-4), third, dashTop),
		cell.Box(cell.Styled(cell.Strong, "traffic"), "", m.traffic(third-4), third, dashTop),
		cell.Box(cell.Styled(cell.Strong, "attention"), "", trouble, w-2*third, dashTop),
	)
	rows := len(m.shown)
	room := m.tableRoom()
	middle := h - dashTop - dashBottom
	n := countStates(s.Peers)
	title := fmt.Sprintf("peers %d · %d up · %d stale · %d DOWN · sort %s", len(s.Peers), n.up, n.stale, n.down, m.sort)
	note := fmt.Sprintf("filter: %s  %d-%d/%d", m.filter, min(m.top+1, rows), min(m.top+room, rows), rows)
	table := cell.Box(cell.Styled(cell.Strong, title), note, m.table(w, w-4, middle-2), w, middle)
	half := w * 4 / 7
	bottom := cell.Beside(
		cell.Box(cell.Styled(cell.Strong, m.cursor), spans[m.span], m.charted(half-4), half, dashBottom),
		cell.Box(cell.Styled(cell.Strong, "events"), "", m.newestEvents(w-half-4, dashBottom-2), w-half, dashBottom),
	)
	return slices.Concat(top, table, bottom)
}

// nodeLines are the facts in a narrow box.
func (m *Model) nodeLines(w int) []cell.Line {
	s := m.data.status
	plane, offload, _ := strings.Cut(m.planeFacts().String(), "  offload ")
	file, applied, _ := strings.Cut(m.configFacts(2*w).String(), "  applied ")
	return []cell.Line{
		cell.Styled(cell.Strong, s.Node).Add(cell.Plain, "  "+hostPort(s.Network)),
		cell.Text(fmt.Sprintf("meshd %s  pid %d  up %s", s.Version, s.PID, span(m.uptime()))),
		cell.Text(plane),
		cell.Styled(cell.Dim, "offload ").Add(cell.Plain, offload),
		cell.Styled(cell.Dim, "drops ").Join(m.dropFacts()),
		peerFacts(s),
		cell.Text(file),
		cell.Styled(cell.Dim, "applied ").Add(cell.Plain, applied),
	}
}

// charted is the selected peer in a few lines.
func (m *Model) charted(w int) []cell.Line {
	p, ok := m.selected()
	if !ok {
		return nil
	}
	return append(m.peerCharts(p, w), m.about(w)...)
}
