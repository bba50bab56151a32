package config

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

// A fault is one line, with the parts that are known and nothing that a terminal obeys.
func TestFaultLine(t *testing.T) {
	for want, f := range map[string]Fault{
		"/etc/mesh.toml:3:8: error: network.mtu: too small": {"/etc/mesh.toml", 3, 8, "network.mtu", "too small"},
		"a: error: cannot read the file":                    {"a", 0, 0, "", "cannot read the file"},
		"a:1:1: error: not TOML":                            {"a", 1, 1, "", "not TOML"},
		`a:1:2: error: \u001b[31mkey: two\nlines`:           {"a", 1, 2, "\x1b[31mkey", "two\nlines"},
	} {
		t.Run(want, func(t *testing.T) {
			if got := f.String(); got != want {
				t.Errorf("%q, want %q", got, want)
			}
			warning := strings.Replace(want, "error:", "warning:", 1)
			if got := Warning(f).String(); got != warning {
				t.Errorf("%q, want %q", got, warning)
			}
		})
	}
	all := Faults{{Path: "a", Message: "one"}, {Path: "a", Message: "two"}}
	if got := all.Error(); got != "a: error: one\na: error: two" {
		t.Errorf("%q", got)
	}
}

// Faults stand in the order of the file, whatever the order of the checks; those of one place stay
// in theirs.
func TestFaultsAreInFileOrder(t *testing.T) {
	doc := "a = 1\n[network]\nmtu = 2\nname = 3\n"
	r := report{path: "x", doc: doc}
	r.add("network.name", "third")
	r.add("network.mtu", "second, %d", 1)
	r.add("network.mtu", "second, %d", 2)
	r.note(problem{at: 0, key: "a", message: "first"})
	var got []string
	for _, f := range r.result() {
		got = append(got, fmt.Sprintf("%d:%d %s", f.Line, f.Col, f.Key))
	}
	want := "1:1 a, 3:7 network.mtu, 3:7 network.mtu, 4:8 network.name"
	if strings.Join(got, ", ") != want {
		t.Errorf("%q, want %q", got, want)
	}
	if !r.has("network.mtu") || r.has("network.port") {
		t.Error("has does not know what was noted")
	}
}

// A fault of syntax hides all others: what stands behind it was not read.
func TestSyntaxStandsAlone(t *testing.T) {
	r := report{path: "x", doc: "a\nb\n"}
	r.add("a", "noted before")
	r.syntax(2, "", "broken")
	faults := r.result()
	if len(faults) != 1 || faults[0].Line != 2 || faults[0].Message != "broken" || !r.fatal {
		t.Errorf("%+v", faults)
	}
}

// A report has a bound: the rest is a number, and searching for lines ends.
func TestReportIsBounded(t *testing.T) {
	r := report{path: "x", doc: "[[node]]\n"}
	for range maxFaults - 1 {
		r.add("node[0]", "again")
	}
	if got := r.lineAt("node[0]"); got != 1 {
		t.Errorf("line %d", got)
	}
	for range 6 {
		r.add("node[0]", "again")
	}
	if got := r.lineAt("node[0]"); got != 0 {
		t.Errorf("line %d of a fault that is only counted", got)
	}
	faults := r.result()
	last := faults[len(faults)-1]
	if len(faults) != maxFaults+1 || last.Line != 0 || !strings.HasPrefix(last.Message, "and 5 ") {
		t.Errorf("%d faults, the last one %+v", len(faults), last)
	}
}

// Long quotes are cut between two characters.
func TestClip(t *testing.T) {
	for name, message := range map[string]string{
		"short": "a", "as long as allowed": strings.Repeat("a", maxMessage),
		"longer": strings.Repeat("a", maxMessage+1), "of two bytes each": strings.Repeat("ä", maxMessage),
		"of three": strings.Repeat("世", maxMessage), "of four": "a" + strings.Repeat("🙂", maxMessage),
	} {
		t.Run(name, func(t *testing.T) {
			got := clip(message)
			switch {
			case len(message) <= maxMessage && got != message:
				t.Errorf("%q", got)
			case len(message) > maxMessage && (!strings.HasSuffix(got, "...") || len(got) > maxMessage+3):
				t.Errorf("%d bytes", len(got))
			case !utf8.ValidString(got) || !strings.HasPrefix(message, strings.TrimSuffix(got, "...")):
				t.Errorf("%q", got)
			}
		})
	}
}

// People see keys without the numbers of elements.
func TestWithoutIndexes(t *testing.T) {
	for path, want := range map[string]string{
		"network.mtu": "network.mtu", "node[2].subnets[0]": "node.subnets", "a[1][2]": "a", "": "", "[3]": "",
	} {
		if got := withoutIndexes(path); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}

// Every file at fault is refused as Faults, also when only the reading fails.
func TestErrorsAreFaults(t *testing.T) {
	for name, doc := range map[string]string{
		"syntax": "a = ", "a fault": "[network]\nmtu = 1\n", "nothing": "",
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Parse("x", []byte(doc))
			if _, ok := errors.AsType[Faults](err); !ok || c != nil {
				t.Errorf("%+v, %v", c, err)
			}
		})
	}
}
