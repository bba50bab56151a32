package tui

import (
	"fmt"
	"slices"
	"strings"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/tui/cell"
)

// column is one of the table of peers.
type column struct {
	title string
	sort  sortKey // sortKeys: none
	width int     // cells; 0: what is left
	from  int     // the narrowest screen that has it
	left  bool    // its texts begin at the left
	cell  func(m *Model, p control.Peer, w int) (string, cell.Role)
}

// columns of the table, and from which width of the screen on each is there.
var columns = []column{
	{"PEER", sortName, 0, 0, true, func(_ *Model, p control.Peer, w int) (string, cell.Role) {
		return cell.FitMiddle(p.Name, w), cell.Plain
	}},
	{"ENDPOINT", sortKeys, 21, 100, true, func(_ *Model, p control.Peer, w int) (string, cell.Role) {
		return cell.FitMiddle(p.Address, w), cell.Dim
	}},
	{"SUBNETS", sortKeys, 16, 120, true, func(_ *Model, p control.Peer, w int) (string, cell.Role) {
		return prefixes(slices.Concat(p.Subnets, p.Routes), w), cell.Dim
	}},
	{"STATE", sortState, 9, 0, true, func(_ *Model, p control.Peer, _ int) (string, cell.Role) {
		glyph, word, role := stateWord(p.State)
		return glyph + " " + word, role
	}},
	{"RTTms", sortRTT, 6, 0, false, func(_ *Model, p control.Peer, _ int) (string, cell.Role) {
		if p.State == control.Down { // what it was is not what it is
			return unknown, cell.Dim
		}
		return millis(p.RTTMS), cell.Plain
	}},
	{"LOSS", sortLoss, 5, 64, false, func(_ *Model, p control.Peer, _ int) (string, cell.Role) {
		return percent(p.Loss), lossRole(p.Loss)
	}},
	{"RX", sortRx, 7, 48, false, func(m *Model, p control.Peer, _ int) (string, cell.Role) {
		return si(m.units.rx(m.rateOf(p.Name))), cell.Plain
	}},
	{"TX", sortTx, 7, 48, false, func(m *Model, p control.Peer, _ int) (string, cell.Role) {
		return si(m.units.tx(m.rateOf(p.Name))), cell.Plain
	}},
	{"RX p/s", sortKeys, 7, 80, false, func(m *Model, p control.Peer, _ int) (string, cell.Role) {
		return si(m.rateOf(p.Name).rxPackets), cell.Plain
	}},
	{"TX p/s", sortKeys, 7, 80, false, func(m *Model, p control.Peer, _ int) (string, cell.Role) {
		return si(m.rateOf(p.Name).txPackets), cell.Plain
	}},
	{"DROPS", sortDrops, 6, 64, false, func(m *Model, p control.Peer, _ int) (string, cell.Role) {
		n := m.zeroed(p).drops
		if n > 0 {
			return short(n), cell.Warn
		}
		return "0", cell.Dim
	}},
	{"SEEN", sortSeen, 5, 64, false, func(m *Model, p control.Peer, _ int) (string, cell.Role) {
		if p.LastSeen == nil {
			return "never", cell.Dim
		}
		return age(m.daemonNow().Sub(*p.LastSeen)), cell.Plain
	}},
	{"RX 60s", sortKeys, 12, 140, true, func(m *Model, p control.Peer, w int) (string, cell.Role) {
		t := m.data.tracks[p.Name]
		if t == nil {
			return "", cell.Accent
		}
		return cell.Spark(t.values(&t.rx), t.last, w, 0), cell.Accent
	}},
}

// compactColumns are those that `o` leaves.
var compactColumns = []string{"PEER", "STATE", "RTTms", "RX", "TX"}

func lossRole(loss *float64) cell.Role {
	switch {
	case loss == nil || *loss == 0:
		return cell.Plain
	case *loss < 0.2:
		return cell.Warn
	}
	return cell.Bad
}

// short writes a counter in six cells.
func short(n uint64) string {
	if n < 100000 {
		return fmt.Sprint(n)
	}
	return si(float64(n))
}

// prefixes writes the first of some prefixes, and how many more there are.
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
