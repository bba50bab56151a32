package apply

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/budget"
)

// sample is a record of a change that waits.
func sample() record {
	sum := func(c string) string { return strings.Repeat(c, 64) }
	return record{Path: "/etc/mesh.toml", State: pending, Cause: CauseApply, stand: stand{sum("a"),
		[]string{sum("b")}},
		By: "root", At: time.Unix(1, 0).UTC(), Before: &stand{sum("b"), []string{unreadable}},
		Line: &line{Boot: "x", Until: 1, Saved: time.Unix(2, 0).UTC(), Left: time.Minute}}
}

func TestRecord(t *testing.T) {
	doc, err := sample().encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := parseRecord(doc); err != nil || !reflect.DeepEqual(got, sample()) {
		t.Errorf("%+v, %v", got, err)
	}
	for name, spoil := range map[string]func(r *record){
		"no path":               func(r *record) { r.Path = "" },
		"an unknown state":      func(r *record) { r.State = "else" },
		"a sum that is a path":  func(r *record) { r.Sum = "../../../../etc/passwd" },
		"no deadline":           func(r *record) { r.Line = nil },
		"nothing before":        func(r *record) { r.Before = nil },
		"a deadline that never": func(r *record) { r.Line.Left = Longest + 1 },
		"a deadline of before":  func(r *record) { r.Line.Left = -1 },
		"too many contents":     func(r *record) { r.Shadows = slices.Repeat(r.Shadows, maxShadows+1) },
		"a long name":           func(r *record) { r.By = strings.Repeat("x", maxName+1) },
	} {
		t.Run(name, func(t *testing.T) {
			r := sample()
			spoil(&r)
			doc, err := r.encode()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := parseRecord(doc); err == nil {
				t.Errorf("it is taken: %s", doc)
			}
		})
	}
}

func FuzzRecord(f *testing.F) {
	doc, _ := sample().encode()
	f.Add(doc)
	f.Add([]byte(`{"path":"x","state":"settled"}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		defer budget.Of(t)()
		r, err := parseRecord(doc)
		if err != nil {
			return
		}
		for _, sum := range r.sums() {
			if sum != "" && !isSum(sum) {
				t.Errorf("%q names a file", sum)
			}
		}
		clock := Clock{Wall: time.Now, Up: func() time.Duration { return time.Hour },
			Boot: func() string { return "x" }}
		if r.State == pending {
			if left := r.Line.left(clock); left < 0 || left > Longest {
				t.Errorf("it waits for %v", left)
			}
		}
		again, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseRecord(again); err != nil {
			t.Errorf("%v: %s", err, again)
		}
	})
}

func FuzzIndex(f *testing.F) {
	doc, _ := json.Marshal([]entry{{Number: 1, Sum: strings.Repeat("a", 64), Cause: CauseEdit}})
	f.Add(doc)
	f.Fuzz(func(t *testing.T, doc []byte) {
		defer budget.Of(t)()
		all, err := parseIndex(doc)
		if err != nil {
			return
		}
		grown, _ := grow(all, entry{Sum: strings.Repeat("b", 64)})
		if len(grown) > Earlier+1 {
			t.Errorf("%d files", len(grown))
		}
		last := 0
		for _, e := range grown {
			if e.Number <= last && e.Number > 0 || !isSum(e.Sum) {
				t.Errorf("%+v", e)
			}
			last = e.Number
		}
	})
}

// rebuild makes both texts again from what was compared.
func rebuild(parts []part) (a, b []string) {
	for _, p := range parts {
		if p.sign != '+' {
			a = append(a, p.line)
		}
		if p.sign != '-' {
			b = append(b, p.line)
		}
	}
	return a, b
}

func TestDiff(t *testing.T) {
	for _, test := range []struct {
		name, from, to string
		want           []string
	}{
		{"equal", "a\nb\n", "a\nb\n", nil},
		{"from nothing", "", "a\n", []string{"@@ -1,0 +1,1 @@", "+a"}},
		{"a line", "1\n2\n3\n4\n5\n6\n7\n8\n9\n", "1\n2\n3\n4\nx\n6\n7\n8\n9\n",
			[]string{"@@ -2,7 +2,7 @@", " 2", " 3", " 4", "-5", "+x", " 6", " 7", " 8"}},
		{"two far apart", "a\n1\n2\n3\n4\n5\n6\n7\nb\n", "A\n1\n2\n3\n4\n5\n6\n7\nB\n",
			[]string{"@@ -1,4 +1,4 @@", "-a", "+A", " 1", " 2", " 3", "@@ -6,4 +6,4 @@", " 5", " 6", " 7", "-b",
				"+B"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := Diff(test.from, test.to); !slices.Equal(got, test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func FuzzDiff(f *testing.F) {
	f.Add("a\nb\nc", "a\nx\nc")
	f.Add(strings.Repeat("a\nb\n", 2000), strings.Repeat("c\n", 3000))
	f.Fuzz(func(t *testing.T, from, to string) {
		defer budget.Of(t)()
		a, b := split(from), split(to)
		gotA, gotB := rebuild(compare(a, b))
		if !slices.Equal(gotA, a) || !slices.Equal(gotB, b) {
			t.Errorf("%q and %q became %q and %q", a, b, gotA, gotB)
		}
		if (len(Diff(from, to)) == 0) != slices.Equal(a, b) {
			t.Errorf("%q", Diff(from, to))
		}
	})
}
