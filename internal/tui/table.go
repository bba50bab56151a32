package tui

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/tui/cell"
)

// table is the table of peers as it stands on the screen. Both screens that have one show
// the same rows, and a change from one to the other leaves the cursor where it was.
type table struct {
	rows  []control.Peer // sorted and filtered
	asOf  rowsKey        // what the rows were made of
	top   int            // index of the first row on the screen
	first int            // line of the body that it stands on; 0: there is no table
	room  int            // how many rows the screen has lines for
	page  int            // how far two keys for half a page go
}

// rowsKey is what rows depend on. To sort thousands of peers is a part of what the program costs, and most
// messages change nothing of it.
type rowsKey struct {
	status, base *control.Status
	sort         sortKey
	reverse      bool
	filter       string
	units        units
	live         bool
}

// arrange brings the rows up to date.
func (t *table) arrange(v view) {
	key := rowsKey{v.status, v.base, v.sort, v.reverse, v.filter.text, v.units, v.live}
	if key != t.asOf || key.status == nil {
		t.rows, t.asOf = v.sorted(), key
	}
}

// reach scrolls as little as has to be for the row of a peer to be on the screen. Rows that
// moved less are easier to find again, and cost less over a slow line.
func (t *table) reach(cursor string) {
	at := max(0, slices.IndexFunc(t.rows, func(p control.Peer) bool { return p.Name == cursor }))
	t.top = max(0, min(t.top, len(t.rows)-t.room))
	t.top = min(max(t.top, at-t.room+1), at)
}

// row is the index of the cursor's row; -1 if it has none.
func (v view) row() int {
	return slices.IndexFunc(v.rows, func(p control.Peer) bool { return p.Name == v.cursor })
}

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
	sortTraffic
	sortKeys // how many there are; a column that cannot be sorted by has this one
)

// String is the order as it stands above the table.
func (k sortKey) String() string {
	return [...]string{"state", "name", "rtt", "loss", "rx", "tx", "drops", "seen", "traffic"}[k]
}

// sorted returns the peers that the filter keeps, in the order that is chosen. The filter
// looks at names, states, addresses and prefixes: "which peer has 10.7.1.4" is a question.
func (v view) sorted() []control.Peer {
	if v.status == nil {
		return nil
	}
	rows := words.ByState(v.status.Peers) // which also orders peers that are equal
	if len(v.filter.terms) > 0 {
		rows = slices.DeleteFunc(rows, func(p control.Peer) bool { return !v.filter.keepsPeer(v, p) })
	}
	if v.sort != sortState {
		slices.SortStableFunc(rows, v.compare)
	}
	if v.reverse {
		slices.Reverse(rows)
	}
	return rows
}

// findable are the texts by which a peer is found.
func findable(p control.Peer) []string {
	texts := slices.Concat([]string{p.Name, p.State, p.Address}, p.Subnets, p.Routes)
	for _, a := range p.Addresses {
		texts = append(texts, a.Address, a.Name)
	}
	return texts
}

// compare orders rows with the largest figure first; what is not known is last.
func (v view) compare(a, b control.Peer) int {
	if v.sort == sortName {
		return words.Natural(a.Name, b.Name)
	}
	return cmp.Compare(v.figure(b), v.figure(a))
}

// figure is what a peer is ordered by, -1 if it is not known. All figures are such that the
// largest is the most interesting.
func (v view) figure(p control.Peer) float64 {
	r, figure := v.rate(p.Name), -1.0
	set := func(known *float64) {
		if known != nil && !math.IsNaN(*known) {
			figure = *known
		}
	}
	switch v.sort {
	case sortRTT:
		set(p.RTTMS)
	case sortLoss:
		set(p.Loss)
	case sortRx:
		set(new(v.units.rx(r)))
	case sortTx:
		set(new(v.units.tx(r)))
	case sortTraffic:
		set(new(r.rxBytes + r.txBytes))
	case sortDrops:
		set(new(float64(v.counted(p).drops)))
	case sortSeen: // the longest ago first, and never is longer than that
		figure = math.Inf(1)
		if p.LastSeen != nil {
			figure = -float64(p.LastSeen.UnixMilli())
		}
	}
	return figure
}

// tableLines draws the peers that fit h lines of w cells, with a line of titles.
func tableLines(v view, w, h int) []cell.Line {
	used := columnsFor(v, w)
	head := cell.Line{}.Add(cell.Dim, "  ")
	for i, c := range used {
		title := c.title
		if c.sort == v.sort {
			title += map[bool]string{false: "▼", true: "▲"}[v.reverse]
		}
		head = head.Join(fitCell(c, title, cell.Dim, i))
	}
	lines := []cell.Line{head}
	for _, p := range v.rows[v.top:min(v.top+max(h-1, 0), len(v.rows))] {
		lines = append(lines, rowLine(v, used, p, w))
	}
	if len(v.rows) == 0 {
		lines = append(lines, cell.Styled(cell.Dim, "  "+noRows(v)))
	}
	return lines
}

// rowLine is one peer, in columns that are cut or filled to their widths. The cursor is a
// glyph and not only a colour.
func rowLine(v view, used []column, p control.Peer, w int) cell.Line {
	mark := "  "
	if p.Name == v.cursor {
		mark = "> "
	}
	row, state := cell.Text(mark), cell.Plain
	for i, c := range used {
		text, role := c.cell(v, p, c.width)
		if c.title == stateColumn {
			state = role
		}
		row = row.Join(fitCell(c, text, role, i))
	}
	switch {
	case p.Name == v.cursor:
		return selected(row.Fit(w), state)
	case !v.live:
		return row.As(cell.Dim)
	}
	return row
}

// selected is the row of the cursor: reversed, but for the state, whose colour is what one looks for.
func selected(row cell.Line, state cell.Role) cell.Line {
	line := make(cell.Line, len(row))
	for i, s := range row {
		if line[i] = s; s.Role != state || state == cell.Plain {
			line[i].Role = cell.Selected
		}
	}
	return line
}

// allLine is the sum of all peers, in the columns of a table of w cells.
func allLine(v view, w int) cell.Line {
	line := cell.Text("  ")
	for i, c := range columnsFor(v, w) {
		text := ""
		if c.all != nil {
			text = c.all(v)
		}
		line = line.Join(fitCell(c, text, cell.Strong, i))
	}
	return line.Fit(w)
}

// noRows says why there are no rows: an empty table looks like a mesh without peers.
func noRows(v view) string {
	if len(v.status.Peers) == 0 {
		return "no peers: the file lists no other node"
	}
	return fmt.Sprintf("no peer matches %q: esc clears the filter", v.filter.text)
}

// shownRows says which rows are on the screen, of how many: "1-14/19".
func shownRows(v view) string {
	n := len(v.rows)
	return fmt.Sprintf("%d-%d/%d", min(v.top+1, n), min(v.top+v.room, n), n)
}
