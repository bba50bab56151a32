package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/passing"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/source"
	"example.org/meshd/internal/words"
)

// How many of the changes of a reload a log line and the status name; the answer to who asked for
// it names all.
const (
	changesLogged = 10
	changesKept   = 100
)

// causeHost is the cause of a reload that nobody asked for.
const causeHost = "this host has changed"

// newest returns a reading, or the latest one if that is newer: who asked for a reload may have read
// the file before somebody edited it. What was applied in the place of the file's text stays there.
func (r *reconciler) newest(one source.Reading) source.Reading {
	if one.Order >= r.latest.Order {
		r.latest = one
	}
	return r.see(r.latest)
}

// reloadIfChanged applies the file if something else was read than was tried last.
func (r *reconciler) reloadIfChanged(ctx context.Context, one source.Reading) {
	if one = r.newest(one); one.Identity() != r.tried {
		r.reload(ctx, "the file changed", one)
	} else if one.Again > 0 {
		r.view.again(mesh.FileUnread, one.Again)
	}
}

// do answers a request. A text that was put in force since somebody asked, because the kernel told of the
// edit, is not applied once more.
func (r *reconciler) do(ctx context.Context, request reloadRequest) control.ReloadResult {
	if request.put {
		return r.reload(ctx, request.cause, request.reading)
	}
	one := r.newest(request.reading)
	if r.last.text == one.Identity() && r.last.began.After(request.at) && r.last.answer.Reload.OK {
		return r.last.answer
	}
	return r.reload(ctx, request.cause, one)
}

// reload puts what was read in force.
func (r *reconciler) reload(ctx context.Context, cause string, one source.Reading) control.ReloadResult {
	began := now()
	defer collectLater()() // who asked does not wait for it
	if r.view.now().plan != nil {
		r.service.Reloading("applying the file")
		defer r.service.Ready()
	}
	res := r.parseAndAttempt(ctx, one)
	before := r.view.now()
	switch r.wait = nothing; {
	case res.outcome == applied:
		r.backoff.Reset()
	case errors.Is(res.err, plan.ErrKey): // `meshd key` may mend that
		r.wait = otherHost
	case res.outcome == unread:
		res.again = one.Again
	case res.outcome == waiting, res.outcome == faultyHost && !res.touched:
		r.wait = otherHost
		res.again = r.tryAgain()
	case res.outcome == faultyHost:
		r.wait = later
		res.again = r.tryAgain()
	}
	answer := r.view.reloaded(res, began)
	r.sayReloaded(cause, began, before, res, answer)
	r.names.Follow(r.view.now().config) // a rejected file's names are forgotten
	if res.outcome == applied && res.plan != nil {
		r.accepted(res.plan.Config)
	}
	r.last = reloaded{one.Identity(), began, answer}
	return answer
}

// parseAndAttempt puts the file in force as it was read. While there is no plan yet, the file is the
// one to wait with from now on.
func (r *reconciler) parseAndAttempt(ctx context.Context, one source.Reading) result {
	r.tried = one.Identity()
	if one.Err != nil && passing.Is(one.Err) {
		return result{outcome: unread, err: one.Err}
	}
	c, err := r.parse(r.loaded, one)
	if err != nil {
		return result{outcome: faultyFile, err: err}
	}
	r.loaded = c
	if r.view.now().plan != nil {
		r.names.Await(ctx, c)
		return r.attempt(ctx, c)
	}
	if err := r.begin(ctx); errors.Is(err, ErrConfig) {
		return result{outcome: faultyFile, err: err}
	} else if err != nil {
		return result{outcome: faultyHost, touched: true, err: err}
	}
	if v := r.view.now(); v.plan == nil {
		return result{outcome: waiting}
	}
	return result{plan: r.view.now().plan}
}

