package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"example.org/meshd/internal/backoff"
	"example.org/meshd/internal/begin"
	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/rate"
	"example.org/meshd/internal/seal"
	"example.org/meshd/internal/source"
	"example.org/meshd/internal/survey"
	"example.org/meshd/internal/words"
)

// An outcome is how an attempt to bring this host to what a file asks for has ended.
type outcome uint8

const (
	applied    outcome = iota // the plan is in force
	waiting                   // the file is good, but no node of it has an address of this host yet
	faultyFile                // the file asks for what cannot be; final until it changes
	faultyHost                // the host refuses; tried again
	unread                    // the file could not be read for a reason that passes; it is read again
)

// A result is what an attempt has led to.
type result struct {
	outcome outcome
	plan    *plan.Plan    // what was to be in force; nil if it did not come that far
	changes []mesh.Change // between the plan before and this one, if both are there
	mended  []mesh.Change // what others had damaged
	touched bool          // parts of the host were changed, and changed back if the attempt failed
	err     error         // nil if applied
	again   time.Duration // when meshd tries again; 0: not by itself
}

// A reconciler keeps this host as the file and its surroundings ask for. One goroutine, Run, changes
// the host, whatever asks for a change:
//
//	file     it was read, and may have another content
//	asked    SIGHUP or the control socket wants it applied now
//	news     interfaces, addresses, routes or packet loops have changed
//	retry    the last attempt failed for a reason of the host, and it is time for the next
//
// All of them lead to attempt. What it knows is published in view, for whoever tells of it.
type reconciler struct {
	log  *slog.Logger
	path string // of the file that people edit, even while the last good one is in its place
	read func(context.Context) source.Reading
	// see returns what takes the place of what the file has.
	see     func(source.Reading) source.Reading
	parse   func(old *config.Config, one source.Reading) (*config.Config, error) // old: the one before
	observe func(*config.Config) (self int, host plan.Host, err error)
	fits    func(*plan.Plan) error // whether the host's own routes leave room
	parts   func(step) []part
	told    func() seal.Told
	taken   func() int // how often another program has taken the TUN away
	service service
	names   nameKeeper
	view    *published

	file  chan source.Reading
	news  chan struct{}
	asked chan reloadRequest
	pulse chan struct{} // somebody wants to know that Run is well

	started  func()               // hears that the first attempts are over
	accepted func(*config.Config) // hears of each file that comes into force
	// instead returns the last good file in the place of a bad one; nil: it is in that place.
	instead func(context.Context, source.Reading, error) (begin.File, error)

	loaded  *config.Config // the good file that was read last; another than the plan's if it waits
	latest  source.Reading // of the file, good or bad
	tried   string         // identity of the reading that was tried last
	wait    pending        // why loaded is not in force
	last    reloaded
	retry   <-chan time.Time
	backoff backoff.Backoff
	repairs *rate.Repairs

	failures rate.Lines // about attempts that this host has refused
}

// pending tells what a good file that is not in force waits for.
type pending uint8

const (
	nothing   pending = iota
	otherHost         // for the host to be another: any news of it may help
	later             // for some time: the attempt itself is news of the host
)

// A service is told of reloads.
type service interface {
	Reloading(what string)
	Ready()
}

// A nameKeeper resolves the names of files.
type nameKeeper interface {
	Follow(*config.Config)
	Await(context.Context, *config.Config)
}

// reloadRequest asks for the file to be applied now, as it was read.
type reloadRequest struct {
	at      time.Time // of the request, before the file was read
	cause   string
	reading source.Reading
	put     bool // it takes the place of what the file has
	reply   chan control.ReloadResult
}

// reloaded is how the last reload has ended.
type reloaded struct {
	text   string // identity of what was read
	began  time.Time
	answer control.ReloadResult
}

// newReconciler returns the reconciler of a daemon that begins with a file. news tells that this host
// may have changed.
func newReconciler(o Options, first begin.File, v *published, h *host, names survey.Names, news chan struct{},
) *reconciler {
	r := &reconciler{
		log: o.Log, path: o.where().Full(), parse: o.where().Parse,
		observe: o.viewer(h.others, names.Known).Look,
		fits:    survey.FitsOthers, parts: h.parts, service: h.service, names: names, view: v,
		file: make(chan source.Reading), news: news,
		see:   func(one source.Reading) source.Reading { return one },
		asked: make(chan reloadRequest), started: func() {}, pulse: make(chan struct{}),
		loaded: first.Config, latest: first.Reading, tried: first.Reading.Identity(),
		repairs: rate.NewRepairs("interface, addresses and routes"),
	}
	h.again, r.taken, r.told = r.soon, h.device.Taken, func() seal.Told { return h.engine.Told() }
	return r
}

