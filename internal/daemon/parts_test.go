package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/plan"
)

// partsOf returns parts of "name", or of "name: need need".
func partsOf(lines ...string) (parts []part) {
	for _, line := range lines {
		name, needs, _ := strings.Cut(line, ":")
		parts = append(parts, part{name: name, needs: strings.Fields(needs)})
	}
	return parts
}

func namesOf(parts []part) (names []string) {
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}

func TestInOrder(t *testing.T) {
	for _, test := range []struct {
		name  string
		parts []part
		want  []string // nil: they need each other
	}{
		{"none", nil, nil},
		{"the order given", partsOf("c", "a", "b"), []string{"c", "a", "b"}},
		{"what is needed comes first", partsOf("c: b", "b: a", "a"), []string{"a", "b", "c"}},
		{"only as far as needed", partsOf("x", "c: a", "y", "a", "b"), []string{"x", "y", "a", "c", "b"}},
		{"parts that are not there", partsOf("b: gone a", "a: gone"), []string{"a", "b"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := namesOf(test.parts)
			got, err := inOrder(test.parts)
			if err != nil || !slices.Equal(namesOf(got), test.want) {
				t.Errorf("%q, %v, want %q", namesOf(got), err, test.want)
			}
			if !slices.Equal(namesOf(test.parts), before) {
				t.Errorf("the list itself was changed: %q", namesOf(test.parts))
			}
		})
	}
	for _, cycle := range [][]part{partsOf("a: a"), partsOf("x", "a: b", "b: c", "c: a")} {
		t.Run(fmt.Sprint("a cycle of ", namesOf(cycle)), func(t *testing.T) {
			if got, err := inOrder(cycle); !errors.Is(err, errOrder) || got != nil {
				t.Errorf("%q, %v", namesOf(got), err)
			}
		})
	}
}

// A stage is where parts of a test leave what happens to them.
type stage struct{ acts []string }

// part returns one that acts on the stage.
func (s *stage) part(name string) part {
	act := func(what string) { s.acts = append(s.acts, what+" "+name) }
	return part{name: name, apply: func(context.Context, *plan.Plan) (effect, error) {
		act("apply")
		return effect{changes: []mesh.Change{{Op: mesh.Repaired, Subject: name}},
			undo: func() error { act("undo"); return nil }, commit: func() { act("commit") }}, nil
	}}
}

// failing returns one that fails.
func (s *stage) failing(name string, err error) part {
	return part{name: name, apply: func(context.Context, *plan.Plan) (effect, error) {
		s.acts = append(s.acts, "apply "+name)
		return effect{}, err
	}}
}

func optional(p part) part {
	p.optional = true
	return p
}

func TestTransact(t *testing.T) {
	failed := errors.New("failed")
	s := &stage{}
	bare := part{name: "bare", apply: func(context.Context, *plan.Plan) (effect, error) { return effect{}, nil }}
	for _, test := range []struct {
		name    string
		parts   []part
		acts    []string
		changed []string
		err     error
	}{
		{"all succeed", []part{s.part("a"), bare, s.part("b")},
			[]string{"apply a", "apply b", "commit a", "commit b"}, []string{"a", "b"}, nil},
		{"the last fails", []part{s.part("a"), bare, s.part("b"), s.failing("c", failed), s.part("d")},
			[]string{"apply a", "apply b", "apply c", "undo b", "undo a"}, nil, failed},
		{"the first fails", []part{s.failing("a", failed), s.part("b")}, []string{"apply a"}, nil, failed},
		{"an optional one fails", []part{s.part("a"), optional(s.failing("b", failed)), s.part("c")},
			[]string{"apply a", "apply b", "apply c", "commit a", "commit c"}, []string{"a", "c"}, nil},
		{"an optional one is undone, too", []part{optional(s.part("a")), s.failing("b", failed)},
			[]string{"apply a", "apply b", "undo a"}, nil, failed},
		{"a cycle", []part{{name: "a", needs: []string{"a"}}}, nil, nil, errOrder},
	} {
		t.Run(test.name, func(t *testing.T) {
			s.acts = nil
			changes, err := transact(t.Context(), test.parts, nil)
			var changed []string
			for _, c := range changes {
				changed = append(changed, c.Subject)
			}
			if !errors.Is(err, test.err) || !slices.Equal(s.acts, test.acts) || !slices.Equal(changed, test.changed) {
				t.Errorf("%q, changes %q, %v", s.acts, changed, err)
			}
		})
	}
}

