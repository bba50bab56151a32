package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/plan"
)

// A part is one piece of this host that a plan brings to a state. Parts are put in order by what
// they need; together they are a transaction: all of them, or none.
type part struct {
	name     string
	needs    []string // parts that come before, as far as they are there
	optional bool     // the plan is put in force without it; the part itself tells why it failed
	// apply brings the part to what a plan says. After an error nothing of it stays.
	apply func(ctx context.Context, p *plan.Plan) (effect, error)
}

// An effect is what applying a part has led to.
type effect struct {
	changes []mesh.Change // what somebody else had damaged, and is restored
	undo    func() error  // goes back; nil: there is nothing to go back from
	commit  func()        // comes when all parts have been applied; may be nil
}

// errOrder marks parts that need each other.
var errOrder = errors.New("parts need each other")

// inOrder returns parts so that each comes after those it needs, and else in the order given.
func inOrder(parts []part) (ordered []part, err error) {
	left, there := slices.Clone(parts), map[string]bool{}
	for _, p := range parts {
		there[p.name] = true
	}
	done := map[string]bool{}
	for len(left) > 0 {
		next := slices.IndexFunc(left, func(p part) bool {
			return !slices.ContainsFunc(p.needs, func(n string) bool { return there[n] && !done[n] })
		})
		if next < 0 {
			return nil, fmt.Errorf("%w: %q and others", errOrder, left[0].name)
		}
		ordered, done[left[next].name] = append(ordered, left[next]), true
		left = slices.Delete(left, next, next+1)
	}
	return ordered, nil
}

// transact applies all parts in order, or none. It returns what had been damaged.
func transact(ctx context.Context, parts []part, p *plan.Plan) (changes []mesh.Change, err error) {
	parts, err = inOrder(parts)
	if err != nil {
		return nil, err
	}
	var done []effect
	var names []string
	for _, one := range parts {
		e, err := one.apply(ctx, p)
		if err != nil && one.optional {
			continue
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", one.name, err)
			for i, e := range slices.Backward(done) {
				if e.undo == nil {
					continue
				}
				if undoErr := e.undo(); undoErr != nil {
					err = errors.Join(err, fmt.Errorf("undo %q: %w", names[i], undoErr))
				}
			}
			return nil, err
		}
		done, names, changes = append(done, e), append(names, one.name), append(changes, e.changes...)
	}
	for _, e := range done {
		if e.commit != nil {
			e.commit()
		}
	}
	return changes, nil
}

// desired is a part that one call brings to a state, whatever it was before.
type desired[T any] struct {
	set   func(T) ([]mesh.Change, error)
	clear func() error // undoes the first set; nil: what was set may stay
	have  *T           // nil: set has not succeeded yet
}

func (d *desired[T]) apply(want T) (effect, error) {
	had := d.have
	back := func() error {
		d.have = had
		switch {
		case had != nil:
			_, err := d.set(*had)
			return err
		case d.clear != nil:
			return d.clear()
		}
		return nil
	}
	changes, err := d.set(want)
	if err != nil { // it may be half done
		return effect{}, errors.Join(err, back())
	}
	d.have = &want
	return effect{changes: changes, undo: back}, nil
}