func (r *reconciler) String() string { return "reconciler" }

// Run implements task.Task. A first plan that the host refuses is an error, as is a file that cannot be;
// later, what cannot be applied changes nothing.
func (r *reconciler) Run(ctx context.Context) error {
	if err := r.start(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	news := r.news
	var rested <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case one := <-r.file:
			r.reloadIfChanged(ctx, one)
		case request := <-r.asked:
			request.reply <- r.do(ctx, request)
		case <-r.pulse:
		case <-news:
			began := time.Now()
			r.look(ctx)
			// A host with a million routes that come and go must not keep meshd busy.
			news, rested = nil, time.After(lookRest.After(time.Since(began)))
		case <-rested:
			news = r.news
		case <-r.retry:
			r.retry = nil
			if r.wait == later {
				r.wait = otherHost
			}
			r.look(ctx)
		}
	}
}

// lookRest bounds how often news of the host are looked at.
var lookRest = backoff.Rest{Share: 4, Most: 5 * time.Second}

// attempt brings this host to what a file asks for, if that is possible now. It is the one way:
// of the first plan, of reloads and of repairs.
func (r *reconciler) attempt(ctx context.Context, c *config.Config) result {
	self, host, err := r.observe(c)
	switch {
	case errors.Is(err, plan.ErrNotHere):
		return result{outcome: waiting, err: err}
	case errors.Is(err, plan.ErrIdentity):
		return result{outcome: faultyFile, err: err}
	case err != nil:
		return result{outcome: faultyHost, err: err}
	}
	next, err := plan.Make(c, self, host)
	if err != nil {
		return result{outcome: faultyFile, err: err}
	}
	old := r.view.now().plan
	s := step{old: old, next: next, reread: old == nil || old.Config != c}
	res := result{plan: next}
	if old != nil {
		if err := plan.NeedsRestart(old, next); err != nil {
			return result{outcome: faultyFile, err: err}
		}
		if err := r.fits(next); err != nil {
			return result{outcome: faultyHost, err: err}
		}
		res.changes = append(plan.Changes(old, next), plan.Ways(old, next)...)
	}
	res.touched = true
	if res.mended, res.err = transact(ctx, r.parts(s), next); res.err != nil {
		res.outcome = faultyHost
	}
	return res
}

// begin puts the first plan in force. An edge box may not have its address yet: then it waits.
func (r *reconciler) begin(ctx context.Context) error {
	began := now()
	r.names.Follow(r.loaded) // answers are news: neither the start nor a wait for an address waits for them
	res := r.attempt(ctx, r.loaded)
	switch res.outcome {
	case waiting:
		was := r.view.now()
		r.view.waiting(r.loaded, mesh.Condition{
			Kind: mesh.WaitingForUs, Severity: mesh.Failed, Subject: r.path, Cause: res.err.Error()})
		// Told once, though addresses come and go, and last: who reads it and asks for the status sees why.
		if !was.waits() || was.config != r.loaded {
			r.log.Warn("waiting for an address of this node", "file", r.path, "reason", res.err, "event", "waiting")
		}
		return nil
	case faultyFile:
		return fmt.Errorf("%w: %w", ErrConfig, res.err)
	case faultyHost:
		return res.err
	}
	r.backoff.Reset()
	r.wait = nothing // a file that was read while this host waited is the one in force
	p := res.plan
	r.view.began(p, began)
	r.accepted(p.Config)
	r.warn(nil, slices.Concat(p.Conditions, p.Forwarding.Conditions()))
	r.log.Info("forwarding", "node", p.Self.Name, "network", p.Config.Network.Name,
		"peers", len(p.Engine.Mesh.Peers)-1, "listening", words.Listening(p.Engine.Binds), "interface",
		p.Link.Interface,
		"mtu", p.Link.MTU, "event", "forwarding")
	r.service.Ready()
	return nil
}

// warn logs conditions that a plan has and the one before had not.
func (r *reconciler) warn(old, next []mesh.Condition) {
	had := map[mesh.Condition]bool{}
	for _, c := range old {
		had[c] = true
	}
	for _, c := range next {
		if !had[c] {
			r.log.Warn(words.Sentence(c), "kind", string(c.Kind), "remedy", words.Remedy(c), "event", "warning")
		}
	}
}

