package tui

import (
	"fmt"
	"slices"
	"strings"

	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/tui/cell"
	"example.org/meshd/internal/typed"
)

// Sizes at which the picture becomes another one.
const (
	leastWidth, leastHeight = 40, 8 // below them there is one line
	rulesHeight             = 14    // below it there are no rules
)

// chrome is how many lines stand around a body: header, tabs, footer, and two rules, which
// are what a low terminal gives up first.
func chrome(h int) int {
	if h < rulesHeight {
		return 3
	}
	return 5
}

// above is how many of them stand above it.
func above(h int) int { return (chrome(h) + 1) / 2 }

// frame is the whole picture: exactly h lines of w cells.
//
//	meshtui · edge-01 · gen 12 ok · user+gso   ● live 1s · 14:07:33 UTC   header
//	[1 Overview]  2 Peers 17/19   3 Events 2!   4 Node          ■ FAILED   tabs
//	─────────────────────────────────────────────────────────────────────
//	                                                                       body
//	─────────────────────────────────────────────────────────────────────
//	tab next  enter worst peer  / filter  ...            ? help  q quit    footer
//
// Everything but the body is the same on all screens. Exact sizes matter: Bubble Tea draws
// only lines that have changed, and one that is too long would move all below it.
func (m *Model) frame(w, h int) []cell.Line {
	if w <= 0 || h <= 0 {
		return nil
	}
	if w < leastWidth || h < leastHeight {
		return cell.Fill([]cell.Line{m.oneLine()}, w, h)
	}
	v := m.view()
	lines := []cell.Line{m.header(w), m.tabLine(w)}
	if h >= rulesHeight {
		lines = append(lines, cell.Rule(w))
	}
	body := cell.Fill(m.screen().body(v), w, v.h)
	if q := m.bottom.question; q != nil && q.box != nil {
		body = cell.Over(body, q.box(v))
	}
	lines = append(lines, body...)
	if h >= rulesHeight {
		lines = append(lines, cell.Rule(w))
	}
	return cell.Fill(append(lines, m.footer(w)), w, h)
}

// oneLine is what a terminal shows that is too small for more: how many peers are up, and
// whether that is true.
func (m *Model) oneLine() cell.Line {
	s := m.data.status
	switch {
	case m.bottom.question != nil:
		return cell.Styled(cell.Strong, m.bottom.question.brief)
	case s == nil && m.link.lost == nil:
		return cell.Text("connecting")
	case s == nil:
		return cell.Styled(cell.Bad, "meshd is not answering")
	}
	n := countStates(s.Peers)
	line := cell.Line{} // the worst first: what does not fit is cut
	for _, bad := range slices.Backward(n.troubled()) {
		line = line.Add(bad.role, fmt.Sprintf("%d %s", bad.n, bad.word)).Add(cell.Plain, " ")
	}
	line = line.Add(cell.Good, fmt.Sprintf("%d up", n.up))
	if away := n.draining + n.maintained; away > 0 {
		line = line.Add(cell.Accent, fmt.Sprintf(" %d drain", away))
	}
	switch {
	case !m.live():
		return cell.Styled(cell.Bad, "OLD "+words.Age(m.view().sinceHeard())+" ").Join(line.As(cell.Dim))
	case m.choices.paused:
		return cell.Styled(cell.Warn, "PAUSED ").Join(line)
	}
	return line.Join(m.generation(" "))
}

// generation tells which file is in force, and whether it is the one on disk.
func (m *Model) generation(before string) cell.Line {
	s := m.data.status
	if s.Node == "" {
		return cell.Styled(cell.Warn, before+"starting")
	}
	line := cell.Styled(cell.Plain, fmt.Sprintf("%sgen %d ", before, s.Config.Generation))
	if s.Config.Error != "" {
		return line.Add(cell.Bad, "FILE REJECTED")
	}
	return line.Add(cell.Plain, "ok")
}

