package tui

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/text"
	"example.org/meshd/internal/tui/cell"
)

// flows is the page of who uses the bandwidth: the busiest flows, or what pods, peers or ports move in sum.
// The daemon counts flows only while somebody asks, so this page asks for as long as it is shown.
type flows struct {
	page
	by int // index of control.FlowKeys
}

// hints implements screen.
func (flows) hints() []hint {
	return []hint{back, {"b", "by pod, peer, port"}, {"u", "units"}, {"j k", "scroll"}, {"p", "pause"}}
}

// press implements screen.
func (f flows) press(v view, key string) (request, bool) {
	if key == "b" || key == "B" {
		step := 1
		if key == "B" {
			step = len(control.FlowKeys()) - 1
		}
		return request{become: flows{by: (f.by + step) % len(control.FlowKeys())}}, true
	}
	return f.page.press(v, key, len(f.lines(v)), func(p page) screen { return flows{p, f.by} })
}

// body implements screen.
func (f flows) body(v view) []cell.Line { return v.faded(f.shown(f.lines(v), v.h)) }

// query is what the page wants to know.
func (f flows) query() control.FlowQuery {
	return control.FlowQuery{By: control.FlowKeys()[f.by], Top: control.FlowsTopMost / 2}
}

// toldFlows are those that the daemon told last.
type toldFlows struct {
	control.Flows
	err   error
	asked time.Time // by our own clock
}

// lines are the whole page.
func (f flows) lines(v view) []cell.Line {
	told, by := v.flows, f.query().By
	head := label("FLOWS").Add(cell.Plain, "by ")
	for _, key := range control.FlowKeys() {
		role := cell.Dim
		if key == by {
			key, role = "["+key+"]", cell.Strong
		}
		head = head.Add(role, key).Add(cell.Plain, " ")
	}
	say := func(role cell.Role, about string) []cell.Line {
		return append([]cell.Line{head, {}}, indented(about, v.w, role)...)
	}
	switch {
	case !v.canAsk:
		return say(cell.Dim, "not available with --host: run `meshd top` on that host")
	case told.err != nil:
		return say(cell.Warn, flowsRefused(told.err))
	case told.By != by: // not told yet
		return say(cell.Dim, "counting flows ...")
	case told.State == control.FlowsStarting:
		return say(cell.Dim, words.FlowsState(told.Flows))
	case told.State != control.FlowsCounted:
		return say(cell.Warn, words.FlowsState(told.Flows))
	}
	total := rateOf(told.Total)
	head = head.Add(cell.Plain, fmt.Sprintf("  %s  rx %s  tx %s %s", words.Count(told.Known, by),
		words.SI(v.units.rx(total)), words.SI(v.units.tx(total)), v.units))
	if told.Sampled {
		head = head.Add(cell.Dim, "  estimated")
	}
	if len(told.Rows) == 0 {
		return say(cell.Plain, "no packet has moved since counting began")
	}
	return append([]cell.Line{head, {}}, flowTable(v, told.Rows, by)...)
}

// flowsRefused says why flows cannot be seen, and what to do about that.
func flowsRefused(err error) string {
	switch {
	case errors.Is(err, control.ErrPermission):
		return "only root and the group mesh-admin may have flows counted: run `sudo meshtui`"
	case errors.Is(err, control.ErrMismatch):
		return "this meshd is older than meshtui, and counts no flows"
	}
	return "cannot ask for flows: " + text.Clean(err.Error())
}

// rateOf is what moved in a second, as the units of this program take it.
func rateOf(r control.FlowRates) rate {
	return rate{rxBytes: r.RxBytes, txBytes: r.TxBytes, rxPackets: r.RxPackets, txPackets: r.TxPackets}
}

// A flowColumn is a column of the table.
type flowColumn struct {
	title string
	by    []string // for which sums it is there; nil: for all
	cell  func(v view, r control.FlowRow) string
}

// flowColumns are those of words, from left to right. Figures follow them.
var flowColumns = []flowColumn{
	{"POD", []string{control.ByFlow, control.ByPod},
		func(v view, r control.FlowRow) string { return v.flowEnd(r.Pod, r.PodPort, r) }},
	{"REMOTE", []string{control.ByFlow},
		func(v view, r control.FlowRow) string { return v.flowEnd(r.Remote, r.RemotePort, r) }},
	{"PEER", []string{control.ByFlow, control.ByPeer}, func(_ view, r control.FlowRow) string { return r.Peer }},
	{"PORT", []string{control.ByFlow, control.ByPort},
		func(_ view, r control.FlowRow) string { return words.FlowPort(r) }},
	{"FLOWS", []string{control.ByPod, control.ByPeer, control.ByPort},
		func(_ view, r control.FlowRow) string { return fmt.Sprint(r.Flows) }},
}

