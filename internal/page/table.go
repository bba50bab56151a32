package page

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
)

// Sizes of the table.
const (
	widestName = 32 // columns of a name on a screen
	fewRows    = 24 // rows to which peers that are well are folded
	mostRows   = 48 // rows to which the others are
	gap        = 2  // columns between two columns of the table
	lossy      = 0.02
)

// A column of the table.
type column struct {
	title string
	right bool // figures are aligned at their ends
	leave int  // which column leaves first where there is no room: the one with the largest number; 0 stays
	cell  func(p *page, peer *control.Peer) span
}

// columns are all that there are, from left to right.
var columns = []column{
	{"PEER", false, 0, func(_ *page, peer *control.Peer) span { return span{peer.Name, strong} }},
	{"STATE", false, 0, stateCell},
	{"LOCK", false, 1, func(p *page, peer *control.Peer) span {
		word := words.Lock(p.s, *peer)
		return span{word, lockRoles[word]}
	}},
	{"RTT", true, 2, func(_ *page, peer *control.Peer) span { return span{rtt(peer), plain} }},
	{"LOSS", true, 3, lossCell},
	{"RX", true, 5, func(p *page, peer *control.Peer) span { return p.moved(peer, received) }},
	{"TX", true, 6, func(p *page, peer *control.Peer) span { return p.moved(peer, sent) }},
	{"SEEN", true, 4, func(p *page, peer *control.Peer) span {
		if peer.LastSeen == nil {
			return span{"never", plain}
		}
		return span{words.Age(p.now.Sub(*peer.LastSeen)), plain}
	}},
	{"DROPS", true, 7, dropCell},
	{"SUBNETS", false, 8, subnetCell},
	{"ADDRESS", false, 9, func(_ *page, peer *control.Peer) span { return span{words.Endpoint(*peer), plain} }},
	{"FILE", false, 10, func(_ *page, peer *control.Peer) span { return span{words.File(*peer), plain} }},
	{"VERSION", false, 11, func(_ *page, peer *control.Peer) span {
		return span{words.OrNone(peer.Version), plain}
	}},
}

// lockRoles are those of the words of words.Lock that stand out.
var lockRoles = map[string]role{"CLEAR": bad, "refused": bad, control.WireGuardWaiting: warn,
	control.WireGuardLagging: warn, "sealed": good}

// dead tells that a peer is not heard: what was measured of it is of the past.
func dead(peer *control.Peer) bool { return peer.State == control.Down }

// stateCell is the state. In a maintenance that was announced no state is an alarm.
func stateCell(_ *page, peer *control.Peer) span {
	word := words.State(*peer)
	switch {
	case peer.Drain != nil:
		return span{word, plain}
	case peer.State == control.Up:
		return span{word, good}
	case peer.State == control.Down, peer.State == control.OneWay:
		return span{word, bad}
	case peer.State == control.Unknown:
		return span{word, dim}
	}
	return span{word, warn}
}

// rtt is the RTT of a peer that is heard.
func rtt(peer *control.Peer) string {
	if dead(peer) || peer.RTTMS == nil {
		return words.Unknown
	}
	return words.Millis(peer.RTTMS) + " ms"
}

// lossCell is the loss of probes to a peer that is heard.
func lossCell(_ *page, peer *control.Peer) span {
	if dead(peer) || peer.Loss == nil {
		return span{words.Unknown, plain}
	}
	r := plain
	if *peer.Loss >= lossy {
		r = warn
	}
	return span{strings.TrimSuffix(words.Percent(peer.Loss), "%") + " %", r}
}

// dropCell counts what was dropped of a peer; the reasons are in `meshd peers NAME`.
func dropCell(_ *page, peer *control.Peer) span {
	n := uint64(0)
	for _, dropped := range peer.Drops {
		n += dropped
	}
	return span{words.Grouped(n), plain}
}

// subnetCell lists the prefixes behind a peer; on a screen the first one, and how many more there are.
func subnetCell(p *page, peer *control.Peer) span {
	all := slices.Concat(peer.Subnets, peer.Routes)
	if p.Width == 0 || len(all) < 2 {
		return span{strings.Join(all, " "), plain}
	}
	return span{fmt.Sprintf("%s +%d", all[0], len(all)-1), plain}
}

// received and sent are the bytes of a peer; of WireGuard's messages where nothing counts packets. nil: not
// counted.
func received(peer *control.Peer) *uint64 {
	if peer.RxBytes == nil && peer.WireGuard != nil {
		return &peer.WireGuard.RxBytes
	}
	return peer.RxBytes
}

func sent(peer *control.Peer) *uint64 {
	if peer.TxBytes == nil && peer.WireGuard != nil {
		return &peer.WireGuard.TxBytes
	}
	return peer.TxBytes
}

// moved is how much traffic there was, or how much there is if an earlier status is known.
func (p *page) moved(peer *control.Peer, bytes func(*control.Peer) *uint64) span {
	n := bytes(peer)
	if n == nil {
		return span{words.Unknown, plain}
	}
	if p.Before == nil {
		return span{words.Size(*n), plain}
	}
	seconds := p.s.UptimeSeconds - p.Before.UptimeSeconds
	earlier := p.before[peer.Name]
	if earlier == nil || seconds <= 0 {
		return span{words.Unknown, plain}
	}
	old := bytes(earlier)
	if old == nil || *old > *n {
		return span{words.Unknown, plain}
	}
	return span{rate(8 * float64(*n-*old) / seconds), plain}
}

