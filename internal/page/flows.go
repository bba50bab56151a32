package page

import (
	"fmt"
	"io"
	"slices"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/text"
)

// A flowColumn is a column of the table of flows.
type flowColumn struct {
	column
	by   []string // for which sums it is there; nil: for all
	cell func(*page, control.FlowRow) span
}

// flowColumns are all that there are, from left to right.
var flowColumns = []flowColumn{
	{column{title: "POD"}, []string{control.ByFlow, control.ByPod},
		func(p *page, r control.FlowRow) span { return span{p.flowEnd(r.Pod, r.PodPort, r), strong} }},
	{column{title: "REMOTE"}, []string{control.ByFlow},
		func(p *page, r control.FlowRow) span { return span{p.flowEnd(r.Remote, r.RemotePort, r), plain} }},
	{column{title: "PEER", leave: 4}, []string{control.ByFlow},
		func(_ *page, r control.FlowRow) span { return span{fit(r.Peer, min(width(r.Peer), widestName)), plain} }},
	{column{title: "PEER"}, []string{control.ByPeer},
		func(_ *page, r control.FlowRow) span {
			return span{fit(r.Peer, min(width(r.Peer), widestName)), strong}
		}},
	{column{title: "PORT"}, []string{control.ByFlow, control.ByPort},
		func(_ *page, r control.FlowRow) span { return span{words.FlowPort(r), plain} }},
	{column{title: "RX", right: true, leave: 2}, nil,
		func(_ *page, r control.FlowRow) span { return span{rate(8 * r.RxBytes), plain} }},
	{column{title: "TX", right: true, leave: 1}, nil,
		func(_ *page, r control.FlowRow) span { return span{rate(8 * r.TxBytes), plain} }},
	{column{title: "SHARE", right: true}, nil,
		func(_ *page, r control.FlowRow) span { return span{words.FlowShare(r.Share), plain} }},
	{column{title: "PACKETS", right: true, leave: 5}, nil,
		func(_ *page, r control.FlowRow) span { return span{words.SI(r.RxPackets+r.TxPackets) + "/s", plain} }},
	{column{title: "FLOWS", right: true, leave: 3}, []string{control.ByPod, control.ByPeer, control.ByPort},
		func(_ *page, r control.FlowRow) span { return span{fmt.Sprint(r.Flows), plain} }},
}

// flowEnd is one end of a flow. On a narrow screen it has no port of a client, which tells the least.
func (p *page) flowEnd(address string, port uint16, r control.FlowRow) string {
	const narrow = 100
	if p.Width > 0 && p.Width < narrow {
		return address
	}
	return words.FlowEnd(address, port, r)
}

// Flows writes who uses the bandwidth: the sum of all flows, and a table of the busiest. The error is the
// writer's.
func Flows(w io.Writer, f control.Flows, o Options) error {
	text.Fields(&f)
	p := &page{Options: o}
	if why := words.FlowsState(f); why != "" {
		return p.write(w, [][]line{p.hang(nil, why)})
	}
	head := line{{rate(8 * f.Total.Bytes()), strong}, {" ", plain}}
	about := fmt.Sprintf("in %s, RX %s, TX %s", flowsBy(f.Known, f.By), rate(8*f.Total.RxBytes),
		rate(8*f.Total.TxBytes))
	if f.Sampled {
		about += ", estimated"
	}
	if f.Known == 0 {
		return p.write(w, [][]line{{plainly("no packet has moved since counting began")}})
	}
	return p.write(w, [][]line{p.hang(head, about), p.flows(f)})
}

// flowsBy counts rows: "12 flows", "3 pods".
func flowsBy(n int, by string) string { return words.Count(n, by) }

// flows is the table.
func (p *page) flows(f control.Flows) (lines []line) {
	var used []column
	var cells []func(*page, control.FlowRow) span
	for _, c := range flowColumns {
		if c.by == nil || slices.Contains(c.by, f.By) {
			used, cells = append(used, c.column), append(cells, c.cell)
		}
	}
	rows, widths := make([][]span, 1+len(f.Rows)), make([]int, len(used))
	for i, c := range used {
		rows[0], widths[i] = append(rows[0], span{c.title, dim}), len(c.title)
		for j, r := range f.Rows {
			cell := cells[i](p, r)
			rows[1+j], widths[i] = append(rows[1+j], cell), max(widths[i], width(cell.text))
		}
	}
	for drop := p.leaves(used, widths); drop >= 0; drop = p.leaves(used, widths) {
		used, widths = slices.Delete(used, drop, drop+1), slices.Delete(widths, drop, drop+1)
		for i := range rows {
			rows[i] = slices.Delete(rows[i], drop, drop+1)
		}
	}
	for _, row := range rows {
		lines = append(lines, inRow(used, widths, row))
	}
	if more := f.Known - len(f.Rows); more > 0 {
		lines = append(lines, line{{fmt.Sprintf("%d more: -n shows more of them", more), dim}})
	}
	return lines
}
