package tui

import (
	"fmt"
	"slices"
	"strings"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/tui/cell"
)

// detail is the page of the peer under the cursor: where it is, how far, what it sent and
// what was lost.
//
//	PEERS > edge-05                          ◐ stale · last heard 9 s ago
//	where it is, what lies behind it, RTT, since when it is in its state
//	charts of rates, RTT and loss over the chosen span, with a time axis
//	counters, and drops by reason
//	the newest events of this peer, where there is room
//
// It does not hold a peer: `[` and `]` move the cursor, and the page follows.
type detail struct{ page }

// hints implements screen.
func (detail) hints() []hint {
	return []hint{back, {"[ ]", "prev next"}, {"P", "ping"}, {"t", "span"}, {"y", "copy"}, {"n", "next problem"},
		{"u", "units"}, {"Z", "zero"}, {"j k", "scroll"}}
}

// press implements screen: only scrolling is its own. Pings, copies and spans are the same
// wherever a peer is selected.
func (d detail) press(v view, key string) (request, bool) {
	return d.page.press(v, key, len(d.lines(v)), func(p page) screen { return detail{p} })
}

// charts implements charter.
func (detail) charts(v view) []historyKey { return []historyKey{{v.cursor, spans[v.span]}} }

// body implements screen.
func (d detail) body(v view) []cell.Line { return v.faded(d.shown(d.lines(v), v.h)) }

// detailTitle is the name of a peer, its state, and when it was heard. Where there is no room for all, the
// name loses the domain that all share, then what stands before it, and at last the state stands alone.
func detailTitle(v view, name string, state cell.Line, seen string) (title cell.Line) {
	short := v.names.short(name)
	heard := state.Add(cell.Plain, " · "+seen+" ")
	where := cell.Styled(cell.Dim, " PEERS > ")
	for _, t := range []struct{ left, right cell.Line }{
		{where.Add(cell.Strong, name), heard}, {where.Add(cell.Strong, short), heard},
		{cell.Styled(cell.Strong, " "+short), heard},
		{cell.Styled(cell.Strong, " "+short), state.Add(cell.Plain, " ")},
	} {
		title = t.left.Spread(t.right, v.w)
		if t.left.Width()+1+t.right.Width() <= v.w {
			break
		}
	}
	return title
}

// lines are the whole page, which a low terminal scrolls. On a high one events fill what the
// rest leaves.
func (detail) lines(v view) []cell.Line {
	p, ok := v.selected()
	if !ok {
		return []cell.Line{cell.Text(" PEERS > " + v.cursor), {},
			cell.Styled(cell.Warn, " the file in force no longer has this node: esc goes back")}
	}
	glyph, word, role := stateOf(p)
	seen := "never heard"
	if p.LastSeen != nil {
		seen = "last heard " + words.Span(v.daemonNow().Sub(*p.LastSeen)) + " ago"
	}
	title := detailTitle(v, p.Name, cell.Styled(role, glyph+" "+word), seen)
	lines := append([]cell.Line{title}, aboutPath(v, p)...)
	lines = append(lines, cell.Line{})
	for _, l := range append(peerCharts(v, p, v.w-2), timeAxis(v, p.Name, v.w-2)) {
		lines = append(lines, cell.Text(" ").Join(l))
	}
	tables := peerCounters(v, p)
	if len(lines)+1+len(tables) <= v.h {
		lines = append(lines, cell.Line{})
	}
	lines = append(lines, tables...)
	if room := v.h - len(lines) - 1; room > 0 {
		lines = append(lines, cell.Rule(v.w))
		for _, l := range newestEvents(v, p.Name, v.w-1, room) {
			lines = append(lines, cell.Text(" ").Join(l))
		}
	}
	return lines
}

// peerLabelWidth is the width of a label in cells.
const peerLabelWidth = 12

// peerLabel begins a line of facts of a peer.
func peerLabel(word string) cell.Line { return cell.Styled(cell.Dim, fmt.Sprintf(" %-10s ", word)) }

