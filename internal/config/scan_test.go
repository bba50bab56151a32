package config

import (
	"fmt"
	"strings"
	"testing"
)

// An events visitor writes down what it hears, as far as it goes.
type events struct {
	words []string
	most  int // ends the scan after so many; 0: never
}

func (e *events) note(format string, args ...any) bool {
	e.words = append(e.words, fmt.Sprintf(format, args...))
	return e.most == 0 || len(e.words) < e.most
}

func (e *events) table(parts []string, array bool, at int) bool {
	if array {
		return e.note("[[%s]]%d", strings.Join(parts, "|"), at)
	}
	return e.note("[%s]%d", strings.Join(parts, "|"), at)
}

func (e *events) pair(parts []string, at, value int) bool {
	return e.note("%s@%d=%d", strings.Join(parts, "|"), at, value)
}

func (e *events) element(value int) bool { return e.note("-%d", value) }
func (e *events) end(at int) bool        { return e.note(".%d", at) }

// What a visitor hears of each kind of line. Offsets are those of the bytes in the text.
func TestScanEvents(t *testing.T) {
	for name, test := range map[string]struct{ doc, want string }{
		"nothing":               {"", ""},
		"blanks and comments":   {" \t\r\n# a = [\n", ""},
		"a pair":                {"a = 1", "a@0=4 .5"},
		"without blanks":        {"a=1", "a@0=2 .3"},
		"a comment behind":      {"a = 1 # b = 2\n", "a@0=4 .5"},
		"a date with a blank":   {"a = 1979-05-27 07:32:00 # x", "a@0=4 .23"},
		"a dotted key":          {"a . b.'c.d'.\"e\\u0041\" = 1", "a|b|c.d|eA@0=24 .25"},
		"a header":              {"[a.b]\n", "[a|b]0"},
		"a header of a list":    {"\n[[ a ]]", "[[a]]1"},
		"a list":                {"a = [1, [2,], '3' # c\n]", "a@0=4 -5 .6 -8 -9 .10 .12 -14 .17 .23"},
		"an empty list":         {"a = []", "a@0=4 .6"},
		"an inline table":       {"a = {b = 1, c.d = {}}", "a@0=4 b@5=9 .10 c|d@12=18 .20 .21"},
		"a string":              {`a = "]\"[" # "`, "a@0=4 .10"},
		"a literal string":      {`a = '\'`, "a@0=4 .7"},
		"lines of a string":     {"a = \"\"\"\n] \\\"\"\"\"\"\nb = 1", "a@0=4 .16 b@17=21 .22"},
		"one word, however odd": {"a = 1 b = 2", "a@0=4 .11"}, // the library refuses it
		"lines, literal":        {"a = '''x\n''y'''''\nb = 1", "a@0=4 .17 b@18=22 .23"},
		"a byte order mark":     {"\xef\xbb\xbfa = 1", "a@3=7 .8"},
		"line ends of Windows":  {"a = 1\r\nb = 2\r\n", "a@0=4 .5 b@7=11 .12"},
	} {
		t.Run(name, func(t *testing.T) {
			var e events
			_, ok := scan(test.doc, &e)

			if got := strings.Join(e.words, " "); got != test.want || !ok {
				t.Errorf("%s (%v), want %s", got, ok, test.want)
			}
		})
	}
}

// A scan that cannot go on says where.
func TestScanStops(t *testing.T) {
	for name, test := range map[string]struct {
		doc string
		end int
	}{
		"no value":             {"a = ", 4},
		"no equals sign":       {"a 1", 2},
		"no key":               {"= 1", 0},
		"two strings":          {"a = 'x' 'y'", 8},
		"an open list":         {"a = [1", 6},
		"an open table":        {"a = {b = 1", 10},
		"an open string":       {"a = 'x\n'", 6},
		"an open header":       {"[a\n", 2},
		"half a header":        {"[[a]\n", 3},
		"a key that ends":      {"a. = 1", 3},
		"open lines":           {"a = '''x\n", 9},
		"a comma too many":     {"a = [,]", 5},
		"a list without comma": {"a = ['x' 'y']", 9},
	} {
		t.Run(name, func(t *testing.T) {
			end, ok := scan(test.doc, &events{})

			if ok || end != test.end {
				t.Errorf("%d, %v, want %d", end, ok, test.end)
			}
		})
	}
}

// A visitor can end the scan at every event, and hears no further one.
func TestVisitorEndsTheScan(t *testing.T) {
	const doc = "[a]\nb = [1, {c = 2}]\n[[d]]\n"
	var all events
	if _, ok := scan(doc, &all); !ok {
		t.Fatal("the document is not read")
	}
	for most := 1; most <= len(all.words); most++ {
		e := events{most: most}
		if _, ok := scan(doc, &e); ok || len(e.words) != most {
			t.Errorf("after %d events: %v, heard %q", most, ok, e.words)
		}
	}
}

// A key keeps one part more than the gate allows, which is enough to refuse it.
func TestLongKeysAreCut(t *testing.T) {
	var e events
	scan("a"+strings.Repeat(".b", 1000)+" = 1", &e)
	if got := strings.Count(e.words[0], "|") + 1; got != maxParts+1 {
		t.Errorf("%d parts", got)
	}
}
