package daemon

import (
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/words"
)

// A view is what the reconciler knows at one time. It is never changed once it is published.
type view struct {
	config     *config.Config  // in force, or waiting to be while there is no plan
	plan       *plan.Plan      // in force; nil until there is one
	generation int             // from 1, once there is a plan
	applied    time.Time       // when the generation came into force
	reload     control.Reload  // the last attempt to apply a file
	rejected   *mesh.Condition // why the file on disk is not in force; nil if it is
	repairs    uint64
	notes      []mesh.Condition // why nothing is forwarded, or not as it should be
}

// conditions returns those of the plan in force.
func (v view) conditions() []mesh.Condition {
	if v.plan == nil {
		return nil
	}
	return v.plan.Conditions
}

// waits tells whether this host waits for an address.
func (v view) waits() bool { return mesh.Has(v.notes, mesh.WaitingForUs) }

// published is the view that there is at the moment. Only the reconciler's goroutine changes it;
// now may be called from any.
type published struct{ current atomic.Pointer[view] }

// newPublished returns the view of a daemon that has loaded a file.
func newPublished(c *config.Config) *published {
	p := &published{}
	p.current.Store(&view{config: c, reload: reloadOf(now(), now(), nil, nil), // it was loaded
		notes: []mesh.Condition{{Kind: mesh.Starting, Severity: mesh.Failed}}})
	return p
}

func (p *published) now() view { return *p.current.Load() }

// change publishes the next view.
func (p *published) change(f func(v *view)) {
	next := p.now()
	f(&next)
	p.current.Store(&next)
}

// waiting notes why there is no plan yet for a file.
func (p *published) waiting(c *config.Config, why mesh.Condition) {
	p.change(func(v *view) { v.config, v.notes = c, []mesh.Condition{why} })
}

// began notes that the first plan is in force.
func (p *published) began(first *plan.Plan, began time.Time) {
	p.change(func(v *view) {
		at := now()
		*v = view{config: first.Config, plan: first, generation: 1, applied: at,
			reload: reloadOf(began, at, nil, nil)}
	})
}

// unfit notes that the plan in force stays, though this host does not fit it.
func (p *published) unfit(why mesh.Condition) {
	p.change(func(v *view) { v.notes = append(without(v.notes, mesh.HostMismatch), why) })
}

// failed notes that the host could not be repaired.
func (p *published) failed(why mesh.Condition, unfit bool) {
	p.change(func(v *view) {
		v.notes = append(without(v.notes, mesh.CannotApply), why)
		if !unfit {
			v.notes = without(v.notes, mesh.HostMismatch)
		}
	})
}

// repaired notes that the host is as the plan says; counts tells whether it was not.
func (p *published) repaired(next *plan.Plan, counts, unfit bool) {
	p.change(func(v *view) {
		v.plan, v.config = next, next.Config
		v.notes = without(v.notes, mesh.CannotApply)
		if !unfit {
			v.notes = without(v.notes, mesh.HostMismatch)
		}
		if counts {
			v.repairs++
		}
	})
}

func without(notes []mesh.Condition, kind mesh.Kind) []mesh.Condition {
	return slices.DeleteFunc(slices.Clone(notes), func(c mesh.Condition) bool { return c.Kind == kind })
}

// reloaded notes the outcome of an attempt to apply a file, and returns it with all changes.
func (p *published) reloaded(res result, began time.Time) control.ReloadResult {
	at, err := now(), res.err
	reload := reloadOf(began, at, res.changes, err)
	p.change(func(v *view) {
		v.reload = reload
		v.reload.Changes, v.reload.Details = words.Changes(res.changes, changesKept)
		v.reload.More = len(res.changes) - len(v.reload.Details)
		v.rejected = rejection(res)
		if res.outcome == applied && v.config != res.plan.Config {
			if v.config.Sum != res.plan.Config.Sum || len(res.changes) > 0 {
				v.generation++
				v.applied = at
			}
		}
		if res.outcome == applied {
			v.plan, v.config, v.notes = res.plan, res.plan.Config, nil
		}
	})
	// A good file that waits for this host is no success: the caller wants the file in force.
	if v := p.now(); v.plan == nil && err == nil {
		reload.OK, reload.Error = false, "the file is good, but "+firstOf(v.notes)
	}
	return control.ReloadResult{
		Schema: control.Schema, Generation: p.now().generation, Reload: reload, Faults: faultsOf(err),
	}
}

// rejection returns why a file is not in force, nil if it is or if it waits without a fault.
func rejection(res result) *mesh.Condition {
	switch {
	case res.err == nil:
		return nil
	case res.outcome == faultyFile:
		return &mesh.Condition{Kind: mesh.FileRejected, Severity: mesh.Degraded, Cause: res.err.Error(),
			Remedy: "correct and save the file: meshd reads it by itself"}
	}
	return &mesh.Condition{Kind: mesh.ReloadPending, Severity: mesh.Degraded, Cause: res.err.Error()}
}

// reloadOf returns the outcome of an attempt in the words of the API.
func reloadOf(began, at time.Time, changes []mesh.Change, err error) control.Reload {
	r := control.Reload{OK: err == nil, At: at, DurationMS: float64(time.Since(began).Microseconds()) / 1000,
		Changes: []string{}, Details: []control.Change{}}
	if err != nil {
		r.Error = err.Error()
		return r
	}
	r.Changes, r.Details = words.Changes(changes, -1)
	return r
}

// faultsOf returns the places in the file that an error is about.
func faultsOf(err error) []control.Error {
	faults, ok := errors.AsType[config.Faults](err)
	if !ok {
		return nil
	}
	var all []control.Error
	for _, f := range faults {
		all = append(all, control.Error{Code: "bad_configuration", Message: f.String(), File: f.Path, Line: f.Line})
	}
	return all
}
