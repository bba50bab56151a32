package cell

import (
	"math"
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi"
)

func TestFit(t *testing.T) {
	for _, test := range []struct {
		text string
		w    int
		want string
	}{
		{"edge", 6, "edge  "}, {"edge", 4, "edge"}, {"edge-14", 4, "edg…"}, {"edge", 1, "…"}, {"edge", 0, ""}, {"", 2, "  "},
		{"世界", 4, "世界"}, {"世界", 3, "世…"}, {"世界", 2, "… "}, {"é", 1, "é"},
	} {
		got := Fit(test.text, test.w)
		if got != test.want || ansi.StringWidth(got) != test.w {
			t.Errorf("Fit(%q, %d) = %q", test.text, test.w, got)
		}
	}
	if got := FitRight("7", 3) + FitRight("1234", 3); got != "  712…" {
		t.Errorf("%q", got)
	}
	for name, want := range map[string]string{"edge-dc1-rack4-17": "edge…4-17", "edge-1": "edge-1   ", "exactly-9": "exactly-9"} {
		if got := FitMiddle(name, 9); got != want {
			t.Errorf("FitMiddle(%q) = %q, not %q", name, got, want)
		}
	}
}

func TestLineFit(t *testing.T) {
	l := Styled(Bad, "DOWN").Add(Plain, " edge-14").Add(Dim, " 2m")
	for w, want := range map[int]string{0: "", 1: "…", 4: "DOW…", 5: "DOWN…", 12: "DOWN edge-1…", 15: "DOWN edge-14 2m", 17: "DOWN edge-14 2m  "} {
		if got := l.Fit(w); got.String() != want || got.Width() != w {
			t.Errorf("Fit(%d) = %q of %d cells", w, got, got.Width())
		}
	}
	if l.String() != "DOWN edge-14 2m" {
		t.Errorf("Fit changed its line: %q", l)
	}
	if got := Text("left").Spread(Text("right"), 12).String(); got != "left   right" {
		t.Errorf("%q", got)
	}
	if got := Text("left").Spread(Text("right"), 8).String(); got != "l… right" {
		t.Errorf("%q", got)
	}
	if got := Text("left").Spread(Text("right"), 4).String(); got != "rig…" {
		t.Errorf("%q", got)
	}
}

// What comes from a file or another host cannot move a cursor or set a title.
func TestClean(t *testing.T) {
	const evil, want = "a\x1b]0;evil\x07b\r\nc\td\u009b31m\u202ee\u2028f\ufffd", `a\u001b]0;evil\u0007b\u000d\nc\td\u009b31m\u202ee\u2028f?`
	for _, got := range []string{Clean(evil), Text(evil).String(), Styled(Bad, evil).String(), Line{}.Add(Dim, evil).String()} {
		if got != want {
			t.Errorf("%q", got)
		}
	}
}

func TestSpark(t *testing.T) {
	nan := math.NaN()
	for _, test := range []struct {
		values []float64
		last   int64
		w      int
		top    float64
		want   string
	}{
		{[]float64{0, 1, 2, 3, 4, 5, 6, 7}, 7, 8, 0, "▁▃▄▅▆▇██"},
		{[]float64{0, 0.001, 1000}, 2, 3, 0, "▁▂█"},
		{[]float64{1, nan, 1}, 2, 5, 0, "  █·█"},
		{[]float64{0, 0, 0}, 2, 3, 0, "▁▁▁"},
		{[]float64{25, 50, 100}, 2, 3, 100, "▃▅█"},
		{[]float64{200}, 0, 1, 100, "█"},
		{[]float64{1, 9, 2, 3}, 3, 2, 9, "█▄"}, // the larger of two
		{nil, 0, 3, 0, "···"},
		{[]float64{1}, 0, 0, 0, ""},
	} {
		if got := Spark(test.values, test.last, test.w, test.top); got != test.want {
			t.Errorf("Spark(%v, %d, %d, %v) = %q, not %q", test.values, test.last, test.w, test.top, got, test.want)
		}
	}
}

// A chart moves by whole cells: what was in a cell stays there until its neighbours
// move too.
func TestSparkIsSteady(t *testing.T) {
	value := func(second int64) float64 { return float64(second * 7 % 13) }
	chart := func(last int64) string {
		var values []float64
		for s := last - 299; s <= last; s++ {
			values = append(values, value(s))
		}
		return Spark(values, last, 50, 13)
	}
	for last := int64(1000); last < 1100; last++ {
		a, b := []rune(chart(last)), []rune(chart(last+1))
		moved := (last+1)/6 != last/6
		for i := 2; i < 49; i++ { // the ends are not whole
			was := a[i]
			if moved {
				was = a[i+1]
			}
			if i+1 < 49 && b[i] != was {
				t.Fatalf("at %d cell %d became %c from %c:\n%s\n%s", last, i, b[i], was, string(a), string(b))
			}
		}
	}
}

func TestBlocks(t *testing.T) {
	box := Box(Styled(Strong, "title"), "note", []Line{Text("one"), Text("a line that is too long"), Text("three")}, 22, 4)
	want := "┌─ title ───── note ─┐|│ one                │|│ a line that is to… │|└────────────────────┘"
	var got []string
	for _, l := range Beside(box, Fill(nil, 0, 4)) {
		got = append(got, l.String())
	}
	if strings.Join(got, "|") != want {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
	body := []Line{Text("0"), Text("1"), Text("2"), Text("3"), Text("4")}
	over := Over(body, []Line{Text("a"), Text("b")})
	if s := over[0].String() + over[1].String() + over[2].String() + over[3].String() + over[4].String(); s != "0ab34" {
		t.Error(s)
	}
	if body[1].String() != "1" {
		t.Error("Over changed its argument")
	}
	if len(Over(body[:1], box)) != 1 {
		t.Error("Over grew")
	}
}

func TestPaint(t *testing.T) {
	lines := []Line{Styled(Bad, "DO").Add(Bad, "WN").Add(Plain, " 世·█…")}
	for want, theme := range map[string]Theme{
		"\x1b[1;31mDOWN\x1b[0m 世·█…": NewTheme(true, false), "DOWN 世·█…": NewTheme(false, false), "DOWN ?? #~": NewTheme(false, true),
	} {
		if got := theme.Paint(lines); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}
