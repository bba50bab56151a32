package cell

import (
	"io"
	"strings"

	"github.com/charmbracelet/lipgloss"
	"github.com/muesli/termenv"
)

// A Theme turns lines into what is written to a terminal.
type Theme struct {
	attributes [roles]attributes
	ascii      bool
}

// attributes are what stands before and behind text in a role. They are found once: to find them anew for
// each piece of each picture was a tenth of what a dashboard cost.
type attributes struct{ before, after string }

// NewTheme returns a theme of the 16 colours that every terminal has, or without
// any attributes, and with the glyphs of ASCII alone if asked for.
func NewTheme(colour, ascii bool) Theme {
	r := lipgloss.NewRenderer(io.Discard)
	r.SetColorProfile(termenv.Ascii)
	if colour {
		r.SetColorProfile(termenv.ANSI)
	}
	r.SetHasDarkBackground(true)
	plain := r.NewStyle()
	in := func(colour string) lipgloss.Style { return plain.Foreground(lipgloss.Color(colour)) }
	on := func(colour string) lipgloss.Style { return in("0").Background(lipgloss.Color(colour)) }
	t := Theme{ascii: ascii}
	for role, style := range [roles]lipgloss.Style{
		Plain: plain, Dim: plain.Faint(true), Strong: plain.Bold(true), Good: in("2"), Warn: on("3"),
		Bad: in("1").Bold(true), Accent: in("5"), Chart: plain.Faint(true), Selected: plain.Reverse(true),
		GoodBadge: on("2"), WarnBadge: on("3"), BadBadge: in("1").Bold(true).Reverse(true),
	} {
		const text = "x"
		a := &t.attributes[role]
		a.before, a.after, _ = strings.Cut(style.Render(text), text)
	}
	return t
}

// asciiGlyphs has for each glyph of ours one of ASCII with as many cells.
var asciiGlyphs = strings.NewReplacer(
	"▁", "_", "▂", ".", "▃", ":", "▄", "-", "▅", "=", "▆", "+", "▇", "*", "█", "#",
	"·", " ", "●", "*", "◐", "~", "○", "o", "■", "#", "─", "-", "│", "|", "┌", "+", "┐", "+", "└", "+", "┘", "+",
	"◇", "=",
	"▼", "v", "▲", "^", "…", "~", "µ", "u", "→", ">", "↑", "^", "↓", "v",
)

// plainASCII replaces what is left by question marks, one for each cell.
func plainASCII(s string) string {
	s = asciiGlyphs.Replace(s)
	if Width(s) == len(s) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if r < 0x80 {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Repeat("?", Width(string(r))))
		}
	}
	return b.String()
}

// Paint returns the lines as a terminal shows them, without a line break at the end.
func (t Theme) Paint(lines []Line) string {
	var b strings.Builder
	for i, l := range lines {
		if i > 0 {
			b.WriteByte('\n')
		}
		for j := 0; j < len(l); {
			text, role := l[j].Text, l[j].Role
			for j++; j < len(l) && l[j].Role == role; j++ {
				text += l[j].Text
			}
			if t.ascii {
				text = plainASCII(text)
			}
			a := t.attributes[role]
			b.WriteString(a.before)
			b.WriteString(text)
			b.WriteString(a.after)
		}
	}
	return b.String()
}
