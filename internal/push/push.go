// Package push gives one file to many hosts, so that a file that cuts some of them off comes back by itself:
//
//	plan     on every host, side by side          one refuses: nothing is changed anywhere
//	ask      once, for all of them
//	apply    canaries first, each with a deadline  (package apply)
//	verify   every host sees its peers as before   else: go back, or wait until they do by themselves
//	confirm  all of them
//
// Each call is a connection of its own, so that the way to a host may be the mesh that is changed.
package push

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"example.org/meshd/internal/control"
)

// A Host is a meshd somewhere. Errors have ErrUnreachable in them if it is not known what came of a call.
// Calls may be made by many goroutines at once, and return soon after their context.
type Host interface {
	Name() string
	Status(ctx context.Context) (control.Status, error)
	Plan(ctx context.Context, doc []byte) (control.Plan, error)
	// Apply puts a file in force until it is confirmed within a time. To ask for the same again does no harm.
	Apply(ctx context.Context, doc []byte, wait time.Duration) error
	Confirm(ctx context.Context, sha256 string) error
	// Rollback takes the change back that waits and has a hash; nothing else.
	Rollback(ctx context.Context, sha256 string) error
}

// Reasons why a file is not in force on all hosts; test with errors.Is.
var (
	ErrUnreachable = errors.New("cannot be reached")
	ErrRefused     = errors.New("nothing was changed: a host refuses the file")
	ErrMissing     = errors.New("nothing was changed: not all hosts can be reached")
	ErrDeclined    = errors.New("nothing was changed: it was not wanted")
	ErrTakenBack   = errors.New("the file was taken back")
	ErrSplit       = errors.New("not all hosts have confirmed: some may have gone back")
)

// Steps of a push, and how they end on a host.
const (
	StepPlan    = "plan"
	StepApply   = "apply"
	StepVerify  = "verify"
	StepConfirm = "confirm"
	StepBack    = "back"

	StateOK          = "ok"
	StateUnchanged   = "unchanged" // the host has the file already
	StateRefused     = "refused"
	StateUnreachable = "unreachable"
	StateFailed      = "failed"
)

// News is how one step has ended on one host.
type News struct {
	Host    string   `json:"host"`
	Step    string   `json:"step"`
	State   string   `json:"state"`
	Text    string   `json:"text" text:"lines"` // why, for people; empty if there is nothing to say
	Changes []string `json:"changes,omitempty"` // of a plan
}

// A Push is one file for some hosts.
type Push struct {
	Hosts  []Host
	Doc    []byte
	SHA256 string        // of Doc
	Wait   time.Duration // within which a change must be confirmed
	Canary int           // so many hosts come first; 0: none
	All    bool          // a host that cannot be reached stops the push
	// Ask returns whether to go on, once all plans are known.
	Ask func(changing, unchanged, unreachable int) bool
	// Tell hears how steps have ended, one call at a time.
	Tell func(News)

	telling sync.Mutex
}

// A target is a host that takes part.
type target struct {
	Host
	before control.Status // as it was when it was planned
	has    bool           // the file is in force already
	base   time.Time      // by the host's clock: what peers told before says nothing of the file
	after  control.Status
	last   error // why it is not well, or was not reached, the last time
}

// asking is how long one question may take, with its connection.
const asking = 15 * time.Second

// Run pushes the file. After an error that has none of ErrTakenBack and ErrSplit in it, no host has changed.
// If ctx ends before all hosts are verified, all of them go back.
func (p *Push) Run(ctx context.Context) error {
	targets, err := p.plan(ctx)
	if err != nil {
		return err
	}
	var changing []*target
	for _, t := range targets {
		if !t.has {
			changing = append(changing, t)
		}
	}
	if len(changing) == 0 {
		return nil
	}
	if !p.Ask(len(changing), len(targets)-len(changing), len(p.Hosts)-len(targets)) || ctx.Err() != nil {
		return ErrDeclined
	}
	// What is in force until then is confirmed in the last quarter.
	began := time.Now()
	verified, cancel := context.WithDeadline(ctx, began.Add(p.Wait*3/4))
	defer cancel()
	first := min(p.Canary, len(changing))
	for done := 0; done < len(changing) && err == nil; {
		next := len(changing)
		if done < first {
			next = first
		}
		if err = p.apply(verified, changing[done:next]); err == nil {
			err = p.verify(verified, targets, changing[:next], next == len(changing))
		}
		done = next
	}
	if err != nil {
		return p.back(context.WithoutCancel(ctx), changing, began.Add(p.Wait), err)
	}
	// Once the first host keeps the file all others shall, whatever ends ctx.
	confirmed, cancel := context.WithDeadline(context.WithoutCancel(ctx), began.Add(p.Wait))
	defer cancel()
	return p.confirm(confirmed, changing)
}