// A part beside others is applied while they are, ends before what needs it begins, and is undone in its
// turn.
func TestTransactBeside(t *testing.T) {
	failed := errors.New("failed")
	for _, test := range []struct {
		name        string
		slow, other error // what both parts return
		acts        []string
	}{
		{"all succeed", nil, nil, []string{"apply other", "apply slow", "apply last", "commit slow", "commit other",
			"commit last"}},
		{"it fails", failed, nil, []string{"apply other", "apply slow", "undo other"}},
		{"another one fails", nil, failed, []string{"apply other", "apply slow", "undo slow"}},
		{"both fail", failed, failed, []string{"apply other", "apply slow"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &stage{}
			begun := make(chan struct{})
			with := func(name string, err error, apply func(apply func())) part {
				p := s.part(name)
				done := p.apply
				p.apply = func(ctx context.Context, in *plan.Plan) (e effect, _ error) {
					apply(func() { e, _ = done(ctx, in) })
					if err != nil {
						return effect{}, err
					}
					return e, nil
				}
				return p
			}
			slow := with("slow", test.slow, func(apply func()) { <-begun; apply() }) // it waits for the other one
			slow.beside = true
			other := with("other", test.other, func(apply func()) { apply(); close(begun) })
			last := s.part("last")
			last.needs = []string{"slow"}
			_, err := transact(t.Context(), []part{slow, other, last}, nil)
			if wrong := test.slow != nil || test.other != nil; errors.Is(err, failed) != wrong ||
				!slices.Equal(s.acts, test.acts) {
				t.Errorf("%q, want %q; %v", s.acts, test.acts, err)
			}
		})
	}
}

// An undo that fails is told besides the failure, and the others are undone all the same.
func TestTransactThatCannotGoBack(t *testing.T) {
	failed, stuck := errors.New("failed"), errors.New("stuck")
	s := &stage{}
	stays := part{name: "stays", apply: func(context.Context, *plan.Plan) (effect, error) {
		return effect{undo: func() error { return stuck }}, nil
	}}
	_, err := transact(t.Context(), []part{s.part("a"), stays, s.part("b"), s.failing("c", failed)}, nil)
	if !errors.Is(err, failed) || !errors.Is(err, stuck) {
		t.Errorf("%v", err)
	}
	if want := []string{"apply a", "apply b", "apply c", "undo b", "undo a"}; !slices.Equal(s.acts, want) {
		t.Errorf("%q, want %q", s.acts, want)
	}
}

// Parts get the plan that is to be in force.
func TestTransactGivesThePlan(t *testing.T) {
	p := &plan.Plan{}
	_, err := transact(t.Context(), []part{{name: "a",
		apply: func(_ context.Context, got *plan.Plan) (effect, error) {
			if got != p {
				t.Errorf("%p, want %p", got, p)
			}
			return effect{}, nil
		}}}, p)
	if err != nil {
		t.Error(err)
	}
}

// A desired part is set, and goes back to what it was.
func TestDesired(t *testing.T) {
	var sets []string
	var failure error
	cleared := 0
	d := desired[string]{
		set: func(want string) ([]mesh.Change, error) {
			sets = append(sets, want)
			return []mesh.Change{{Subject: want}}, failure
		},
		clear: func() error { cleared++; return nil },
	}
	apply := func(want string) (undo func() error) {
		t.Helper()
		e, err := d.apply(want)
		if err != nil || len(e.changes) != 1 || e.changes[0].Subject != want {
			t.Errorf("%s: %+v, %v", want, e, err)
		}
		return e.undo
	}
	is := func(when, have string, clears int, want ...string) {
		t.Helper()
		if !slices.Equal(sets, want) || cleared != clears {
			t.Errorf("%s: set %q, cleared %d times, want %q, %d", when, sets, cleared, want, clears)
		}
		if got := d.have; (got == nil) != (have == "") || got != nil && *got != have {
			t.Errorf("%s: it has %v, want %q", when, got, have)
		}
		sets = nil
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	undo := apply("one")
	is("at first", "one", 0, "one")
	must(undo())
	is("the first is undone", "", 1)
	apply("one")
	undo = apply("two")
	is("another", "two", 1, "one", "two")
	must(undo())
	is("back", "one", 1, "one")

	failure = errors.New("refused")
	if _, err := d.apply("three"); !errors.Is(err, failure) {
		t.Errorf("%v", err)
	}
	is("half done, and set back", "one", 1, "three", "one")
}

// What has never been set is cleared after a failure, where it can be, and else stays.
func TestDesiredThatFailsAtFirst(t *testing.T) {
	failure, stuck := errors.New("refused"), errors.New("stuck")
	set := func(string) ([]mesh.Change, error) { return nil, failure }
	for _, test := range []struct {
		name  string
		clear func() error
		want  []error
	}{
		{"it may stay", nil, []error{failure}},
		{"it is cleared", func() error { return nil }, []error{failure}},
		{"it cannot be cleared", func() error { return stuck }, []error{failure, stuck}},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := desired[string]{set: set, clear: test.clear}
			_, err := d.apply("one")
			for _, want := range test.want {
				if !errors.Is(err, want) {
					t.Errorf("%v, without %v", err, want)
				}
			}
			if d.have != nil {
				t.Errorf("it has %q", *d.have)
			}
		})
	}
}