// aboutPath is where a peer is, what lies behind it, and how far it is. RTT has four figures,
// since one alone hides what users feel: the worst twentieth of the packets.
func aboutPath(v view, p control.Peer) []cell.Line {
	where, role := endpoint(p)
	first := peerLabel("endpoint").Add(role, where)
	first = first.Add(cell.Plain, "   ").Add(fileRole(p), words.File(p))
	if p.MTU > 0 { // an older meshd does not tell
		first = first.Add(cell.Plain, fmt.Sprintf("   mtu %d", p.MTU)).Add(cell.Dim, " by "+p.MTUSource)
	}
	if p.Version != "" { // the longest, and what is missed least where a line is too narrow
		first = first.Add(cell.Dim, "   meshd "+p.Version)
	}
	lines := slices.Concat(peerMaintenance(v, p), []cell.Line{first}, aboutWay(v, p), aboutLock(v, p),
		addresses(v, p), behind(p, v.w))
	rtt := fmt.Sprintf("%s now   %s min   %s p50   %s p95   jitter %s", words.Millis(lastRTT(p)),
		words.Millis(p.RTTMinMS), words.Millis(rttOf(p)), words.Millis(p.RTTP95MS), words.Millis(p.JitterMS))
	lines = append(lines, peerLabel("rtt ms").Add(cell.Plain, rtt+"   ").
		Add(lossRole(lossOf(p)), "loss "+words.Percent(lossOf(p))))
	if p.Since != nil {
		_, word, _ := stateOf(p)
		lines = append(lines, peerLabel("state").Add(cell.Plain, fmt.Sprintf(
			"%s since %s (%s)   probes %s sent, %s answered", word, words.Clock(*p.Since),
			words.Span(v.daemonNow().Sub(*p.Since)), words.Grouped(p.ProbesTx), words.Grouped(p.ProbesRx))))
	}
	return lines
}

// behind lists the prefixes behind a peer in three lines at most: a peer may have hundreds,
// and what is below them is worth more.
func behind(p control.Peer, w int) (lines []cell.Line) {
	text := strings.Join(p.Subnets, "  ")
	if len(p.Routes) > 0 {
		text += "  routes " + strings.Join(routeTexts(p), "  ")
	}
	word := "subnets"
	for i, l := range cell.Wrap(text, w-13) {
		if i == 2 {
			all := fmt.Sprintf("… %d in all", len(p.Subnets)+len(p.Routes))
			return append(lines, peerLabel("").Add(cell.Dim, all))
		}
		lines = append(lines, peerLabel(word).Add(cell.Plain, l))
		word = ""
	}
	return lines
}

// dropsWidth is the width of the table of drops: the longest reason, and three figures.
const dropsWidth = 38

// peerCounters are two tables, beside each other where there is room: traffic, and drops
// by reason.
func peerCounters(v view, p control.Peer) []cell.Line {
	c := v.counted(p)
	since := "since meshd's start"
	if v.base != nil {
		since = "since " + words.Clock(v.base.Now)
	}
	bytes := func(n uint64) string { return words.SI(float64(n)) + "B" }
	packets := words.Grouped
	if c.encrypted {
		packets = func(uint64) string { return words.Unknown }
	}
	row := func(rx, tx string) string { return fmt.Sprintf("%14s%14s", rx, tx) }
	left := []cell.Line{
		cell.Styled(cell.Dim, fmt.Sprintf(" %-10s", "COUNTERS")+row("rx", "tx")),
		cell.Styled(cell.Dim, " packets   ").
			Add(cell.Plain, row(packets(c.rxPackets), packets(c.txPackets))),
		cell.Styled(cell.Dim, " bytes     ").Add(cell.Plain, row(bytes(c.rxBytes), bytes(c.txBytes))),
		cell.Styled(cell.Dim, " "+since),
	}
	right := peerDrops(v, p)
	if v.w < 40+dropsWidth {
		return slices.Concat(left, right)
	}
	h := max(len(left), len(right))
	return cell.Beside(cell.Fill(left, v.w-dropsWidth, h), cell.Fill(right, dropsWidth, h))
}

// peerDrops is a table of a peer's drops by reason: how many, how fast, and how long ago
// the last one was.
func peerDrops(v view, p control.Peer) []cell.Line {
	lines := []cell.Line{cell.Styled(cell.Dim, fmt.Sprintf("%-18s%8s%6s%6s", "DROPS", "total", "/s", "last"))}
	drops := v.dropsOf(p)
	for _, reason := range words.Reasons(p.Drops) { // also those that are zero since Z
		g, news := v.growing(dropsOf, p.Name, reason)
		role := cell.Plain
		if news {
			role = cell.Warn
		}
		lines = append(lines, cell.Styled(role, reason).Add(cell.Plain, fmt.Sprintf("%*s%8s%6s%6s",
			18-min(18, cell.Width(reason)), "", words.Short(drops[reason]), words.SI(g.rate), v.lastText(g))))
	}
	if len(lines) == 1 {
		lines = append(lines, cell.Styled(cell.Dim, "none"))
	}
	return lines
}
