package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/plan"
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

// patience is how long a file may be empty or missing before that is taken for an edit.
const patience = time.Second

// missing stands for the hash of a file that cannot be read.
const missing = "missing"

// reloadIfChanged applies the file if it has another content than the one that was tried last. A
// save in place shows an empty file for a moment, and others none at all: such a file is believed
// only when it is so some time later, too.
func (r *reconciler) reloadIfChanged(ctx context.Context, patient bool) {
	r.again = nil
	hash, err := r.hash()
	switch {
	case err == nil && hash == r.tried:
	case err != nil && r.tried == missing:
	case !patient && (err != nil || hash == config.EmptyHash):
		r.again = time.After(patience)
		r.log.Info("the file is empty or missing: looking again", "in", patience, "event", "file_missing")
	default:
		r.reload(ctx, "the file changed")
	}
}

// reload reads the file and puts it in force.
func (r *reconciler) reload(ctx context.Context, cause string) control.ReloadResult {
	began := now()
	if r.view.now().plan != nil {
		r.service.Reloading("reading the file")
		defer r.service.Ready()
	}
	res := r.readAndAttempt(ctx)
	before := r.view.now()
	switch r.wait = nothing; {
	case res.outcome == applied:
		r.backoff.Reset()
	case res.outcome == waiting, res.outcome == faultyHost && !res.touched:
		r.wait = otherHost
		r.tryAgain()
	case res.outcome == faultyHost:
		r.wait = later
		r.tryAgain()
	}
	answer := r.view.reloaded(res, began)
	r.sayReloaded(cause, began, before, res, answer)
	return answer
}

// readAndAttempt loads the file and puts it in force. While there is no plan yet, the file is the
// one to wait with from now on.
func (r *reconciler) readAndAttempt(ctx context.Context) result {
	hash, err := r.hash()
	if err != nil {
		hash = missing
	}
	r.tried = hash
	c, err := r.read(r.loaded)
	if err != nil {
		return result{outcome: faultyFile, err: err}
	}
	r.loaded = c
	if r.view.now().plan != nil {
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
	case res.err != nil:
		r.log.Error("reload rejected: the file in force stays", "cause", cause, "generation", answer.Generation,
			"error", res.err, "event", "reload_rejected")
	default:
		r.warn(before.conditions(), res.plan.Conditions)
		r.log.Info("reloaded", "cause", cause, "generation", answer.Generation,
			"duration", time.Since(began).Round(time.Millisecond),
			"changes", spoken(res.changes), "peers", len(res.plan.Engine.Mesh.Peers)-1, "event", "reloaded")
	}
}

// spoken writes the first of some changes on one line, and how many there are besides.
func spoken(changes []mesh.Change) string {
	var said []string
	for _, c := range changes[:min(len(changes), changesLogged)] {
		said = append(said, c.String())
	}
	if more := len(changes) - changesLogged; more > 0 {
		said = append(said, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(said, "; ")
}

// ask reloads the file, through the one goroutine that changes this host, and returns the outcome. It
// answers POST /v1/reload.
func (r *reconciler) ask(ctx context.Context, cause string) (control.ReloadResult, error) {
	request := reloadRequest{cause: cause, reply: make(chan control.ReloadResult, 1)}
	select {
	case r.asked <- request:
	case <-ctx.Done():
		return control.ReloadResult{}, fmt.Errorf("meshd does not read files now: %w", ctx.Err())
	}
	return <-request.reply, nil
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
	return control.Plan{
		Schema: control.Schema, Generation: v.generation, Changes: sentences, Details: details,
	}, nil, nil
}