// flowEnd is one end of a flow, without the port of a client where there is no room.
func (v view) flowEnd(address string, port uint16, r control.FlowRow) string {
	if v.w < 100 {
		return address
	}
	return words.FlowEnd(address, port, r)
}

// Sizes of the table, in cells.
const (
	flowFigures = 9 + 9 + 7 // rx, tx, and the share
	flowBar     = 10        // of the share, where there is room
	flowName    = 12        // what a column of words keeps at least
	flowGap     = 2         // behind each of them
)

// flowTable has a line for each row below the titles. Columns of words are as wide as what is in them; where
// that is too much, the widest gives way.
func flowTable(v view, rows []control.FlowRow, by string) (lines []cell.Line) {
	var used []flowColumn
	var widths []int
	for _, c := range flowColumns {
		if c.by != nil && !slices.Contains(c.by, by) {
			continue
		}
		wide := len(c.title)
		for _, r := range rows {
			wide = max(wide, cell.Width(c.cell(v, r)))
		}
		used, widths = append(used, c), append(widths, wide)
	}
	room := v.w - 1 - flowFigures
	for _, w := range widths {
		room -= w + flowGap
	}
	for ; room < 0 && slices.Max(widths) > flowName; room++ {
		widths[slices.Index(widths, slices.Max(widths))]--
	}
	line := func(first, others cell.Role, text func(flowColumn) string, figures ...any) cell.Line {
		l, role := cell.Text(" "), first
		for i, c := range used {
			l = l.Add(role, cell.FitMiddle(text(c), widths[i])).Add(cell.Plain, strings.Repeat(" ", flowGap))
			role = others
		}
		return l.Add(others, fmt.Sprintf("%9s%9s%7s", figures...))
	}
	unit := v.units.String()
	lines = append(lines, line(cell.Dim, cell.Dim, func(c flowColumn) string { return c.title },
		"RX "+unit, "TX "+unit, "SHARE"))
	for _, r := range rows {
		l := line(cell.Strong, cell.Plain, func(c flowColumn) string { return c.cell(v, r) },
			words.SI(v.units.rx(rateOf(r.FlowRates))), words.SI(v.units.tx(rateOf(r.FlowRates))),
			words.FlowShare(r.Share))
		if room > flowBar {
			l = l.Add(cell.Chart, " "+strings.Repeat("▇", int(r.Share*flowBar+0.5)))
		}
		lines = append(lines, l)
	}
	return lines
}

// flowsEvery is how often flows are asked for; the lease outlasts a question that is lost.
const flowsEvery = 2 * time.Second

// flowsMsg is the answer to askFlows.
type flowsMsg struct {
	flows control.Flows
	err   error
}

// askFlows has flows counted for a while, and returns them. Who may not have them counted sees what somebody
// else has counted.
func askFlows(source Asker, q control.FlowQuery) tea.Cmd {
	return ask(askTimeout, func(ctx context.Context) tea.Msg {
		f, err := source.CountFlows(ctx, control.FlowsLease, q)
		if errors.Is(err, control.ErrPermission) {
			if seen, readErr := source.Flows(ctx, q); readErr == nil && seen.State != control.FlowsOff {
				return flowsMsg{seen, nil}
			}
		}
		return flowsMsg{f, err}
	})
}

// refreshFlows asks for flows while their page is shown, and at once if another sum is wanted. A pause ends
// that, and so does leaving the page: then nobody renews the lease.
func (m *Model) refreshFlows() tea.Cmd {
	f, shown := m.screen().(flows)
	if !shown || m.options.Asker == nil || !m.live() || m.choices.paused {
		return nil
	}
	q := f.query()
	since := m.now.Sub(m.data.flows.asked)
	starting := m.data.flows.State == control.FlowsStarting && since >= flowsEvery/4
	if q.By == m.summed && since < flowsEvery && !starting {
		return nil
	}
	m.data.flows.asked, m.summed = m.now, q.By
	return askFlows(m.options.Asker, q)
}

// flow takes over what was told of flows.
func (m *Model) flow(msg flowsMsg) {
	text.Fields(&msg.flows)
	m.data.flows = toldFlows{msg.flows, msg.err, m.data.flows.asked}
}
