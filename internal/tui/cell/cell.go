// Package cell is what a terminal shows, before there is a terminal: lines of text
// in roles, as wide as they have to be, counted in cells. A theme turns them into
// bytes, with colours, without, or in ASCII.
//
//	span   a piece of text in one role
//	line   spans beside each other
//	role   what a text says of itself: good, bad, dim; never a colour
//	fit    cut or fill a line to a number of cells
//
// The package is apart from the screens for one more reason. Bubble Tea asks the
// terminal for its background when the program starts, and waits 5 s for one that
// does not answer, unless a package that is initialised before it has said what the
// background is. This one is: it sorts before github.com/charmbracelet/bubbletea, and
// knows nothing of it.
package cell

import (
	"strings"

	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/x/ansi"

	"example.org/meshd/internal/text"
)

// lipgloss would else ask the terminal for its background (OSC 11) and wait for an answer that some
// never give, and what is typed meanwhile would be taken for it.
func init() { lipgloss.SetHasDarkBackground(true) }

// A Role is what a text says of itself.
type Role int

// Roles, with what a theme makes of them. All of them can be read on a dark and on a light background,
// which no terminal tells: so yellow, which is invisible on white, is only a background.
const (
	Plain     Role = iota // as it comes
	Dim                   // faint: labels, old data
	Strong                // bold: what the eye should find
	Good                  // green
	Warn                  // black on yellow; for a word, not for a sentence
	Bad                   // red and bold
	Accent                // magenta: maintenance
	Chart                 // faint: a chart is large, and must not be louder than the verdict
	Selected              // reversed: where the cursor is
	GoodBadge             // black on green: a verdict
	WarnBadge             // black on yellow
	BadBadge              // reversed red and bold
	roles                 // how many there are
)

// A Span is a piece of text in one role. The text is clean: the functions that make
// lines see to that, should text come in on a way that nobody thought of.
type Span struct {
	Text string
	Role Role
}

// A Line is spans beside each other. Its methods return lines and change none.
type Line []Span

// Text returns a line of plain text.
func Text(s string) Line { return Styled(Plain, s) }

// Styled returns a line of text in one role.
func Styled(role Role, s string) Line { return Line{{Clean(s), role}} }

// Add returns the line with more text at its end.
func (l Line) Add(role Role, s string) Line {
	return append(l[:len(l):len(l)], Span{Clean(s), role})
}

// Join returns the line with another at its end.
func (l Line) Join(other Line) Line { return append(l[:len(l):len(l)], other...) }

// Width returns the number of cells.
func (l Line) Width() (w int) {
	for _, s := range l {
		w += Width(s.Text)
	}
	return w
}

// String returns the text alone.
func (l Line) String() string {
	var b strings.Builder
	for _, s := range l {
		b.WriteString(s.Text)
	}
	return b.String()
}

// As returns the same text in one role.
func (l Line) As(role Role) Line { return Styled(role, l.String()) }

// Fit returns the line with exactly w cells: filled with blanks, or cut with an
// ellipsis as its last one.
func (l Line) Fit(w int) Line {
	have := l.Width()
	switch {
	case have == w:
		return l
	case have < w:
		return l.Add(Plain, strings.Repeat(" ", w-have))
	}
	var cut Line
	for _, s := range l {
		if n := Width(s.Text); n < w { // one cell is for the ellipsis
			cut, w = append(cut, s), w-n
			continue
		}
		return append(cut, Span{Fit(s.Text+"…", w), s.Role})
	}
	return cut
}

// Spread returns a line of w cells with l at its left and right at its right end;
// where both do not fit, right is whole.
func (l Line) Spread(right Line, w int) Line {
	room := w - right.Width() - 1
	if room <= 0 {
		return right.Fit(w)
	}
	return l.Fit(room).Add(Plain, " ").Join(right)
}

// Width returns the number of cells that a text takes. What is drawn here most, ASCII
// and glyphs of one cell, is only counted.
func Width(s string) (n int) {
	for _, r := range s {
		if r >= 0x80 && !narrow(r) {
			return ansi.StringWidth(s)
		}
		n++
	}
	return n
}

// narrow tells of the glyphs of frames, charts and states, each a cell of its own that
// joins with no other: Box Drawing, Block Elements and Geometric Shapes.
func narrow(r rune) bool { return r >= 0x2500 && r < 0x25fd || r == gap || r == '…' }

// Fit returns the text with exactly w cells, cut with an ellipsis or filled with
// blanks.
func Fit(s string, w int) string {
	if w <= 0 {
		return ""
	}
	n := Width(s)
	if n > w {
		s = ansi.Truncate(s, w, "…")
		n = Width(s) // a wide character may not fit the last cell
	}
	return s + strings.Repeat(" ", w-n)
}

// FitRight is Fit with the blanks in front.
func FitRight(s string, w int) string {
	if n := Width(s); n < w {
		return strings.Repeat(" ", w-n) + s
	}
	return Fit(s, w)
}

// Clean returns a text from elsewhere as one that cannot do anything to a terminal
// (text.Clean), and without U+FFFD, which terminals draw in one cell or two.
func Clean(s string) string { return strings.ReplaceAll(text.Clean(s), "\ufffd", "?") }

// Wrap breaks a text into lines of at most w cells, between words where it can.
func Wrap(s string, w int) []string {
	if w <= 0 {
		return nil
	}
	return strings.Split(ansi.Wrap(s, w, " ,;"), "\n")
}

// FitMiddle is Fit for names, whose ends tell more than their middles: the ellipsis
// stands there.
func FitMiddle(s string, w int) string {
	if n := Width(s); n <= w || n != len(s) || w < 5 { // names are ASCII
		return Fit(s, w)
	}
	head := (w - 1) / 2
	return s[:head] + "…" + s[len(s)-(w-1-head):]
}
