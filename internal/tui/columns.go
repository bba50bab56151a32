package tui

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/tui/cell"
)

// column is one of the table of peers. A new one needs an entry in columns and nothing
// else: its width and what it is worth are part of it.
type column struct {
	title string
	sort  sortKey // sortKeys: none
	width int     // cells; of the names, what they need
	worth int     // what is worth least leaves a narrow table first; columns of equal worth leave together
	left  bool    // its texts begin at the left
	cell  func(v view, p control.Peer, w int) (string, cell.Role)
	all   func(v view) string // of all peers together; nil: nothing
}

// stateWidth is the width of a state with its glyph, in cells.
const stateWidth = 10

// Worth of columns that do not leave, and of the one that the rows are ordered by.
const (
	never = math.MaxInt
	asked = 95
)

// columns of the table. The state is a glyph and a word, since colours are not for everybody; figures that
// are not known are "-", never 0.
var columns = []column{
	{"PEER", sortName, 0, never, true, func(v view, p control.Peer, w int) (string, cell.Role) {
		return cell.FitMiddle(v.names.short(p.Name), w), cell.Plain
	}, func(v view) string { return fmt.Sprintf("all %d", len(v.status.Peers)) }},
	{"ENDPOINT", sortKeys, 21, 50, true, func(_ view, p control.Peer, w int) (string, cell.Role) {
		if words.Diverted(p) {
			return cell.FitMiddle(p.Active(), w), cell.Warn
		}
		return cell.FitMiddle(p.Address, w), cell.Dim
	}, nil},
	{"SUBNETS", sortKeys, 15, 40, true, func(_ view, p control.Peer, w int) (string, cell.Role) {
		return prefixes(slices.Concat(p.Subnets, p.Routes), w), cell.Dim
	}, nil},
	{stateColumn, sortState, stateWidth, never, true, func(_ view, p control.Peer, _ int) (string, cell.Role) {
		glyph, word, role := stateOf(p)
		return glyph + " " + word, role
	}, nil},
	{lockColumn, sortKeys, 13, 85, true, lockCell, nil},
	{"RTTms", sortRTT, 6, never, false, func(_ view, p control.Peer, _ int) (string, cell.Role) {
		return measured(words.Millis(rttOf(p)), cell.Plain)
	}, nil},
	{"LOSS", sortLoss, 5, 90, false, func(_ view, p control.Peer, _ int) (string, cell.Role) {
		return measured(words.Percent(lossOf(p)), lossRole(lossOf(p)))
	}, nil},
	{"RX", sortRx, 7, 80, false, func(v view, p control.Peer, _ int) (string, cell.Role) {
		return words.SI(v.units.rx(v.rate(p.Name))), cell.Plain
	}, func(v view) string { return words.SI(v.units.rx(v.rate(""))) }},
	{"TX", sortTx, 7, 80, false, func(v view, p control.Peer, _ int) (string, cell.Role) {
		return words.SI(v.units.tx(v.rate(p.Name))), cell.Plain
	}, func(v view) string { return words.SI(v.units.tx(v.rate(""))) }},
	{"RX p/s", sortKeys, 7, 30, false, func(v view, p control.Peer, _ int) (string, cell.Role) {
		return words.SI(v.rate(p.Name).rxPackets), cell.Plain
	}, func(v view) string { return words.SI(v.rate("").rxPackets) }},
	{"TX p/s", sortKeys, 7, 30, false, func(v view, p control.Peer, _ int) (string, cell.Role) {
		return words.SI(v.rate(p.Name).txPackets), cell.Plain
	}, func(v view) string { return words.SI(v.rate("").txPackets) }},
	{"SHARE", sortTraffic, 10, 15, true, func(v view, p control.Peer, _ int) (string, cell.Role) {
		return shareText(v.share(p.Name)), cell.Chart
	}, nil},
	{"DROPS", sortDrops, 6, 60, false, func(v view, p control.Peer, _ int) (string, cell.Role) {
		switch n := v.counted(p).drops; {
		case n == 0:
			return "0", cell.Dim
		case v.grows(p):
			return words.Short(n), cell.Warn
		default:
			return words.Short(n), cell.Plain
		}
	}, func(v view) string { return words.Short(sum(v.totalDrops())) }},
	{"SEEN", sortSeen, 5, 70, false, func(v view, p control.Peer, _ int) (string, cell.Role) {
		if p.LastSeen == nil {
			return "never", cell.Dim
		}
		return words.Age(v.daemonNow().Sub(*p.LastSeen)), cell.Plain
	}, nil},
	{sparkColumn, sortKeys, 12, 20, true, func(v view, p control.Peer, w int) (string, cell.Role) {
		t := v.tracks[p.Name]
		if t == nil {
			return "", cell.Chart
		}
		return cell.Spark(t.values(&t.rx), t.last, w, 0), cell.Chart
	}, nil},
}

