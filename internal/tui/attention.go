package tui

import (
	"fmt"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/tui/cell"
)

// Widths of a line of what needs attention.
const (
	widestSubject = 20 // names are cut in their middle, so that texts begin below each other
	beforeText    = 8  // cells of the word and its blanks
)

// attention lists problems in at most h lines of w cells, the worst first:
//
//	DOWN   edge-14  last heard 2m 29s ago   198.51.100.14:8285  10.14.0.0/16
//	WARN   net.ipv4.ip_forward is 0: pods cannot reach other hosts; run `sysctl -w
//	       net.ipv4.ip_forward=1`
//
// Long ones take several lines where there is room for all problems: a remedy that is cut
// is none, but a problem that is hidden is worse. What does not fit is counted.
func attention(s *control.Status, w, h int) (lines []cell.Line) {
	all := problems(s)
	subject, needed := 0, 0
	texts := make([][]string, len(all))
	for i, p := range all {
		subject = min(max(subject, cell.Width(p.subject)), widestSubject)
		texts[i] = []string{p.text}
		if p.subject == "" { // texts about peers are short, and stand in columns
			texts[i] = cell.Wrap(p.text, w-beforeText-1)
		}
		needed += len(texts[i])
	}
	for i, p := range all {
		if len(lines) == h-1 && i < len(all)-1 {
			more := fmt.Sprintf(" … and %d more: 2 shows peers, c the file", len(all)-i)
			return append(lines, cell.Styled(cell.Dim, more))
		}
		if needed > h { // each has its beginning, at least
			texts[i] = []string{words.OneLine(p.text)}
		}
		head := cell.Styled(p.role, fmt.Sprintf(" %-6s ", p.word))
		if p.subject != "" {
			head = head.Add(cell.Strong, cell.FitMiddle(p.subject, subject)+"  ")
		}
		for _, l := range texts[i] {
			lines = append(lines, head.Add(cell.Plain, l))
			head = cell.Text(fmt.Sprintf("%*s", beforeText, ""))
		}
	}
	return lines
}
