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
	beside   bool     // other parts are applied meanwhile, but for those that need this one
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

// An applying is a part whose apply has begun. Its fields are to be read once ended is closed.
type applying struct {
	part
	effect
	err   error // nil for an optional part that failed: it has no effect
	ended chan struct{}
}

// begin begins to apply a part, and returns at once where other parts may be applied meanwhile.
func (one part) begin(ctx context.Context, p *plan.Plan) *applying {
	a := &applying{part: one, ended: make(chan struct{})}
	run := func() {
		defer close(a.ended)
		var err error
		if a.effect, err = one.apply(ctx, p); err != nil && !one.optional {
			a.err = fmt.Errorf("%s: %w", one.name, err)
		}
	}
	if one.beside {
		go run()
	} else {
		run()
	}
	return a
}

// transact applies all parts in order, or none. It returns what had been damaged.
func transact(ctx context.Context, parts []part, p *plan.Plan) (changes []mesh.Change, err error) {
	parts, err = inOrder(parts)
	if err != nil {
		return nil, err
	}
	var all []*applying
	failed := func(which func(*applying) bool) (err error) {
		for _, a := range all {
			if which(a) {
				<-a.ended
				err = errors.Join(err, a.err)
			}
		}
		return err
	}
	for _, one := range parts {
		// What a needed part needs has ended before that part began.
		needed := func(a *applying) bool { return !a.beside || slices.Contains(one.needs, a.name) }
		if failed(needed) != nil {
			break
		}
		all = append(all, one.begin(ctx, p))
	}
	if err := failed(func(*applying) bool { return true }); err != nil {
		return nil, errors.Join(err, goBack(all))
	}
	for _, a := range all {
		changes = append(changes, a.changes...)
	}
	for _, a := range all {
		if a.commit != nil {
			a.commit()
		}
	}
	return changes, nil
}

// goBack undoes what parts have led to, the last one first. All of them have ended.
func goBack(all []*applying) (err error) {
	for _, a := range slices.Backward(all) {
		if a.undo == nil {
			continue
		}
		if undoErr := a.undo(); undoErr != nil {
			err = errors.Join(err, fmt.Errorf("undo %q: %w", a.name, undoErr))
		}
	}
	return err
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