// look makes this host fit the plan again, after it changed or an attempt failed.
func (r *reconciler) look(ctx context.Context) {
	if r.view.now().plan == nil {
		if err := r.begin(ctx); err != nil {
			pause := r.tryAgain()
			r.view.waiting(r.loaded, mesh.Condition{Kind: mesh.CannotApply, Severity: mesh.Failed, Cause: err.Error(),
				Again: pause})
			r.failed("cannot begin: trying again", pause, err)
		}
		return
	}
	r.repair(ctx)
	switch {
	case r.wait == otherHost && r.couldBe(r.loaded):
		r.reload(ctx, causeHost, r.latest)
	case r.wait == otherHost && r.retry == nil:
		r.tryAgain()
	}
}

// couldBe tells whether this host might be what a file asks for, without trying.
func (r *reconciler) couldBe(c *config.Config) bool {
	self, host, err := r.observe(c)
	if err != nil {
		return false
	}
	next, err := plan.Make(c, self, host)
	return err == nil && r.fits(next) == nil
}

// tryAgain has look called after a time, and returns it.
func (r *reconciler) tryAgain() time.Duration {
	pause := r.backoff.Next()
	r.retry = time.After(pause)
	return pause
}

// repair makes the kernel match the plan in force after it changed without us, with a new plan where
// the surroundings ask for one: another underlay MTU, an address that moved.
func (r *reconciler) repair(ctx context.Context) {
	before, taken := r.view.now(), r.taken()
	res := r.attempt(ctx, before.plan.Config)
	unfit := !res.touched && res.err != nil // our own address is gone, perhaps for a moment only
	if cause := res.err; unfit {
		r.unfit(before, cause)
		res = r.keep(ctx, before.plan)
	} else if mesh.Has(before.notes, mesh.HostMismatch) {
		r.log.Info("this host fits the plan again", "event", "address_back")
	}
	if res.err != nil {
		pause := r.tryAgain()
		r.view.failed(mesh.Condition{Kind: mesh.CannotApply, Severity: mesh.Failed, Cause: res.err.Error(),
			Again: pause}, unfit)
		if r.taken() > taken { // so fast that no repair comes to its end
			r.repairs.Add(time.Now(), "interface "+before.plan.Link.Interface+" deleted", "")
		}
		r.failed("cannot repair: trying again", pause, res.err)
		return
	}
	if r.wait == nothing {
		r.backoff.Reset()
	}
	if len(res.mended) == 0 && slices.ContainsFunc(res.changes, plan.Moves) { // the work of DNS, and no damage
		r.view.repaired(res.plan, false, unfit)
		r.warn(before.plan.Conditions, res.plan.Conditions)
		r.log.Info("names have other addresses", "what", words.Spoken(res.changes, changesLogged), "event", "moved")
		return
	}
	all := append(res.changes, res.mended...)
	recovered := mesh.Has(before.notes, mesh.CannotApply) // going back from what failed has mended it
	r.view.repaired(res.plan, len(all) > 0 || recovered, unfit)
	r.warn(before.plan.Conditions, res.plan.Conditions)
	if len(all) > 0 || recovered {
		what := words.Spoken(all, changesLogged)
		if n := r.repairs.Add(time.Now(), what, ""); n > 0 {
			r.log.Warn("repaired after the host changed", "what", what, "count", n, "event", "repaired")
		}
	}
}

// failed logs that this host refuses a plan, which is tried again after a pause or when the host changes.
func (r *reconciler) failed(what string, pause time.Duration, err error) {
	if n := r.failures.Add(time.Now()); n > 0 {
		r.log.Error(what, "in", pause, "error", err, "count", n, "event", "repair_failed")
	}
}

// unfit tells that the plan in force stays though it could not be made now.
func (r *reconciler) unfit(before view, cause error) {
	if !mesh.Has(before.notes, mesh.HostMismatch) {
		r.log.Warn("this host no longer fits the plan in force: keeping the plan",
			"reason", cause, "event", "address_lost")
	}
	r.view.unfit(mesh.Condition{Kind: mesh.HostMismatch, Severity: mesh.Degraded, Cause: cause.Error(),
		Remedy: survey.Remedy(before.plan, cause)})
}

// keep applies the plan in force once more.
func (r *reconciler) keep(ctx context.Context, p *plan.Plan) result {
	res := result{plan: p, touched: true}
	if res.mended, res.err = transact(ctx, r.parts(step{old: p, next: p}), p); res.err != nil {
		res.outcome = faultyHost
	}
	return res
}

// alive returns nil once Run has given a sign of life.
func (r *reconciler) alive(ctx context.Context) error {
	select {
	case r.pulse <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("reloads and repairs hang: %w", ctx.Err())
	}
}

// soon has the host looked at again after a while. It belongs to Run's goroutine.
func (r *reconciler) soon() {
	if r.retry == nil {
		r.tryAgain()
	}
}

// wake rouses whoever waits for a channel of one element, once.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is awake already
	}
}
