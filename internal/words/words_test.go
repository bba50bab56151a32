package words

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/health"
	"example.org/meshd/internal/mesh"
)

// kinds returns the constants of type Kind of internal/mesh by name, as its source has them.
func kinds(t *testing.T) map[string]mesh.Kind {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../mesh/condition.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]mesh.Kind{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); !ok || kind.Name != "Kind" {
			return false
		}
		for i, name := range spec.Names {
			value, ok := spec.Values[i].(*ast.BasicLit)
			if !ok {
				t.Fatalf("the value of %s is no literal", name.Name)
			}
			word, err := strconv.Unquote(value.Value)
			if err != nil {
				t.Fatal(err)
			}
			all[name.Name] = mesh.Kind(word)
		}
		return false
	})
	return all
}

// Every kind has a word of its own, which programs decide by, and a sentence for people; and there
// is no sentence for a kind that is gone.
func TestEveryKindHasASentence(t *testing.T) {
	all := kinds(t)
	if all["Starting"] != mesh.Starting || all["MetricsFailed"] != mesh.MetricsFailed {
		t.Fatalf("the source was not understood: %q", all)
	}
	names := map[mesh.Kind]string{}
	for name, kind := range all {
		t.Run(name, func(t *testing.T) {
			if other := names[kind]; other != "" {
				t.Errorf("%s and %s are both %q", name, other, kind)
			}
			names[kind] = name
			if kind == "" || strings.ToLower(string(kind)) != string(kind) || strings.ContainsAny(string(kind), " -") {
				t.Errorf("%q is no word of the API", kind)
			}
			if sentences[kind] == "" {
				t.Errorf("there is no sentence for %q", kind)
			}
		})
	}
	for kind := range sentences {
		if names[kind] == "" {
			t.Errorf("there is a sentence for %q, which is no kind", kind)
		}
	}
}

// Programs decide by kinds, so the page of the API lists each.
func TestEveryKindIsOnThePage(t *testing.T) {
	page, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, kind := range kinds(t) {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(string(page), "\n| `"+string(kind)+"` | ") {
				t.Errorf("docs/api.md does not list %q", kind)
			}
		})
	}
}

// What a condition is about is in its sentence, whatever kind it is of.
func TestSentence(t *testing.T) {
	for kind, pattern := range sentences {
		t.Run(string(kind), func(t *testing.T) {
			bare := Sentence(mesh.Condition{Kind: kind, Subject: "mesh0", Peer: "edge-4"})
			if strings.Contains(bare, "SUBJECT") || strings.Contains(bare, "PEER") {
				t.Errorf("a place was left empty: %q", bare)
			}
			if got := strings.Count(bare, "mesh0"); got != strings.Count(pattern, "SUBJECT") {
				t.Errorf("the subject is there %d times: %q", got, bare)
			}
			if got := strings.Count(bare, "edge-4"); got != strings.Count(pattern, "PEER") {
				t.Errorf("the peer is there %d times: %q", got, bare)
			}
			caused := Sentence(mesh.Condition{Kind: kind, Subject: "mesh0", Peer: "edge-4", Cause: "no memory"})
			if caused != bare+": no memory" {
				t.Errorf("with a cause: %q", caused)
			}
		})
	}
}