// tell passes news on.
func (p *Push) tell(n News) {
	p.telling.Lock()
	defer p.telling.Unlock()
	p.Tell(n)
}

// told passes on how a step has ended for a host.
func (p *Push) told(host Host, step string, err error) {
	n := News{Host: host.Name(), Step: step, State: StateOK}
	switch {
	case errors.Is(err, ErrUnreachable):
		n.State, n.Text = StateUnreachable, err.Error()
	case err != nil:
		n.State, n.Text = StateFailed, err.Error()
	}
	p.tell(n)
}

// mostAtOnce bounds the connections at a time.
const mostAtOnce = 32

// each calls f for each of some hosts, side by side, and waits for all.
func each[T any](all []T, f func(i int, one T)) {
	var group sync.WaitGroup
	slots := make(chan struct{}, mostAtOnce)
	for i, one := range all {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			f(i, one)
		})
	}
	group.Wait()
}

// plan asks each host what the file would change. It returns those that take part.
func (p *Push) plan(ctx context.Context) (targets []*target, err error) {
	all, errs := make([]*target, len(p.Hosts)), make([]error, len(p.Hosts))
	each(p.Hosts, func(i int, h Host) {
		all[i], errs[i] = p.planOne(ctx, h)
	})
	refused, missing := 0, 0
	for i, err := range errs {
		switch {
		case err == nil:
			targets = append(targets, all[i])
		case errors.Is(err, ErrUnreachable):
			missing++
		default:
			refused++
		}
	}
	switch {
	case refused > 0:
		return nil, ErrRefused
	case missing > 0 && p.All, len(targets) == 0:
		return nil, ErrMissing
	}
	return targets, nil
}

// planOne asks one host, and tells what it says.
func (p *Push) planOne(ctx context.Context, h Host) (*target, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*asking)
	defer cancel()
	t := &target{Host: h}
	news := News{Host: h.Name(), Step: StepPlan, State: StateOK}
	var plan control.Plan
	err := again(ctx, func(ctx context.Context) (err error) {
		if t.before, err = h.Status(ctx); err == nil {
			plan, err = h.Plan(ctx, p.Doc)
		}
		return err
	})
	if w := t.before.Config.Pending; err == nil && w != nil {
		err = fmt.Errorf("a change of %s waits for its confirmation there", w.By)
	}
	t.has = err == nil && t.before.Config.SHA256 == p.SHA256
	switch {
	case errors.Is(err, ErrUnreachable):
		news.State, news.Text = StateUnreachable, err.Error()
	case err != nil:
		news.State, news.Text = StateRefused, err.Error()
	case t.has:
		news.State = StateUnchanged
	default:
		news.Changes = plan.Changes
	}
	p.tell(news)
	return t, err
}

// pause is the time between two attempts to reach a host.
const pause = time.Second

// again calls f, and once more if the host was not reached: connections through a mesh that changes may
// break.
func again(ctx context.Context, f func(context.Context) error) error {
	err := f(ctx)
	if !errors.Is(err, ErrUnreachable) {
		return err
	}
	select {
	case <-ctx.Done():
		return err
	case <-time.After(pause):
		return f(ctx)
	}
}

// apply puts the file in force on some hosts. That a host cannot be reached any more is no failure yet: its
// answer may have been lost, and verify finds out.
func (p *Push) apply(ctx context.Context, some []*target) error {
	errs := make([]error, len(some))
	each(some, func(i int, t *target) {
		ctx, cancel := context.WithTimeout(ctx, 2*asking)
		defer cancel()
		err := again(ctx, func(ctx context.Context) error { return t.Apply(ctx, p.Doc, p.Wait) })
		p.told(t, StepApply, err)
		if !errors.Is(err, ErrUnreachable) {
			errs[i] = err
		}
	})
	return errors.Join(errs...)
}

// confirm has all hosts keep the file. Each is asked until it answers.
func (p *Push) confirm(ctx context.Context, all []*target) error {
	errs := make([]error, len(all))
	each(all, func(i int, t *target) {
		errs[i] = until(ctx, func(ctx context.Context) error { return t.Confirm(ctx, p.SHA256) })
		if errs[i] != nil { // the answer of an earlier attempt may have been lost
			if s, err := t.Status(ctx); err == nil && s.Config.SHA256 == p.SHA256 && s.Config.Pending == nil {
				errs[i] = nil
			}
		}
		p.told(t, StepConfirm, errs[i])
	})
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", ErrSplit, err)
	}
	return nil
}

// until calls f until the host is reached, or ctx has ended.
func until(ctx context.Context, f func(context.Context) error) error {
	for {
		one, cancel := context.WithTimeout(ctx, asking)
		err := f(one)
		cancel()
		if !errors.Is(err, ErrUnreachable) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}
