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
	lastGood   time.Time       // when the last good file came into force that is again; zero: another is
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
	p.current.Store(&view{config: c, reload: words.Reload(now(), now(), nil, nil), // it was loaded
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
		next := view{config: first.Config, plan: first, generation: 1, applied: at,
			reload: words.Reload(began, at, nil, nil)}
		if !v.lastGood.IsZero() { // the file on disk is still what it was
			next.lastGood, next.rejected, next.reload = v.lastGood, v.rejected, v.reload
		}
		*v = next
	})
}

// useLastGood notes that the last good file, which came into force at a time, is in the place of a bad
// one.
func (p *published) useLastGood(bad error, since time.Time) {
	p.change(func(v *view) {
		v.lastGood, v.reload = since, words.Reload(now(), now(), nil, bad)
		v.rejected = v.rejection(result{outcome: faultyFile, err: bad})
	})
}

// again notes that the next attempt at what a kind is about comes later.
func (p *published) again(kind mesh.Kind, pause time.Duration) {
	p.change(func(v *view) {
		if v.rejected != nil && v.rejected.Kind == kind {
			later := *v.rejected
			later.Again, v.rejected, v.reload.RetrySeconds = pause, &later, pause.Seconds()
		}
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
	reload := words.Reload(began, at, res.changes, err)
	reload.Pending, reload.RetrySeconds = res.again > 0, res.again.Seconds()
	p.change(func(v *view) {
		v.reload = reload
		v.reload.Changes, v.reload.Details = words.Changes(res.changes, changesKept)
		v.reload.More = len(res.changes) - len(v.reload.Details)
		v.rejected = v.rejection(res)
		if res.outcome == applied && v.config != res.plan.Config {
			if v.config.Sum != res.plan.Config.Sum || len(res.changes) > 0 {
				v.generation++
				v.applied = at
			}
		}
		if res.outcome == applied {
			v.plan, v.config, v.notes, v.lastGood = res.plan, res.plan.Config, nil, time.Time{}
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
func (v view) rejection(res result) *mesh.Condition {
	if res.err == nil {
		return nil
	}
	c := mesh.Condition{Severity: mesh.Degraded, Cause: res.err.Error(), Again: res.again}
	switch {
	case res.outcome == unread:
		c.Kind = mesh.FileUnread
	case res.outcome != faultyFile:
		c.Kind = mesh.ReloadPending
	case errors.Is(res.err, plan.ErrRestart):
		c.Kind, c.Remedy = mesh.FileRejected, "run `systemctl restart meshd`, or take the change back"
	case v.lastGood.IsZero():
		c.Kind, c.Remedy = mesh.FileRejected, "correct and save the file: meshd reads it by itself"
	default:
		c.Kind, c.Remedy = mesh.LastGoodFile, "correct and save the file: meshd reads it by itself"
		c.Subject = v.lastGood.Format(time.RFC3339)
	}
	return &c
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
