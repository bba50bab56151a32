package tui

import (
	"fmt"
	"slices"
	"strings"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/tui/cell"
)

// column is one of the table of peers. A new one needs an entry in columns and nothing
// else: its width and the screen from which on it shows are part of it.
type column struct {
	title string
	sort  sortKey // sortKeys: none
	width int     // cells; 0: what is left
	from  int     // the narrowest screen that has it
	left  bool    // its texts begin at the left
	cell  func(v view, p control.Peer, w int) (string, cell.Role)
}

// stateWidth is the width of a state with its glyph, in cells.
const stateWidth = 10

// columns of the table, and from which width of the screen on each is there. The state is a
// glyph and a word, since colours are not for everybody; figures that are not known are "-",
// never 0. An 80x24 terminal has room for what decides whether a peer is well.
var columns = []column{
	{"PEER", sortName, 0, 0, true, func(_ view, p control.Peer, w int) (string, cell.Role) {
		return cell.FitMiddle(p.Name, w), cell.Plain
	}},
	{"ENDPOINT", sortKeys, 21, 100, true, func(_ view, p control.Peer, w int) (string, cell.Role) {
		if words.Diverted(p) {
			return cell.FitMiddle(p.Active(), w), cell.Warn
		}
		return cell.FitMiddle(p.Address, w), cell.Dim
	}},
	{"SUBNETS", sortKeys, 15, 120, true, func(_ view, p control.Peer, w int) (string, cell.Role) {
		return prefixes(slices.Concat(p.Subnets, p.Routes), w), cell.Dim
	}},
	{"STATE", sortState, stateWidth, 0, true, func(_ view, p control.Peer, _ int) (string, cell.Role) {
		glyph, word, role := stateOf(p)
		return glyph + " " + word, role
	}},
	{lockColumn, sortKeys, 13, 80, true, lockCell},
	{"RTTms", sortRTT, 6, 0, false, func(_ view, p control.Peer, _ int) (string, cell.Role) {
		if p.State == control.Down { // what it was is not what it is
			return words.Unknown, cell.Dim
		}
		return words.Millis(p.RTTMS), cell.Plain
	}},
	{"LOSS", sortLoss, 5, 64, false, func(_ view, p control.Peer, _ int) (string, cell.Role) {
		return words.Percent(p.Loss), lossRole(p.Loss)
	}},
	{"RX", sortRx, 7, 48, false, func(v view, p control.Peer, _ int) (string, cell.Role) {
		return words.SI(v.units.rx(v.rate(p.Name))), cell.Plain
	}},
	{"TX", sortTx, 7, 48, false, func(v view, p control.Peer, _ int) (string, cell.Role) {
		return words.SI(v.units.tx(v.rate(p.Name))), cell.Plain
	}},
	{"RX p/s", sortKeys, 7, 80, false, func(v view, p control.Peer, _ int) (string, cell.Role) {
		return words.SI(v.rate(p.Name).rxPackets), cell.Plain
	}},
	{"TX p/s", sortKeys, 7, 80, false, func(v view, p control.Peer, _ int) (string, cell.Role) {
		return words.SI(v.rate(p.Name).txPackets), cell.Plain
	}},
	{"DROPS", sortDrops, 6, 64, false, func(v view, p control.Peer, _ int) (string, cell.Role) {
		n := v.counted(p).drops
		if n > 0 {
			return words.Short(n), cell.Warn
		}
		return "0", cell.Dim
	}},
	{"SEEN", sortSeen, 5, 64, false, func(v view, p control.Peer, _ int) (string, cell.Role) {
		if p.LastSeen == nil {
			return "never", cell.Dim
		}
		return words.Age(v.daemonNow().Sub(*p.LastSeen)), cell.Plain
	}},
	{"RX 60s", sortKeys, 12, 140, true, func(v view, p control.Peer, w int) (string, cell.Role) {
		t := v.tracks[p.Name]
		if t == nil {
			return "", cell.Accent
		}
		return cell.Spark(t.values(&t.rx), t.last, w, 0), cell.Accent
	}},
}

// compactColumns are those that the key `o` leaves: more room for long names.
var compactColumns = []string{"PEER", "STATE", "RTTms", "RX", "TX"}

// countingColumns are of no use while packets are encrypted, since nothing counts them; lockColumn takes
// their place then.
var countingColumns = []string{"RX p/s", "TX p/s"}

const lockColumn = "LOCK"

// suits tells whether a column has something to say of a mesh that is encrypted, or is not.
func (c column) suits(v view) bool {
	if v.data != nil && v.status != nil && v.status.WireGuard != nil {
		return !slices.Contains(countingColumns, c.title)
	}
	return c.title != lockColumn
}

// columnsFor returns the columns of a table of w cells on the screen of a view. Two cells
// are for the cursor and one is between columns; the names have what is left.
func columnsFor(v view, w int) []column {
	var used []column
	left := w - 2
	for _, c := range columns {
		if c.from > v.w || v.compact && !slices.Contains(compactColumns, c.title) || !c.suits(v) {
			continue
		}
		if c.title == "RX" || c.title == "TX" {
			c.title += " " + v.units.String()
		}
		used = append(used, c)
		left -= c.width + 1
	}
	used[0].width = max(4, left+1) // no space stands before the first one
	return used
}

// units says what rates count.
type units int

const (
	inBits units = iota
	inBytes
	inPackets
	unitsEnd // how many there are
)

// String is the unit as it stands in the head of a column.
func (u units) String() string { return [...]string{"b/s", "B/s", "p/s"}[u] }

// rx returns the rate of what is received in the unit.
func (u units) rx(r rate) float64 { return [...]float64{8 * r.rxBytes, r.rxBytes, r.rxPackets}[u] }

// tx returns the rate of what is sent in the unit.
func (u units) tx(r rate) float64 { return [...]float64{8 * r.txBytes, r.txBytes, r.txPackets}[u] }

// lossRole colours a loss: a fifth of the packets is what TCP hardly lives with.
func lossRole(loss *float64) cell.Role {
	switch {
	case loss == nil || *loss == 0:
		return cell.Plain
	case *loss < 0.2:
		return cell.Warn
	}
	return cell.Bad
}

// prefixes writes the first of some prefixes, and how many more there are: "10.5.0.0/16 +2".
func prefixes(all []string, w int) string {
	if len(all) == 0 {
		return ""
	}
	if len(all) == 1 {
		return cell.FitMiddle(all[0], w)
	}
	more := fmt.Sprintf(" +%d", len(all)-1)
	return strings.TrimRight(cell.FitMiddle(all[0], max(1, w-len(more))), " ") + more
}

// fitCell fits a text into a column, which is the i-th of its line. Figures end at the
// right, so that digits of one weight stand below each other.
func fitCell(c column, text string, role cell.Role, i int) cell.Line {
	if c.left {
		text = cell.Fit(text, c.width)
	} else {
		text = cell.FitRight(text, c.width)
	}
	if i > 0 {
		text = " " + text
	}
	return cell.Styled(role, text)
}
