package tui

import (
	"fmt"
	"strings"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/tui/cell"
)

// Widths of a line of what needs attention.
const (
	widestSubject = 24 // names are cut in their middle, so that texts begin below each other
	wordWidth     = 7  // cells of a word
	beforeText    = wordWidth + 2
	narrowestText = 20 // what wraps in less is hard to read
)

// band is the verdict over the whole width, and below it what it is for, in at most h lines of w cells: as
// many as there are. about are facts for the right end, the longest first: the first one that fits is there.
func band(v view, w, h int, about ...cell.Line) []cell.Line {
	head := verdict(v.status)
	if !v.live {
		head = oldVerdict(v)
	}
	for _, facts := range about {
		if head.Width()+facts.Width()+3 <= w {
			head = head.Spread(facts.Add(cell.Plain, " "), w)
			break
		}
	}
	lines := []cell.Line{head}
	if !v.live && v.lost == nil {
		lines = append(lines, cell.Styled(cell.Bad, fmt.Sprintf(
			" meshd (pid %d) hangs or was stopped: see `systemctl status meshd`", v.status.PID)))
	}
	lines = append(lines, maintenance(v.status, w, max(1, h/6))...)
	return append(lines, attention(v.status, v.names, w, max(1, h-len(lines)))...)
}

// attention lists problems in at most h lines of w cells, the worst first:
//
//	DOWN    edge-14  last heard 2m 29s ago   198.51.100.14:8285  10.14.0.0/16
//	warn    net.ipv4.ip_forward is 0: pods cannot reach other hosts; run `sysctl -w
//	        net.ipv4.ip_forward=1`
//
// Long ones take several lines where there is room for all problems: a remedy that is cut is none, but a
// problem that is hidden is worse. Where each has no line of its own, peers with the same problem share one.
func attention(s *control.Status, n names, w, h int) []cell.Line {
	all := problems(s)
	for i := range all {
		all[i].subject = n.short(all[i].subject)
	}
	for _, wrap := range []func(problem) bool{everyProblem, ofNobody, noProblem} {
		if lines := problemLines(all, w, h, wrap); len(lines) <= h {
			return lines
		}
	}
	groups := together(all)
	var lines []cell.Line
	for i, g := range groups {
		if len(lines) == h-1 && i < len(groups)-1 {
			left := 0
			for _, hidden := range groups[i:] {
				left += len(hidden)
			}
			more := fmt.Sprintf(" … and %d more: 2 shows peers, c the file", left)
			return append(lines, cell.Styled(cell.Dim, more))
		}
		lines = append(lines, groupLine(g, w))
	}
	return lines
}

// wordOf begins the line of a problem.
func wordOf(p problem) cell.Line {
	return cell.Text(" ").Add(p.role, p.word).
		Add(cell.Plain, strings.Repeat(" ", max(1, wordWidth+1-cell.Width(p.word))))
}

// Which problems wrap where they have to; others are cut.
func everyProblem(problem) bool { return true }
func noProblem(problem) bool    { return false }

// ofNobody are those of this node: what is said of a peer is short, and most of it is on its page.
func ofNobody(p problem) bool { return p.subject == "" }

// problemLines has each problem by itself. It ends where there are more than h lines.
func problemLines(all []problem, w, h int, wraps func(problem) bool) (lines []cell.Line) {
	subject := 0
	for _, p := range all {
		subject = min(max(subject, cell.Width(p.subject)), widestSubject)
	}
	for _, p := range all {
		if len(lines) > h {
			break
		}
		text := p.text()
		texts := []string{words.OneLine(text)}
		head := wordOf(p)
		if p.subject != "" {
			head = head.Add(cell.Strong, cell.FitMiddle(p.subject, subject)+"  ")
		}
		if room := w - head.Width() - 1; wraps(p) && room >= narrowestText {
			texts = cell.Wrap(text, room)
		}
		for i, l := range texts {
			if i > 0 { // names stay apart from what is said of them
				head = cell.Text(strings.Repeat(" ", head.Width()))
			}
			lines = append(lines, head.Add(cell.Plain, l))
		}
	}
	return lines
}

// together puts problems of peers beside each other that have the same word; the order stays.
func together(all []problem) (groups [][]problem) {
	at := map[string]int{}
	for _, p := range all {
		if i, ok := at[p.word]; ok && p.subject != "" {
			groups[i] = append(groups[i], p)
			continue
		}
		if p.subject != "" {
			at[p.word] = len(groups)
		}
		groups = append(groups, []problem{p})
	}
	return groups
}

// filterFor is the filter that shows the peers with a problem.
var filterFor = map[string]string{"loss": "loss>0", "port": "!up"}

// groupLine names the peers with one problem, and counts those that have no room.
func groupLine(g []problem, w int) cell.Line {
	if len(g) == 1 {
		return problemLines(g, w, 1, noProblem)[0]
	}
	word := strings.ToLower(g[0].word)
	filter := filterFor[word]
	if filter == "" {
		filter = word
	}
	line := wordOf(g[0])
	for i, p := range g {
		more := fmt.Sprintf("… %d more  (2, then / %s)", len(g)-i, filter)
		room := w - line.Width() - cell.Width(p.subject)
		if room < 0 || i < len(g)-1 && room < cell.Width(more)+2 {
			return line.Add(cell.Dim, more)
		}
		line = line.Add(cell.Strong, p.subject+" ")
	}
	return line
}