// Columns with a meaning of their own.
const (
	stateColumn = "STATE"
	lockColumn  = "LOCK"
	sparkColumn = "RX 60s"
)

// compactColumns are those that the key `o` leaves.
var compactColumns = []string{"PEER", stateColumn, "RTTms", "RX", "TX"}

// countingColumns are of no use while packets are encrypted, since nothing counts them, nor while the rates
// beside them are of packets.
var countingColumns = []string{"RX p/s", "TX p/s"}

// suits tells whether a column has something to say of a mesh that is encrypted, or is not.
func (c column) suits(v view) bool {
	encrypted := v.data != nil && v.status != nil && v.status.WireGuard != nil
	switch {
	case v.compact && !slices.Contains(compactColumns, c.title):
		return false
	case slices.Contains(countingColumns, c.title):
		return !encrypted && v.units != inPackets
	}
	return encrypted || c.title != lockColumn
}

// leastName is how narrow names become where nothing else can leave.
const leastName = 8

// columnsFor returns the columns of a table of w cells. Two cells are for the cursor and one is between
// columns. Names come first: two rows that look the same are worth less than any figure. Then columns come in
// by what they are worth, as long as they fit.
func columnsFor(v view, w int) []column {
	fits, left := map[string]bool{}, w-2+1 // no space stands before the first one
	name := v.names.width()
	for _, group := range byWorth(v) {
		need := 0
		for _, c := range group {
			need += c.width + 1
		}
		if group[0].worth == never {
			name = min(name, max(leastName, left-need))
			need += name
		}
		if need > left {
			continue
		}
		left -= need
		for _, c := range group {
			fits[c.title] = true
		}
	}
	var used []column
	for _, c := range columns {
		if !fits[c.title] {
			continue
		}
		switch c.title {
		case "PEER":
			c.width = name
		case sparkColumn: // a chart gains from each cell
			c.width += left
		case "RX", "TX":
			c.title += " " + v.units.String()
		}
		used = append(used, c)
	}
	return used
}

// byWorth groups the columns of equal worth, those that are worth most first.
func byWorth(v view) (groups [][]column) {
	at := map[int]int{}
	for _, c := range columns {
		if !c.suits(v) {
			continue
		}
		if c.sort == v.sort && c.worth < asked { // what rows are ordered by has to be seen
			c.worth = asked
		}
		i, ok := at[c.worth]
		if !ok {
			i = len(groups)
			at[c.worth], groups = i, append(groups, nil)
		}
		groups[i] = append(groups[i], c)
	}
	slices.SortFunc(groups, func(a, b []column) int { return b[0].worth - a[0].worth })
	return groups
}

// share is what a peer has of all traffic, 0 to 1; NaN if that is not known.
func (v view) share(peer string) float64 {
	all, one := v.rate(""), v.rate(peer)
	if whole := all.rxBytes + all.txBytes; whole > 0 {
		return min(1, (one.rxBytes+one.txBytes)/whole)
	}
	return math.NaN()
}

// shareText writes a share as a bar and a figure: "▇▇    38%".
func shareText(share float64) string {
	if math.IsNaN(share) {
		return words.Unknown
	}
	bar := strings.Repeat("▇", int(math.Round(5*share)))
	return cell.Fit(bar, 5) + fmt.Sprintf("%4.0f%%", 100*share)
}

// rttOf and lossOf are what was measured of a peer that is heard; nil of one that is down, since what it was
// is not what it is.
func rttOf(p control.Peer) *float64 {
	if p.State == control.Down {
		return nil
	}
	return p.RTTMS
}

func lossOf(p control.Peer) *float64 {
	if p.State == control.Down {
		return nil
	}
	return p.Loss
}

// measured is a figure with its role, which is dim if it is not known.
func measured(figure string, role cell.Role) (string, cell.Role) {
	if figure == words.Unknown {
		role = cell.Dim
	}
	return figure, role
}

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

// fitCell fits a text into a column, which is the i-th of its line. Figures end at the right, so that digits
// of one weight stand below each other. The role is of the text alone: some of them have a background.
func fitCell(c column, text string, role cell.Role, i int) cell.Line {
	text = strings.TrimRight(cell.Fit(text, min(c.width, cell.Width(text))), " ")
	blank := strings.Repeat(" ", max(0, c.width-cell.Width(text)))
	line := cell.Line{}
	if i > 0 {
		line = cell.Text(" ")
	}
	if c.left {
		return line.Add(role, text).Add(cell.Plain, blank)
	}
	return line.Add(cell.Plain, blank).Add(role, text)
}