func TestSentenceOfHostileValues(t *testing.T) {
	for _, test := range []struct {
		name, want string
		condition  mesh.Condition
	}{
		{"a kind of another version", "new_kind", mesh.Condition{Kind: "new_kind"}},
		{"with a cause", "new_kind: x", mesh.Condition{Kind: "new_kind", Cause: "x"}},
		{"a subject that looks like a place", "metrics are not served on PEER",
			mesh.Condition{Kind: mesh.MetricsFailed, Subject: "PEER", Peer: "a"}},
		{"a cause that looks like a place", "forwarding is not turned on: SUBJECT",
			mesh.Condition{Kind: mesh.ForwardingFailed, Subject: "a", Cause: "SUBJECT"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := Sentence(test.condition); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestWarning(t *testing.T) {
	c := mesh.Condition{Kind: mesh.RulesFailed, Cause: "x"}
	sentence := Sentence(c)
	if got := Warning(c); got != sentence {
		t.Errorf("without a remedy: %q", got)
	}
	c.Remedy = "mend it"
	if got := Warning(c); got != sentence+"; mend it" {
		t.Errorf("with a remedy: %q", got)
	}
	if got := Sentence(c); got != sentence {
		t.Errorf("the remedy has a place of its own, but: %q", got)
	}
}

// A command of a remedy can be copied as it is, but for a group of peers.
func TestRemedyNamesThePeer(t *testing.T) {
	for peer, want := range map[string]string{"edge-2": "run `meshd ping edge-2`", "": "run `meshd ping NODE`"} {
		c := mesh.Condition{Kind: mesh.PeerLoss, Peer: peer, Remedy: "run `meshd ping PEER`"}
		if got := Remedy(c); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		h, warnings := Health(health.Verdict{Problems: []health.Problem{{Condition: c}}})
		if h.Problems[0].Remedy != want || !strings.HasSuffix(warnings[0], want) {
			t.Errorf("%+v, %q", h, warnings)
		}
		if got := Problems([]mesh.Condition{c}); got[0].Remedy != want {
			t.Errorf("%+v", got)
		}
	}
}

func TestChanges(t *testing.T) {
	three := []mesh.Change{
		{Op: mesh.Added, Kind: mesh.ChangedPeer, Subject: "b", New: "10.0.0.0/24"},
		{Op: mesh.Replaced, Kind: mesh.ChangedPeer, Subject: "c", Field: "address", Old: "1.2.3.4:5",
			New: "1.2.3.5:5"},
		{Op: mesh.Removed, Kind: mesh.ChangedRoute, Old: "10.0.0.0/24"},
	}
	lines := []string{three[0].String(), three[1].String(), three[2].String()}
	details := []control.Change{
		{Op: "+", Kind: "peer", Subject: "b", New: "10.0.0.0/24"},
		{Op: "~", Kind: "peer", Subject: "c", Field: "address", Old: "1.2.3.4:5", New: "1.2.3.5:5"},
		{Op: "-", Kind: "route", Old: "10.0.0.0/24"},
	}
	for _, test := range []struct {
		name    string
		changes []mesh.Change
		most    int
		lines   []string
		details []control.Change
	}{
		{"all", three, -1, lines, details},
		{"as many as there are", three, 3, lines, details},
		{"more than there are", three, 4, lines, details},
		{"some", three, 2, []string{lines[0], lines[1], "and 1 more"}, details[:2]},
		{"how many", three, 0, []string{"and 3 more"}, []control.Change{}},
		{"none", nil, -1, []string{}, []control.Change{}},
		{"none at all", nil, 0, []string{}, []control.Change{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			given := slices.Clone(test.changes)
			lines, details := Changes(test.changes, test.most)
			if !reflect.DeepEqual(lines, test.lines) { // JSON has lists, never null
				t.Errorf("%#v, want %#v", lines, test.lines)
			}
			if !reflect.DeepEqual(details, test.details) {
				t.Errorf("%#v, want %#v", details, test.details)
			}
			if !slices.Equal(test.changes, given) {
				t.Error("the list itself was changed")
			}
		})
	}
}

func TestSpoken(t *testing.T) {
	const spokenMost = 10
	var changes []mesh.Change
	for i := range spokenMost + 2 {
		changes = append(changes, mesh.Change{Op: mesh.Added, Kind: mesh.ChangedRoute, New: fmt.Sprint(i)})
	}
	for _, test := range []struct {
		name    string
		changes []mesh.Change
		lines   int
		last    string
	}{
		{"none", nil, 1, ""},
		{"one", changes[:1], 1, changes[0].String()},
		{"as many as fit", changes[:spokenMost], spokenMost, changes[spokenMost-1].String()},
		{"more", changes, spokenMost + 1, "and 2 more"},
	} {
		t.Run(test.name, func(t *testing.T) {
			lines := strings.Split(Spoken(test.changes, spokenMost), "; ")
			if len(lines) != test.lines || lines[len(lines)-1] != test.last {
				t.Errorf("%q", lines)
			}
		})
	}
}
