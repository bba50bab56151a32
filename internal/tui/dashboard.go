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
//	■ FAILED  3 DOWN · 4 stale                                facts of the node
//	DOWN    edge-0014 ...                                     problems, as many as there are
//	rx 3.82G b/s ▂▃▅▆▇▅▃   tx 3.43G b/s ▂▃▅▆▇▅▃   drops 0/s
//	┌ peers ─────────────────────────────────┐
//	│                                        │  what is left, leastPeers at least
//	└────────────────────────────────────────┘
//	┌ the selected peer ──┐┌ events ─────────┐
//	│                     ││                 │  where there is room besides
//	└─────────────────────┘└─────────────────┘
//
// It holds nothing of its own: the cursor is that of the table of peers.
type dashboard struct{}

// Sizes of a terminal from which on the dashboard stands in for the overview.
const (
	dashWidth  = 120
	dashHeight = 30
)

// Heights in lines.
const (
	mostProblems = 5  // below the verdict
	leastPeers   = 14 // rows of the table that all else has to leave room for
	leastBottom  = 6  // of the boxes at the bottom; where they had less, there are none
	mostBottom   = 10
)

// hints implements screen: a wide line has room for more of them.
func (dashboard) hints() []hint {
	return []hint{{"tab", "next"}, {"j k", "move"}, {"enter", "open"}, {"/", "filter"}, {"s", "sort"},
		{"n", "next problem"}, {"P", "ping"}, {"c", "config"}, {"R", "reload"}, {":", "go to"}, {"y", "copy"},
		{"t", "span"}, {"u", "units"}, {"p", "pause"}}
}

// press implements screen.
func (dashboard) press(v view, key string) (request, bool) { return listed(v, key) }

// layout returns the heights of the three parts, which are h lines together.
func (dashboard) layout(v view) (top, middle, bottom int) {
	top = len(dashboardTop(v))
	const frame = 3 // two borders, and the titles
	free := v.h - top - frame
	peers := max(1, len(v.status.Peers))
	bottom = free - min(peers, max(min(peers, leastPeers), free-mostBottom))
	if bottom = min(bottom, mostBottom); bottom < leastBottom {
		bottom = 0
	}
	return top, v.h - top - bottom, bottom
}

// rows implements lister: the border of the table and its titles stand above the peers.
func (d dashboard) rows(v view) (first, room int) {
	top, middle, _ := d.layout(v)
	return top + 2, max(1, middle-3)
}

// charts implements charter.
func (d dashboard) charts(v view) []historyKey {
	if _, _, bottom := d.layout(v); v.cursor == "" || bottom == 0 {
		return []historyKey{nodeKey(v)}
	}
	return []historyKey{nodeKey(v), {v.cursor, spans[v.span]}}
}

// body implements screen.
func (d dashboard) body(v view) []cell.Line {
	_, middle, bottom := d.layout(v)
	top := dashboardTop(v)
	n := countStates(v.status.Peers)
	counts := append([]string{fmt.Sprintf("peers %d · %d up", len(v.status.Peers), n.up)}, n.quiet()...)
	for _, bad := range n.troubled() {
		counts = append(counts, fmt.Sprintf("%d %s", bad.n, bad.word))
	}
	title := strings.Join(append(counts, "sort "+v.sort.String()), " · ") + v.names.title()
	note := fmt.Sprintf("filter: %s  %s", v.filter, shownRows(v))
	peers := cell.Box(cell.Styled(cell.Strong, title), note, tableLines(v, v.w-4, middle-2), v.w, middle)
	lines := slices.Concat(top[1:], peers)
	if bottom > 0 {
		left := v.w * 4 / 7 // charts gain more from width than events do
		lines = append(lines, cell.Beside(
			cell.Box(cell.Styled(cell.Strong, v.cursor), spans[v.span], peerBox(v, left-4), left, bottom),
			cell.Box(cell.Styled(cell.Strong, "events"), "", newestEvents(v, "", v.w-left-4, bottom-2),
				v.w-left, bottom),
		)...)
	}
	return append(top[:1:1], v.faded(lines)...)
}

// dashboardTop is the verdict with its problems, and the traffic in one line.
func dashboardTop(v view) []cell.Line {
	about := nodeFacts(v)
	if since := sinceFacts(v); since != nil {
		about = since.Add(cell.Plain, "   ").Join(about)
	}
	lines := band(v, v.w, mostProblems+1, about, nodeFacts(v), sinceFacts(v))
	return append(lines, trafficLine(v, v.w))
}

// nodeFacts are the facts of the node that the first line of the screen does not have.
func nodeFacts(v view) cell.Line {
	s := v.status
	return cell.Styled(cell.Dim, fmt.Sprintf("%s  %s  mtu %d  up %s  meshd %s", words.HostPort(s.Network),
		engine(s.Dataplane), s.Network.MTU, words.Span(v.uptime()), s.Version))
}

// trafficLine is what the node moves, in one line of w cells, with charts in what figures leave.
func trafficLine(v view, w int) cell.Line {
	flows, _ := nodeFlows(v)
	figure := func(f flow) string { return words.SI(f.now) + " " + strings.TrimPrefix(f.name[3:], " ") }
	drops := cell.Styled(cell.Dim, "drops ").Join(dropsNow(v))
	chart := max(0, (w-drops.Width()-2*22-8)/2)
	line := cell.Text(" ")
	for _, f := range flows[:2] {
		line = line.Add(cell.Dim, f.name[:2]+" ").Add(cell.Strong, cell.Fit(figure(f), 13)+" ").
			Add(f.role, cell.Spark(f.values, f.last, min(chart, 50), f.top)).Add(cell.Plain, "   ")
	}
	return line.Join(drops).Fit(w)
}

// peerBox is the selected peer in a few lines.
func peerBox(v view, w int) []cell.Line {
	p, ok := v.selected()
	if !ok {
		return nil
	}
	return append(peerCharts(v, p, w), aboutPeer(v)...)
}
