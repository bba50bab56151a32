package tui

import (
	"cmp"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/tui/cell"
)

// units says what rates count.
type units int

const (
	inBits units = iota
	inBytes
	inPackets
	unitsEnd
)

// String is the unit as it stands in the head of a column.
func (u units) String() string { return [...]string{"b/s", "B/s", "p/s"}[u] }

// rx and tx return a rate in the unit.
func (u units) rx(r rate) float64 { return [...]float64{8 * r.rxBytes, r.rxBytes, r.rxPackets}[u] }
func (u units) tx(r rate) float64 { return [...]float64{8 * r.txBytes, r.txBytes, r.txPackets}[u] }

// sortKey is what rows are ordered by.
type sortKey int

const (
	sortState sortKey = iota
	sortName
	sortRTT
	sortLoss
	sortRx
	sortTx
	sortDrops
	sortSeen
	sortKeys
)

func (k sortKey) String() string {
	return [...]string{"state", "name", "rtt", "loss", "rx", "tx", "drops", "seen"}[k]
}

// filter keeps the peers, or events, that a regular expression matches, or with "!"
// in front those that it does not. One that is not valid is taken to the letter.
type filter struct {
	text    string
	match   *regexp.Regexp
	invert  bool
	literal bool // it is no regular expression
}

func newFilter(text string) filter {
	f := filter{text: text}
	if text == "" {
		return f
	}
	pattern, invert := strings.CutPrefix(text, "!")
	f.invert = invert
	if pattern == "" {
		return f
	}
	var err error
	if f.match, err = regexp.Compile("(?i)" + pattern); err != nil {
		f.match, f.literal = regexp.MustCompile("(?i)"+regexp.QuoteMeta(pattern)), true
	}
	return f
}

// keeps tells whether one of the texts matches, or with invert none of them.
func (f filter) keeps(texts ...string) bool {
	return f.match == nil || slices.ContainsFunc(texts, f.match.MatchString) != f.invert
}

func (f filter) String() string {
	if f.literal {
		return f.text + " (to the letter)"
	}
	return cmp.Or(f.text, "none")
}

// rows are the peers as they stand in the table.
func (m *Model) rows() []control.Peer {
	if m.data.status == nil {
		return nil
	}
	var rows []control.Peer
	for _, p := range byState(m.data.status.Peers) {
		if m.filter.match == nil || m.filter.keeps(slices.Concat([]string{p.Name, p.State, p.Address}, p.Subnets, p.Routes)...) {
			rows = append(rows, p)
		}
	}
	if m.sort != sortState {
		slices.SortStableFunc(rows, m.compare)
	}
	if m.reverse {
		slices.Reverse(rows)
	}
	return rows
}

// compare orders rows with the largest figure first; what is not known is last.
func (m *Model) compare(a, b control.Peer) int {
	figure := func(p control.Peer) float64 {
		r := m.rateOf(p.Name)
		known := func(f *float64) float64 {
			if f == nil {
				return -1
			}
			return *f
		}
		switch m.sort {
		case sortRTT:
			return known(p.RTTMS)
		case sortLoss:
			return known(p.Loss)
		case sortRx:
			return orLess(m.units.rx(r))
		case sortTx:
			return orLess(m.units.tx(r))
		case sortDrops:
			return float64(m.zeroed(p).drops)
		case sortSeen:
			if p.LastSeen == nil {
				return math.Inf(1)
			}
			return -float64(p.LastSeen.UnixMilli())
		}
		return 0
	}
	if m.sort == sortName {
		return strings.Compare(a.Name, b.Name)
	}
	return cmp.Compare(figure(b), figure(a))
}

func orLess(v float64) float64 {
	if math.IsNaN(v) {
		return -1
	}
	return v
}

// rateOf returns a peer's rate as far as it is true now.
func (m *Model) rateOf(peer string) rate {
	if r, ok := m.data.rates[peer]; ok && m.live() {
		return r
	}
	return noRate
}

// zeroed returns a peer's counters since the view was zeroed.
func (m *Model) zeroed(p control.Peer) counters {
	c := sumOfPeer(&p)
	if m.base == nil {
		return c
	}
	for i := range m.base.Peers {
		if b := sumOfPeer(&m.base.Peers[i]); m.base.Peers[i].Name == p.Name {
			return c.less(b)
		}
	}
	return c
}

func (c counters) less(b counters) counters {
	diff := func(now, was uint64) uint64 { return now - min(now, was) }
	return counters{diff(c.rxBytes, b.rxBytes), diff(c.txBytes, b.txBytes), diff(c.rxPackets, b.rxPackets), diff(c.txPackets, b.txPackets), diff(c.drops, b.drops)}
}

// columnsFor returns the columns of a table that is w cells wide on a screen of
// some width. Two cells are for the cursor and one is between columns.
func (m *Model) columnsFor(screen, w int) []column {
	var used []column
	left := w - 2
	for _, c := range columns {
		if c.from > screen || m.compact && !slices.Contains(compactColumns, c.title) {
			continue
		}
		if c.title == "RX" || c.title == "TX" {
			c.title += " " + m.units.String()
		}
		used = append(used, c)
		left -= c.width + 1
	}
	used[0].width = max(4, left+1)
	return used
}

