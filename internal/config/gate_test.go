package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

// admitted runs the gate on a document.
func admitted(t *testing.T, doc string) (r *report, part string, stuck int, ok bool) {
	t.Helper()
	r = &report{path: "x", doc: doc}
	part, stuck, ok = admit(t.Context(), doc, r)
	return r, part, stuck, ok
}

// Each limit lets through what is exactly at it, and refuses one more.
func TestLimits(t *testing.T) {
	repeat := strings.Repeat
	for name, make := range map[string]func(n int) string{
		"brackets": func(n int) string {
			n += maxNesting - 1
			return "network = " + repeat("[", n) + "1" + repeat("]", n)
		},
		"parts":    func(n int) string { return "network" + repeat(".a", maxParts-2+n) + " = 1" },
		"a key":    func(n int) string { return "network." + repeat("k", maxText-1+n) + " = 1" },
		"a value":  func(n int) string { return "network.name = '" + repeat("v", maxText-3+n) + "'" },
		"elements": func(n int) string { return "network.cidr = [" + repeat("1,", maxValues-1+n) + "]" },
		"keys":     func(n int) string { return repeat("[[node]]\n", maxKeys-1+n) },
		"lines":    func(n int) string { return repeat("\n", maxLines-1+n) },
	} {
		t.Run(name, func(t *testing.T) {
			if r, _, _, ok := admitted(t, make(1)); !ok || r.fatal {
				t.Errorf("what is at the limit is refused: %+.200v", r.problems)
			}
			if r, _, _, ok := admitted(t, make(2)); ok || !r.fatal {
				t.Error("one more passes")
			}
		})
	}
}

// The library gets to see a document up to the line that the scanner cannot read, so that it finds
// the fault and says what it is.
func TestAdmittedPart(t *testing.T) {
	for name, test := range map[string]struct {
		doc, want string
		stuck     int
	}{
		"all of it":       {"a = 1\nb = 2\n", "a = 1\nb = 2\n", -1},
		"to the line":     {"a = 1\nb = \nc = [[[[\n", "a = 1\nb = \n", 10},
		"the last line":   {"a = 1\nb = ", "a = 1\nb = ", 10},
		"the first line":  {"= 1\na = 1\n", "= 1\n", 0},
		"an open bracket": {"a = [1\n\nb = 2\n", "a = [1\n\nb = 2\n", 8},
	} {
		t.Run(name, func(t *testing.T) {
			_, part, stuck, ok := admitted(t, test.doc)
			if !ok || part != test.want || stuck != test.stuck {
				t.Errorf("%q, stuck at %d, %v, want %q, %d", part, stuck, ok, test.want, test.stuck)
			}
			if stuck < 0 {
				return
			}
			var tree map[string]any
			if _, err := toml.Decode(part, &tree); err == nil {
				t.Error("the library finds nothing wrong with it")
			}
		})
	}
}

// Unknown keys are told once for each node, and known ones never.
func TestUnknownKeys(t *testing.T) {
	for name, test := range map[string]struct {
		doc  string
		want string // keys
	}{
		"known":               {"[network]\nmtu = 1\n[[node]]\nname = ''\n", ""},
		"a table":             {"[foo]\nbar = 1\nbaz = 2\n", "foo"},
		"a key":               {"[network]\nfoo = 1\nfoo2 = 1\n", "network.foo network.foo2"},
		"dotted":              {"network.foo.bar = 1\nnetwork.foo.baz = 1\n", "network.foo"},
		"of two nodes":        {"[[node]]\nx = 1\n[[node]]\nx = 1\n", "node.x node.x"},
		"twice in one node":   {"[[node]]\nx.a = 1\nx.b = 1\n", "node.x"},
		"of two nodes inline": {"node = [{x = 1}, {x = 1}]", "node.x node.x"},
		"below a known value": {"[network]\nmtu = {a = 1, b = 2}\n", ""},
		"inline":              {"network = {foo = 1}", "network.foo"},
		"in capitals":         {"[Network]\nMTU = 1\n", "Network"},
	} {
		t.Run(name, func(t *testing.T) {
			r, _, _, _ := admitted(t, test.doc)
			var keys []string
			for _, p := range r.problems {
				keys = append(keys, p.key)
			}
			if got := strings.Join(keys, " "); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// The words for types are those of TOML.
func TestDescribe(t *testing.T) {
	const doc = "s = ''\ni = 1\nf = 1.0\nb = true\nd = 1979-05-27\nl = [1]\nt = {}\n[[a]]\n"
	var tree map[string]any
	if _, err := toml.Decode(doc, &tree); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"s": "a string", "i": "an integer", "f": "a float", "b": "a boolean", "d": "a date", "l": "a list",
		"t": "a table", "a": "a list of tables",
	} {
		t.Run(key, func(t *testing.T) {
			if got := describe(tree[key]); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
}

// A list of tables may be written in two ways, and nothing else passes for one.
func TestTables(t *testing.T) {
	for doc, want := range map[string]int{
		"": 0, "[[node]]\n[[node]]": 2, "node = [{}, {}, {}]": 3, "node = []": 0,
		"node = 1": -1, "[node]": -1, "node = [{}, 1]": -1, "node = {}": -1,
	} {
		t.Run(doc, func(t *testing.T) {
			var tree map[string]any
			if _, err := toml.Decode(doc, &tree); err != nil {
				t.Fatal(err)
			}
			all, ok := tables(tree["node"])
			if ok != (want >= 0) || ok && len(all) != want {
				t.Errorf("%v, %v, want %d", all, ok, want)
			}
		})
	}
}

// A key in capitals is one fault: it is unknown, and not missing as well.
func TestFoldCase(t *testing.T) {
	doc := strings.NewReplacer("cidr", "CIDR", "name", "Name").Replace(someNetwork + someNode)
	_, err := Parse("x", []byte(doc))
	var keys []string
	for _, f := range err.(Faults) {
		keys = append(keys, f.Key)
	}
	if got := fmt.Sprint(keys); got != "[network.CIDR node.Name]" {
		t.Errorf("%s", got)
	}
}
