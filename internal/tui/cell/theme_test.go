package cell

import (
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi"
)

func TestPaint(t *testing.T) {
	lines := []Line{Styled(Bad, "DO").Add(Bad, "WN").Add(Plain, " 世·█…")}
	is(t, "colours", NewTheme(true, false).Paint(lines), "\x1b[1;31mDOWN\x1b[0m 世·█…")
	is(t, "none", NewTheme(false, false).Paint(lines), "DOWN 世·█…")
	is(t, "ASCII", NewTheme(false, true).Paint(lines), "DOWN ?? #~")
	is(t, "both", NewTheme(true, true).Paint(lines), "\x1b[1;31mDOWN\x1b[0m ?? #~")
	is(t, "nothing", NewTheme(true, false).Paint(nil), "")
	is(t, "two lines", NewTheme(false, false).Paint([]Line{Text("a"), {}, Text("b")}), "a\n\nb")
}

// Whatever a theme does, the text and its width stay: what was fitted still fits.
func TestPaintKeepsWidths(t *testing.T) {
	const text = "●◇◐○■ ▁▂▃▄▅▆▇█ ·… ┌─┐│└┘ ▼▲ µ →↑↓ 世界 é edge"
	for role := range roles {
		line := []Line{Styled(role, text)}
		if got := ansi.Strip(NewTheme(true, false).Paint(line)); got != text {
			t.Errorf("role %d: %q", role, got)
		}
		got := NewTheme(false, true).Paint(line)
		if ansi.StringWidth(got) != Width(text) {
			t.Errorf("role %d: %q is of %d cells, not %d", role, got, ansi.StringWidth(got), Width(text))
		}
		if i := strings.IndexFunc(got, func(r rune) bool { return r >= 0x80 }); i >= 0 {
			t.Errorf("role %d: %q is not ASCII", role, got)
		}
	}
}

// States are told apart without colours, and in ASCII.
func TestStatesDiffer(t *testing.T) {
	for name, theme := range map[string]Theme{"plain": NewTheme(false, false), "ASCII": NewTheme(false, true)} {
		t.Run(name, func(t *testing.T) {
			seen := map[string]bool{}
			for _, glyph := range []string{"●", "◇", "◐", "○", "■", "?"} {
				seen[theme.Paint([]Line{Text(glyph)})] = true
			}
			if len(seen) != 6 {
				t.Errorf("%v", seen)
			}
		})
	}
}

// Each role can be read on white and on black: a yellow or cyan text cannot.
func TestRolesAreReadableOnWhite(t *testing.T) {
	for role := range roles {
		got := NewTheme(true, false).Paint([]Line{Styled(role, "x")})
		for _, pale := range []string{"33m", "36m", "37m", ";33;", ";36;"} {
			if strings.Contains(got, pale) {
				t.Errorf("role %d: %q", role, got)
			}
		}
	}
}