// table draws the peers that fit h lines, with a line of titles.
func (m *Model) table(screen, w, h int) []cell.Line {
	used := m.columnsFor(screen, w)
	head := cell.Line{}.Add(cell.Dim, "  ")
	for i, c := range used {
		title := c.title
		if c.sort == m.sort {
			title += map[bool]string{false: "▼", true: "▲"}[m.reverse]
		}
		head = head.Join(fitCell(c, title, cell.Dim, i))
	}
	lines := []cell.Line{head}
	rows := m.shown
	for i := range rows[m.top:min(m.top+max(h-1, 0), len(rows))] {
		p := rows[m.top+i]
		mark := "  "
		if p.Name == m.cursor {
			mark = "> "
		}
		row := cell.Text(mark)
		for j, c := range used {
			text, role := c.cell(m, p, c.width)
			row = row.Join(fitCell(c, text, role, j))
		}
		switch {
		case p.Name == m.cursor:
			row = row.Fit(w).As(cell.Selected)
		case !m.live():
			row = row.As(cell.Dim)
		}
		lines = append(lines, row)
	}
	if len(rows) == 0 && m.data.status != nil {
		lines = append(lines, cell.Styled(cell.Dim, "  "+m.nobody()))
	}
	return lines
}

// nobody says why there are no rows.
func (m *Model) nobody() string {
	if len(m.data.status.Peers) == 0 {
		return "no peers: the file lists no other node"
	}
	return fmt.Sprintf("no peer matches %q: esc clears the filter", m.filter.text)
}

// settle prepares the rows, and makes that of the cursor show.
func (m *Model) settle() {
	n := m.tableRoom()
	rows := m.rows()
	m.shown = rows
	at := max(0, slices.IndexFunc(rows, func(p control.Peer) bool { return p.Name == m.cursor }))
	m.top = max(0, min(m.top, len(rows)-n))
	m.top = min(max(m.top, at-n+1), at)
}

// peersBody is the screen of all peers.
func (m *Model) peersBody(w, h int) []cell.Line {
	room := m.tableRoom()
	lines := []cell.Line{m.tableNote(len(m.shown), room).Fit(w)}
	lines = append(lines, cell.Fill(m.table(w, w, room+1), w, room+1)...)
	if h-2-room >= aboutLines {
		lines = append(lines, cell.Rule(w))
		lines = append(lines, m.about(w)...)
	}
	return lines
}

// tableNote is the line above the table.
func (m *Model) tableNote(rows, room int) cell.Line {
	all := 0
	if m.data.status != nil {
		all = len(m.data.status.Peers)
	}
	direction := ""
	if m.reverse {
		direction = " reversed"
	}
	note := fmt.Sprintf(" %s · sort %s%s · filter: %s", count(all, "peer"), m.sort, direction, m.filter)
	if m.base != nil {
		note += " · counters since " + clock(m.base.Now)
	}
	return cell.Styled(cell.Dim, note+fmt.Sprintf(" · rows %d-%d/%d", min(m.top+1, rows), min(m.top+room, rows), rows))
}

// aboutLines is how many lines there are about the selected peer, with the rule.
const aboutLines = 3

// about is what the table has no room for, of the selected peer.
func (m *Model) about(w int) []cell.Line {
	p, ok := m.selected()
	if !ok {
		return cell.Fill(nil, w, 2)
	}
	first := cell.Styled(cell.Strong, " "+p.Name).Add(cell.Plain, "  "+p.Address)
	if p.Version != "" {
		first = first.Add(cell.Dim, "  meshd "+p.Version)
	}
	first = first.Join(fileLine(p, "  "))
	second := cell.Styled(cell.Dim, " subnets ").Add(cell.Plain, strings.Join(slices.Concat(p.Subnets, p.Routes), " "))
	drops := p.Drops
	if m.base != nil {
		drops = lessDrops(drops, dropsOf(m.base, p.Name))
	}
	if words := dropWords(drops); words != "" {
		second = second.Add(cell.Dim, "   drops: ").Add(cell.Warn, words)
	}
	return []cell.Line{first, second}
}

// fileLine tells whether a peer runs the same file.
func fileLine(p control.Peer, before string) cell.Line {
	switch {
	case p.ConfigMatch == nil:
		return cell.Styled(cell.Dim, before+"file unknown")
	case *p.ConfigMatch:
		return cell.Styled(cell.Dim, before+"same file")
	}
	return cell.Styled(cell.Warn, fmt.Sprintf("%sanother file %.8s", before, p.ConfigSHA256))
}

// dropWords lists counters by reason, the largest first.
func dropWords(drops map[string]uint64) string {
	var words []string
	for _, reason := range reasons(drops) {
		if n := drops[reason]; n > 0 {
			words = append(words, fmt.Sprintf("%s %s", reason, short(n)))
		}
	}
	return strings.Join(words, "  ")
}

func reasons(drops map[string]uint64) []string {
	var all []string
	for reason := range drops {
		all = append(all, reason)
	}
	slices.SortFunc(all, func(a, b string) int { return cmp.Or(cmp.Compare(drops[b], drops[a]), strings.Compare(a, b)) })
	return all
}

// selected returns the peer under the cursor.
func (m *Model) selected() (control.Peer, bool) {
	if m.data.status != nil {
		for _, p := range m.data.status.Peers {
			if p.Name == m.cursor {
				return p, true
			}
		}
	}
	return control.Peer{}, false
}
