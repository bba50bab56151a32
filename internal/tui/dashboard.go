package tui

import (
	"fmt"
	"slices"
	"strings"

	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/tui/cell"
)

// dashboard is the overview on a large terminal: everything at once, for a screen on a wall.
//
//	┌ node ──────┐┌ traffic ───┐┌ attention ─┐
//	│            ││            ││            │  dashTop
//	└────────────┘└────────────┘└────────────┘
//	┌ peers ─────────────────────────────────┐
//	│                                        │  what is left
//	└────────────────────────────────────────┘
//	┌ the selected peer ──┐┌ events ─────────┐
//	│                     ││                 │  dashBottom
//	└─────────────────────┘└─────────────────┘
//
// It holds nothing of its own: the cursor is that of the table of peers.
type dashboard struct{}

// Sizes of a terminal from which on the dashboard stands in for the overview.
const (
	dashWidth  = 120
	dashHeight = 30
)

// Heights of the dashboard's rows of boxes; the table between them has the rest.
const (
	dashTop    = 10
	dashBottom = 9
)

// hints implements screen: a wide line has room for more of them.
func (dashboard) hints() string {
	return "tab next  j/k move  enter open  / filter  s/S sort  P ping  c config  R reload  " +
		"t span  u units  p pause  ? help  q quit"
}

// press implements screen.
func (dashboard) press(v view, key string) (request, bool) { return listed(v, key) }

// rows implements lister: the border of the table and its titles stand above the peers.
func (dashboard) rows(h int) (first, room int) {
	return dashTop + 2, max(1, h-dashTop-dashBottom-3)
}

// charts implements charter.
func (dashboard) charts(v view) []historyKey {
	if v.cursor == "" {
		return []historyKey{nodeHistory}
	}
	return []historyKey{nodeHistory, {v.cursor, spans[v.span]}}
}

// body implements screen. Boxes are cut where they are too narrow for a line; the tabs have
// the whole of it.
func (dashboard) body(v view) []cell.Line {
	third := v.w / 3
	box := func(title string, body []cell.Line, w, h int) []cell.Line {
		return cell.Box(cell.Styled(cell.Strong, title), "", body, w, h)
	}
	top := cell.Beside(
		box("node", nodeBox(v, third-4), third, dashTop),
		box("traffic", traffic(v, third-4), third, dashTop),
		box("attention", attentionBox(v, v.w-2*third-4, dashTop-2), v.w-2*third, dashTop),
	)
	middle := v.h - dashTop - dashBottom
	n := countStates(v.status.Peers)
	counts := append([]string{fmt.Sprintf("peers %d · %d up", len(v.status.Peers), n.up)}, n.quiet()...)
	title := strings.Join(counts, " · ") +
		fmt.Sprintf(" · %d stale · %d DOWN · sort %s", n.stale, n.down, v.sort)
	note := fmt.Sprintf("filter: %s  %s", v.filter, shownRows(v))
	peers := cell.Box(cell.Styled(cell.Strong, title), note, tableLines(v, v.w-4, middle-2), v.w, middle)
	left := v.w * 4 / 7 // charts gain more from width than events do
	bottom := cell.Beside(
		cell.Box(cell.Styled(cell.Strong, v.cursor), spans[v.span], peerBox(v, left-4), left, dashBottom),
		box("events", newestEvents(v, "", v.w-left-4, dashBottom-2), v.w-left, dashBottom),
	)
	return v.faded(slices.Concat(top, peers, bottom))
}

// nodeBox has the facts of the node in narrow lines of w cells. The overview shows the same
// facts in wide ones; both are made of the same parts.
func nodeBox(v view, w int) []cell.Line {
	s := v.status
	generation, since := "  not in force yet", ""
	if !s.Config.Applied.IsZero() {
		generation, since = fmt.Sprintf("  gen %d", s.Config.Generation), applied(v, true)
	}
	path := cell.FitMiddle(s.Config.Path, max(12, min(cell.Width(s.Config.Path), w-len(generation))))
	offload := cell.Styled(cell.Dim, "offload ").Add(cell.Plain, offloads(s)).Join(refused(s))
	if s.WireGuard != nil { // the interface that encrypts has none to choose
		offload = lockFacts(s)
	}
	return []cell.Line{
		cell.Styled(cell.Strong, s.Node).Add(cell.Plain, "  "+words.HostPort(s.Network)),
		cell.Text(fmt.Sprintf("meshd %s  pid %d  up %s", s.Version, s.PID, words.Span(v.uptime()))),
		cell.Text(planeFacts(s)),
		offload,
		cell.Styled(cell.Dim, "drops ").Join(dropFacts(v)),
		peerFacts(s),
		cell.Text(path + generation),
		cell.Styled(cell.Dim, "applied ").Add(cell.Plain, since),
	}
}

// attentionBox has the verdict and what it is for. Old data has no verdict: what the daemon
// last said of itself is not what is wrong now.
func attentionBox(v view, w, h int) []cell.Line {
	head := cell.Text(" ").Join(verdict(v.status))
	if !v.live {
		head = cell.Styled(cell.Bad, fmt.Sprintf(" no data for %s: meshd (pid %d) hangs?",
			words.Span(v.sinceHeard()), v.status.PID))
	}
	lines := append([]cell.Line{head}, maintenance(v.status, w, 3)...)
	return append(lines, attention(v.status, w, max(1, h-len(lines)))...)
}

// peerBox is the selected peer in a few lines.
func peerBox(v view, w int) []cell.Line {
	p, ok := v.selected()
	if !ok {
		return nil
	}
	return append(peerCharts(v, p, w), aboutPeer(v)...)
}
