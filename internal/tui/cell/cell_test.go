package cell

import (
	"fmt"
	"testing"

	"github.com/charmbracelet/x/ansi"
)

// is compares a text with what it has to be, in a case of its own.
func is(t *testing.T, name, got, want string) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Helper()
		if got != want {
			t.Errorf("%q, not %q", got, want)
		}
	})
}

func TestFit(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		w    int
		want string
	}{
		"filled":             {"edge", 6, "edge  "},
		"as it is":           {"edge", 4, "edge"},
		"cut":                {"edge-14", 4, "edg…"},
		"one cell":           {"edge", 1, "…"},
		"no cell":            {"edge", 0, ""},
		"less than none":     {"edge", -3, ""},
		"nothing":            {"", 2, "  "},
		"wide":               {"世界", 4, "世界"},
		"wide, cut":          {"世界", 3, "世…"},
		"wide, half a glyph": {"世界", 2, "… "},
		"combined":           {"é", 1, "é"},
	} {
		t.Run(name, func(t *testing.T) {
			got := Fit(test.text, test.w)
			if got != test.want || ansi.StringWidth(got) != max(test.w, 0) {
				t.Errorf("%q, not %q", got, test.want)
			}
		})
	}
	is(t, "at the right", FitRight("7", 3), "  7")
	is(t, "at the right, cut", FitRight("1234", 3), "12…")
}

// Names that differ in their ends still differ when they are cut.
func TestFitMiddle(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		w    int
		want string
	}{
		"cut":       {"edge-dc1-rack4-17", 9, "edge…4-17"},
		"filled":    {"edge-1", 9, "edge-1   "},
		"as it is":  {"exactly-9", 9, "exactly-9"},
		"narrow":    {"edge-14", 4, "edg…"},
		"not ASCII": {"世界世界世界", 7, "世界世…"},
	} {
		is(t, name, FitMiddle(test.text, test.w), test.want)
	}
}

func TestWidth(t *testing.T) {
	for text, want := range map[string]int{
		"": 0, "edge": 4, "●◐○": 3, "▁▂█·…": 5, "┌─┐": 3, "世界": 4, "e\u0301": 1, "é": 1,
	} {
		t.Run(text, func(t *testing.T) {
			if got := Width(text); got != want || got != ansi.StringWidth(text) {
				t.Errorf("%d, not %d", got, want)
			}
		})
	}
}

// The glyphs that are only counted are of one cell, each of them.
func TestNarrowGlyphs(t *testing.T) {
	for r := rune(0x2400); r < 0x2700; r++ {
		if narrow(r) && ansi.StringWidth(string(r)) != 1 {
			t.Errorf("%U is of %d cells", r, ansi.StringWidth(string(r)))
		}
	}
}

func TestWrap(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		w    int
		want string
	}{
		"fits":          {"one two", 10, "[one two]"},
		"between words": {"one two three", 8, "[one two three]"},
		"a long word":   {"0123456789", 4, "[0123 4567 89]"},
		"no room":       {"one", 0, "[]"},
	} {
		is(t, name, fmt.Sprint(Wrap(test.text, test.w)), test.want)
	}
	for _, l := range Wrap("a sentence of several words; and more, of them", 9) {
		if Width(l) > 9 {
			t.Errorf("%q is too wide", l)
		}
	}
}

func TestLineFit(t *testing.T) {
	l := Styled(Bad, "DOWN").Add(Plain, " edge-14").Add(Dim, " 2m")
	for w, want := range map[int]string{
		0: "", 1: "…", 4: "DOW…", 5: "DOWN…", 12: "DOWN edge-1…", 15: "DOWN edge-14 2m", 17: "DOWN edge-14 2m  ",
	} {
		t.Run(fmt.Sprint(w, " cells"), func(t *testing.T) {
			if got := l.Fit(w); got.String() != want || got.Width() != w {
				t.Errorf("%q of %d cells, not %q", got, got.Width(), want)
			}
		})
	}
	is(t, "its line is unchanged", l.String(), "DOWN edge-14 2m")
}

// What stands at the right is whole before what stands at the left.
func TestSpread(t *testing.T) {
	for w, want := range map[int]string{12: "left   right", 10: "left right", 8: "l… right", 6: "right ",
		4: "rig…"} {
		is(t, fmt.Sprint(w, " cells"), Text("left").Spread(Text("right"), w).String(), want)
	}
}

// Lines are values: what is made of one does not change it, or what else was made of it.
func TestLinesAreValues(t *testing.T) {
	base := Styled(Strong, "a").Add(Plain, "b")
	x, y := base.Add(Bad, "x"), base.Add(Good, "y")
	joined := base.Join(x)
	is(t, "one", x.String(), "abx")
	is(t, "the other", y.String(), "aby")
	is(t, "joined", joined.String(), "ababx")
	is(t, "the base", base.String(), "ab")
	dim := base.As(Dim)
	if len(dim) != 1 || dim[0].Role != Dim || dim.String() != "ab" || base[0].Role != Strong {
		t.Errorf("%v of %v", dim, base)
	}
}

// What comes from a file or another host cannot move a cursor or set a title.
func TestClean(t *testing.T) {
	const evil = "a\x1b]0;evil\x07b\r\nc\td\u009b31m\u202ee\u2028f\ufffd"
	const want = `a\u001b]0;evil\u0007b\u000d\nc\td\u009b31m\u202ee\u2028f?`
	is(t, "by itself", Clean(evil), want)
	is(t, "as a line", Text(evil).String(), want)
	is(t, "in a role", Styled(Bad, evil).String(), want)
	is(t, "added", Line{}.Add(Dim, evil).String(), want)
}
