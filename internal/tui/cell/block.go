package cell

import "strings"

// Rule returns a horizontal line of w cells.
func Rule(w int) Line { return Styled(Dim, strings.Repeat("─", max(w, 0))) }

// Box draws a frame of w by h cells around lines, with a title at its upper left and
// a note at its upper right. Lines that do not fit are left out.
func Box(title Line, note string, body []Line, w, h int) []Line {
	if w < 4 || h < 2 {
		return Fill(nil, w, h)
	}
	head := Styled(Dim, "┌─ ").Join(title).Add(Dim, " ")
	tail := "┐"
	if note != "" && head.Width()+Width(note)+5 <= w {
		tail = " " + note + " ─┐"
	}
	if head.Width()+Width(tail) > w {
		head = head.Fit(w - Width(tail))
	}
	head = head.Add(Dim, strings.Repeat("─", w-head.Width()-Width(tail))+tail)
	lines := []Line{head}
	for _, l := range Fill(body, w-4, h-2) {
		lines = append(lines, Styled(Dim, "│ ").Join(l).Add(Dim, " │"))
	}
	return append(lines, Styled(Dim, "└"+strings.Repeat("─", w-2)+"┘"))
}

// Fill returns exactly h lines of exactly w cells.
func Fill(body []Line, w, h int) []Line {
	lines := make([]Line, 0, max(h, 0))
	for i := range max(h, 0) {
		var l Line
		if i < len(body) {
			l = body[i]
		}
		lines = append(lines, l.Fit(max(w, 0)))
	}
	return lines
}

// Beside puts blocks of the same height next to each other.
func Beside(blocks ...[]Line) []Line {
	lines := make([]Line, len(blocks[0]))
	for _, block := range blocks {
		for i := range lines {
			lines[i] = lines[i].Join(block[i])
		}
	}
	return lines
}

// Over returns body with some of its lines replaced by those of a box, which stands
// a third from the top.
func Over(body, box []Line) []Line {
	if len(box) >= len(body) {
		return box[:len(body)]
	}
	at := (len(body) - len(box)) / 3
	lines := append([]Line(nil), body...)
	copy(lines[at:], box)
	return lines
}