func (r *reconciler) sayReloaded(
	cause string, began time.Time, before view, res result, answer control.ReloadResult,
) {
	switch {
	case res.outcome == waiting && before.plan == nil:
		r.log.Info("the file is good: waiting for an address of this node", "cause", cause, "event", "reloaded")
	case res.err != nil && cause == causeHost && before.reload.Error == answer.Reload.Error: // it was said
	case res.again > 0:
		r.log.Warn("reload waits: the file in force stays", "cause", cause, "generation", answer.Generation,
			"error", res.err, "in", res.again, "event", "reload_pending")
	case res.err != nil:
		r.log.Error("reload rejected: the file in force stays", "cause", cause, "generation", answer.Generation,
			"error", res.err, "event", "reload_rejected")
	default:
		r.warn(before.conditions(), res.plan.Conditions)
		r.log.Info("reloaded", "cause", cause, "generation", answer.Generation,
			"duration", time.Since(began).Round(time.Millisecond),
			"changes", words.Spoken(res.changes, changesLogged), "peers", len(res.plan.Engine.Mesh.Peers)-1,
			"event", "reloaded")
	}
}

// ask reads the file in the caller's goroutine, has it applied by the one goroutine that changes this
// host, and returns the outcome. It answers POST /v1/reload.
func (r *reconciler) ask(ctx context.Context, cause string) (control.ReloadResult, error) {
	request := reloadRequest{at: now(), cause: cause}
	request.reading = r.read(ctx)
	return r.request(ctx, request)
}

// request has the one goroutine that changes this host do so.
func (r *reconciler) request(ctx context.Context, request reloadRequest) (control.ReloadResult, error) {
	request.reply = make(chan control.ReloadResult, 1)
	select {
	case r.asked <- request:
	case <-ctx.Done():
		return control.ReloadResult{}, fmt.Errorf("meshd does not apply files now: %w", ctx.Err())
	}
	return <-request.reply, nil
}

// put has a text applied in the place of what the file has, and returns the outcome.
func (r *reconciler) put(ctx context.Context, cause string, doc []byte) (control.ReloadResult, error) {
	return r.request(ctx, reloadRequest{cause: cause, reading: source.Holding(doc), put: true})
}

// take hands over what was read, whether or not it is news.
func (r *reconciler) take(ctx context.Context, one source.Reading) {
	select {
	case r.file <- one:
	case <-ctx.Done():
	}
}

// obey reloads the file at each signal.
func (r *reconciler) obey(ctx context.Context, reloads <-chan os.Signal) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-reloads:
			_, _ = r.ask(ctx, "SIGHUP") // the outcome is logged
		}
	}
}

// errNothingYet is why there is nothing to tell.
var errNothingYet = errors.New("nothing is forwarded yet")

// plans tells what applying a file with the given content would change, and changes nothing. path is
// only for the words of faults. The work ends with ctx. It answers POST /v1/plan.
func (r *reconciler) plans(
	ctx context.Context, path string, doc []byte,
) (control.Plan, []control.Error, error) {
	c, err := config.ParseContext(ctx, path, doc)
	if err != nil {
		return control.Plan{}, faultsOf(err), err
	}
	self, host, err := r.observe(c)
	if err != nil {
		return control.Plan{}, nil, err
	}
	next, err := plan.Make(c, self, host)
	if err != nil {
		return control.Plan{}, nil, err
	}
	v := r.view.now()
	if v.plan == nil {
		return control.Plan{}, nil, fmt.Errorf("%w, so there is nothing to compare with", errNothingYet)
	}
	if err := plan.NeedsRestart(v.plan, next); err != nil {
		return control.Plan{}, faultsOf(err), err
	}
	if err := r.fits(next); err != nil {
		return control.Plan{}, nil, err
	}
	sentences, details := words.Changes(plan.Changes(v.plan, next), -1)
	return control.Plan{Schema: control.Schema, Generation: v.generation, Changes: sentences, Details: details,
		Warnings: words.Problems(plan.Warnings(v.plan, next, r.told(), time.Now()))}, nil, nil
}