// rate writes bits in a second: "587 kb/s".
func rate(v float64) string {
	units := []string{"b/s", "kb/s", "Mb/s", "Gb/s", "Tb/s"}
	for v >= 999.5 && len(units) > 1 {
		v, units = v/1000, units[1:]
	}
	if v < 9.95 && units[0] != "b/s" {
		return fmt.Sprintf("%.1f %s", v, units[0])
	}
	return fmt.Sprintf("%.0f %s", math.Round(v), units[0])
}

// well tells that a peer has nothing to tell.
func well(peer *control.Peer) bool {
	return peer.State == control.Up && (peer.Loss == nil || *peer.Loss < lossy)
}

// folded returns the peers that have a row, those first that need eyes, and what is said of the others.
func (p *page) folded() (shown []control.Peer, rest string) {
	if p.Sorted {
		return p.s.Peers, ""
	}
	all := words.ByState(p.s.Peers)
	slices.SortStableFunc(all, func(a, b control.Peer) int { return order(&a) - order(&b) })
	news := len(all)
	for i := range all {
		if well(&all[i]) {
			news = i
			break
		}
	}
	rows := max(fewRows, min(news, mostRows))
	if p.All || len(all) <= rows {
		return all, ""
	}
	rest = fmt.Sprintf("%d more are up", len(all)-max(rows, news))
	if hidden := news - rows; hidden > 0 {
		rest = fmt.Sprintf("%d more are not well, %d are up", hidden, len(all)-news)
	}
	return all[:rows], rest + ": --all shows them"
}

// order puts peers that are well behind all others.
func order(peer *control.Peer) int {
	if well(peer) {
		return 1
	}
	return 0
}

// table is the table of some peers, and a line about the rest.
func (p *page) table(peers []control.Peer, rest string) (lines []line) {
	locked := slices.ContainsFunc(peers, func(q control.Peer) bool { return q.WireGuard != nil })
	used := slices.DeleteFunc(slices.Clone(columns), func(c column) bool { return c.title == "LOCK" && !locked })
	suffix := p.suffix(peers)
	if suffix != "" {
		lines = append(lines, line{{fmt.Sprintf("names of peers end in %s", suffix), dim}})
	}
	cells, widths := p.cells(used, peers, suffix)
	for drop := p.leaves(used, widths); drop >= 0; drop = p.leaves(used, widths) {
		used, widths = slices.Delete(used, drop, drop+1), slices.Delete(widths, drop, drop+1)
		for i := range cells {
			cells[i] = slices.Delete(cells[i], drop, drop+1)
		}
	}
	head := make([]span, len(used))
	for i, c := range used {
		head[i] = span{c.title, dim}
	}
	for _, row := range slices.Insert(cells, 0, head) {
		lines = append(lines, inRow(used, widths, row))
	}
	if rest != "" {
		lines = append(lines, line{{rest, dim}})
	}
	return lines
}

// cells are those of all columns, and how wide each column has to be.
func (p *page) cells(used []column, peers []control.Peer, suffix string) (cells [][]span, widths []int) {
	widths = make([]int, len(used))
	for i, c := range used {
		widths[i] = len(c.title)
	}
	for i := range peers {
		row := make([]span, len(used))
		for j, c := range used {
			row[j] = c.cell(p, &peers[i])
			if j == 0 {
				row[j].text = strings.TrimSuffix(row[j].text, suffix)
				if p.Width > 0 && width(row[j].text) > widestName {
					row[j].text = fit(row[j].text, widestName)
				}
			}
			widths[j] = max(widths[j], width(row[j].text))
		}
		cells = append(cells, row)
	}
	return cells, widths
}

// leaves returns the column that has to leave since the table is too wide; -1: none.
func (p *page) leaves(used []column, widths []int) int {
	total := -gap
	worst := -1
	for i, c := range used {
		total += widths[i] + gap
		if c.leave > 0 && (worst < 0 || c.leave > used[worst].leave) {
			worst = i
		}
	}
	if p.Width == 0 || total <= p.Width {
		return -1
	}
	return worst
}

// inRow puts cells beside each other.
func inRow(used []column, widths []int, row []span) (l line) {
	for i, c := range row {
		pad := span{strings.Repeat(" ", widths[i]-width(c.text)), plain}
		switch {
		case used[i].right:
			l = append(l, pad, c)
		default:
			l = append(l, c, pad)
		}
		l = append(l, span{strings.Repeat(" ", gap), plain})
	}
	return l
}

// suffix is the domain that all names share, if they are too wide for a screen with it; else empty.
func (p *page) suffix(peers []control.Peer) string {
	const wide = 20
	longest := 0
	for _, peer := range peers {
		longest = max(longest, len(peer.Name))
	}
	if p.Width == 0 || longest <= wide || len(peers) < 2 {
		return ""
	}
	shared := peers[0].Name
	for _, peer := range peers[1:] {
		n := 0
		for n < min(len(shared), len(peer.Name)) && shared[len(shared)-1-n] == peer.Name[len(peer.Name)-1-n] {
			n++
		}
		shared = shared[len(shared)-n:]
	}
	dot := strings.IndexByte(shared, '.')
	if dot < 0 {
		return ""
	}
	shared = shared[dot:]
	if slices.ContainsFunc(peers, func(q control.Peer) bool { return len(q.Name) == len(shared) }) {
		return "" // one would be left without a name
	}
	return shared
}