// header is the first line: where we are, and how true it is. How true it is always shows;
// where we are gives way on a narrow terminal.
func (m *Model) header(w int) cell.Line {
	right := m.truth()
	if w >= 60 {
		right = right.Add(cell.Plain, " · "+words.Clock(m.now)+" UTC")
	}
	return m.place(w).Spread(right.Add(cell.Plain, " "), w)
}

// place is which node this is, and which file and engine it runs. Of data that is old its age
// stands there instead of the engine.
func (m *Model) place(w int) cell.Line {
	program := cell.Styled(cell.Strong, " meshtui")
	s := m.data.status
	if s == nil {
		return program
	}
	name := s.Node
	if name == "" {
		name = "(no node yet)"
	}
	rest := 56 // cells of what stands beside the name
	line := program.Add(cell.Plain, " · ")
	if w < 60 { // who has so little room knows which program runs
		rest, line = 24, cell.Text(" ")
	}
	room := max(12, w-rest)
	if cell.Width(name) > room { // its own part is worth more than the domain
		name = strings.TrimRight(cell.FitMiddle(m.data.names.short(name), room), " ")
	}
	line = line.Add(cell.Plain, name)
	switch {
	case !m.live():
		old := " · DATA " + words.Span(m.view().sinceHeard()) + " OLD"
		return line.Add(cell.Plain, fmt.Sprintf(" · gen %d", s.Config.Generation)).Add(cell.Bad, old)
	case s.Node == "":
		return line.Join(m.generation(" · "))
	}
	line = line.Join(m.generation(" · "))
	if s.Drain != nil { // which matters more than the engine
		return line.Add(cell.Accent, " · MAINTENANCE")
	}
	return line.Add(cell.Dim, " · "+engineWord(s.Dataplane))
}

// truth says whether what is shown is true now, in a word and a glyph. A connection that
// says nothing looks like a quiet mesh, and would be believed, so it has a word of its own.
func (m *Model) truth() cell.Line {
	switch {
	case m.live() && m.choices.paused:
		return cell.Styled(cell.Warn, "◐ paused "+words.Span(m.view().sinceHeard()))
	case m.live():
		return cell.Styled(cell.Good, "● live "+typed.Brief(m.options.Interval))
	case m.link.lost != nil:
		return cell.Styled(cell.Bad, "■ disconnected")
	case m.data.status == nil:
		return cell.Styled(cell.Dim, "◐ connecting")
	}
	return cell.Styled(cell.Bad, "■ silent")
}

// tabLine is the second line: the tabs, with what is new behind them, and how the mesh is, so that it shows
// on each screen. A page belongs to the tab below it.
func (m *Model) tabLine(w int) cell.Line {
	line := cell.Line{}
	for t, name := range tabNames {
		title := fmt.Sprint(t + 1)
		if w >= 56 || tab(t) == m.tab { // narrower ones have a name for where one is
			title += " " + name
		}
		if w >= 64 {
			title += m.tabNews(tab(t))
		}
		if tab(t) == m.tab {
			line = line.Add(cell.Strong, "["+title+"]")
		} else {
			line = line.Add(cell.Dim, " "+title+" ")
		}
		line = line.Add(cell.Plain, " ")
	}
	if m.data.status == nil {
		return line.Fit(w)
	}
	badge := m.view().judged().badge().Add(cell.Plain, " ")
	if line.Width()+badge.Width() > w {
		return line.Fit(w)
	}
	return line.Spread(badge, w)
}

// tabNews is what stands behind the name of a tab.
func (m *Model) tabNews(t tab) string {
	switch s := m.data.status; {
	case t == peersTab && s != nil:
		n := countStates(s.Peers)
		return fmt.Sprintf(" %d/%d", n.up+n.draining, len(s.Peers))
	case t == eventsTab:
		if n := m.data.unseen(); n > 0 {
			return fmt.Sprintf(" %d!", n)
		}
	}
	return ""
}
