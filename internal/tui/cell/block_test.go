package cell

import (
	"strings"
	"testing"
)

// texts joins the lines of a block.
func texts(lines []Line) string {
	var all []string
	for _, l := range lines {
		all = append(all, l.String())
	}
	return strings.Join(all, "|")
}

func TestBox(t *testing.T) {
	body := []Line{Text("one"), Text("a line that is too long"), Text("three")}
	title := Styled(Strong, "title")
	for name, test := range map[string]struct {
		note string
		w, h int
		want string
	}{
		"whole": {"note", 22, 4,
			"┌─ title ───── note ─┐|│ one                │|│ a line that is to… │|└────────────────────┘"},
		"no note":          {"", 12, 3, "┌─ title ──┐|│ one      │|└──────────┘"},
		"a note too much":  {"note", 14, 2, "┌─ title ────┐|└────────────┘"},
		"a title too much": {"", 6, 2, "┌─ t…┐|└────┘"},
		"too small":        {"", 3, 2, "   |   "},
	} {
		is(t, name, texts(Box(title, test.note, body, test.w, test.h)), test.want)
	}
}

// A box is exactly as large as asked for, at any size.
func TestBoxSizes(t *testing.T) {
	for w := range 40 {
		for h := range 8 {
			box := Box(Text("a title"), "a note", []Line{Text("body")}, w, h)
			if len(box) != h {
				t.Fatalf("%dx%d has %d lines", w, h, len(box))
			}
			for _, l := range box {
				if l.Width() != w {
					t.Fatalf("%dx%d has a line of %d cells: %q", w, h, l.Width(), l)
				}
			}
		}
	}
}

func TestFill(t *testing.T) {
	body := []Line{Text("a"), Text("long")}
	is(t, "filled", texts(Fill(body, 3, 3)), "a  |lo…|   ")
	is(t, "cut", texts(Fill(body, 4, 1)), "a   ")
	is(t, "nothing", texts(Fill(nil, 2, 1)), "  ")
	is(t, "no room", texts(Fill(body, -1, -1)), "")
}

func TestBeside(t *testing.T) {
	left, right := Fill([]Line{Text("a")}, 2, 2), Fill([]Line{Text("b"), Text("c")}, 2, 2)
	is(t, "two blocks", texts(Beside(left, right)), "a b |  c ")
	is(t, "one block", texts(Beside(left)), "a |  ")
	is(t, "the block is unchanged", texts(left), "a |  ")
}

func TestOver(t *testing.T) {
	body := []Line{Text("0"), Text("1"), Text("2"), Text("3"), Text("4")}
	box := []Line{Text("a"), Text("b")}
	is(t, "a third from the top", texts(Over(body, box)), "0|a|b|3|4")
	is(t, "its argument is unchanged", texts(body), "0|1|2|3|4")
	is(t, "a box that is larger", texts(Over(body[:1], box)), "a")
}

func TestRule(t *testing.T) {
	is(t, "three cells", Rule(3).String(), "───")
	is(t, "no cells", Rule(-1).String(), "")
}
