package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/link"
)

// How long to wait after a repair that failed: at first, and at most.
const (
	retryFirst = 200 * time.Millisecond
	retryLast  = 10 * time.Second
)

// rest is how much longer than a look at the host the time before the next one is:
// one with a million routes, which come and go, must not keep meshd busy.
const rest = 4

// How many of the changes of a reload a log line and the status name; the answer to
// who asked for it names all.
const (
	changesLogged = 10
	changesKept   = 100
)

// follow puts a first plan in force and then keeps the mesh as the file and the
// host's surroundings ask for, until ctx ends. A first plan that cannot be put in
// force is an error; later, what cannot be applied changes nothing.
func (m *reconciler) follow(ctx context.Context) error {
	if err := m.begin(); err != nil {
		return err
	}
	news := m.kernel
	var rested <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.file:
			m.reloadIfChanged(false)
		case <-m.again:
			m.reloadIfChanged(true)
		case <-m.options.Reload:
			m.reload("SIGHUP")
		case r := <-m.asked:
			result := m.reload(r.cause)
			if r.reply != nil {
				r.reply <- result
			}
		case <-m.pulse:
		case <-news:
			began := time.Now()
			m.look(nil)
			news, rested = nil, time.After(rest*time.Since(began))
		case <-rested:
			news = m.kernel
		case err := <-m.broken:
			m.look(err)
		case <-m.retry:
			m.look(nil)
		}
	}
}

// look has the mesh fit the host again, which has changed. broken is why the packet
// loops have to be made anew, if they have.
func (m *reconciler) look(broken error) {
	m.retry = nil
	if m.plan != nil {
		m.repair(broken)
		m.catchUp()
		return
	}
	if err := m.begin(); err != nil {
		m.state.waiting("cannot begin, trying again: " + err.Error())
		m.log.Error("cannot begin, trying again", "in", m.later(), "error", err, "event", "repair_failed")
	}
}

// later has look called again, after a longer time each time in a row.
func (m *reconciler) later() time.Duration {
	m.pause = min(max(2*m.pause, retryFirst), retryLast)
	m.retry = time.After(m.pause)
	return m.pause
}

// catchUp reads a file again that was good, but not for this host as it was then,
// which had no address of a node. One that failed while it was put in force is not
// tried again: the attempt itself is news of the host, and would be the next cause.
func (m *reconciler) catchUp() {
	if !m.pending {
		return
	}
	next, err := planOf(m.options)
	if err == nil {
		err = feasible(m.plan, next)
	}
	if err == nil {
		m.reload(causeHost)
	}
	if m.pending && m.retry == nil {
		m.retry = time.After(retryLast)
	}
}

// causeHost is the cause of a reload that nobody asked for.
const causeHost = "this host has changed"

// reloadIfChanged applies the file if it has another content than the one that
// was tried last. A save in place shows an empty file for a moment, and others
// none at all: such a file is believed only when it is so some time later, too.
func (m *reconciler) reloadIfChanged(patient bool) {
	m.again = nil
	hash, err := config.Hash(m.options.ConfigPath)
	switch {
	case err == nil && hash == m.tried:
	case err != nil && m.tried == missing:
	case !patient && (err != nil || hash == config.EmptyHash):
		m.again = time.After(patience)
		m.log.Info("the file is empty or missing: looking again", "in", patience, "event", "file_missing")
	default:
		m.reload("the file changed")
	}
}

// patience is how long a file may be empty or missing before that is taken for an
// edit.
const patience = time.Second

// missing stands for the hash of a file that cannot be read.
const missing = "missing"

// reload reads the file and puts it in force.
func (m *reconciler) reload(cause string) control.ReloadResult {
	began := now()
	if m.plan != nil {
		m.manager.reloading("reading the file")
		defer m.manager.ready()
	}
	list, err := m.readAndApply()
	again := m.state.sameFailure(err)
	outcome := m.state.reloaded(m, began, list, err)
	switch {
	case errors.Is(err, errWaiting):
		m.log.Info("the file is read, and good", "cause", cause, "event", "reloaded")
		return outcome
	case err != nil && again && cause == causeHost: // it was said
		return outcome
	case err != nil:
		m.log.Error("reload rejected, the file in force stays", "cause", cause, "generation", outcome.Generation, "error", err, "event", "reload_rejected")
		return outcome
	}
	m.log.Info("reloaded", "cause", cause, "generation", outcome.Generation, "duration", time.Since(began).Round(time.Millisecond),
		"changes", strings.Join(first(changesLogged, list), "; "), "peers", len(m.plan.mesh.Peers)-1, "event", "reloaded")
	m.state.remember(time.Now()) // of new peers, too
	return outcome
}

// readAndApply loads, plans and applies the file, and returns what changed.
func (m *reconciler) readAndApply() ([]string, error) {
	hash, err := config.Hash(m.options.ConfigPath)
	if err != nil {
		hash = missing
	}
	m.tried, m.pending = hash, false
	if m.plan == nil {
		return nil, m.readWhileWaiting()
	}
	next, err := planOf(m.options)
	if err != nil {
		_, bad := errors.AsType[config.Faults](err)
		m.pending = !bad // it is this host that it does not fit
		return nil, err
	}
	list := changes(m.plan, next)
	if err := feasible(m.plan, next); err != nil {
		return nil, err
	}
	if _, err := m.apply(next, false); err != nil {
		return nil, err
	}
	m.checkBuffers()
	return list, nil
}

// errWaiting is the outcome of reading a good file that has no node with an address
// of this host yet.
var errWaiting = errors.New("the file is good, but nothing is forwarded yet")

// readWhileWaiting loads the file that is to be waited with from now on.
func (m *reconciler) readWhileWaiting() error {
	c, err := config.Load(m.options.ConfigPath)
	if err != nil {
		return err
	}
	m.state.load(c)
	if err := m.begin(); err != nil {
		return err
	}
	if m.plan == nil {
		return fmt.Errorf("%w: %s", errWaiting, m.state.notes())
	}
	return nil
}

// planOf says what the file asks of this host.
func planOf(o Options) (*plan, error) {
	c, err := config.Load(o.ConfigPath)
	if err != nil {
		return nil, err
	}
	return planFor(c, o)
}

func planFor(c *config.Config, o Options) (*plan, error) {
	host, err := surroundingsOf(c, o)
	if err != nil {
		return nil, err
	}
	self, _, err := identify(c, o.Node, host.local)
	if err != nil {
		return nil, err
	}
	return makePlan(c, self, host)
}

// repair makes the kernel match the plan again after it changed without us, and
// makes a new plan where the surroundings ask for one: another underlay MTU, an
// address that moved. broken is why the packet loops have to be made anew.
func (m *reconciler) repair(broken error) {
	if broken == nil {
		broken = m.failed
	}
	if broken == nil && !link.Exists(m.plan.link.Interface) {
		broken = fmt.Errorf("the interface was deleted: %w", os.ErrNotExist)
	}
	next, err := planFor(m.plan.config, m.options)
	notice := ""
	if err != nil { // our own address is gone, perhaps for a moment only
		notice = "the plan in force stays, though this host has changed: " + err.Error()
		next = m.plan
	}
	switch news := m.state.waiting(notice); {
	case news && notice != "":
		m.log.Warn("the plan in force stays, though this host has changed", "reason", err, "event", "address_lost")
	case news:
		m.log.Info("this host fits the plan again", "event", "address_back")
	}
	list := append(changes(m.plan, next), ways(m.plan, next)...)
	var repaired []string
	if next == m.plan {
		err = nil
	} else {
		err = checkKernel(next)
	}
	if err == nil {
		repaired, err = m.apply(next, broken != nil)
	}
	fault := m.fault
	m.fault = nil
	switch {
	case err != nil:
		m.failed, m.fault = broken, err
		m.state.repaired(m, nil, err)
		m.log.Error("the mesh cannot be repaired, trying again", "in", m.later(), "error", errors.Join(broken, err), "event", "repair_failed")
		return
	case broken == nil && fault == nil && len(list)+len(repaired) == 0:
		m.pause = 0
		m.state.repaired(m, nil, nil)
		return
	}
	m.pause = 0
	m.checkBuffers()
	words := append(list, repaired...)
	if broken != nil {
		words = append([]string{broken.Error()}, words...)
	}
	if len(words) == 0 { // going back from what failed has mended it
		words = []string{fault.Error()}
	}
	m.state.repaired(m, words, nil)
	m.log.Warn("repaired after the host changed", "what", strings.Join(first(changesLogged, words), "; "), "event", "repaired")
}

// alive returns nil once all packet loops and the goroutine that changes them
// have given a sign of life.
func (m *reconciler) alive(ctx context.Context) error {
	if err := m.engine.Alive(ctx); err != nil {
		return err
	}
	select {
	case m.pulse <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("reloads and repairs hang: %w", ctx.Err())
	}
}

// healthy is alive, as far as there is something to be alive: while it waits for an
// address, nothing is wrong with this daemon.
func (m *reconciler) healthy(ctx context.Context) error {
	if plan, _ := m.state.inForce(); plan == nil {
		return nil
	}
	return m.alive(ctx)
}

// ask has the file read again, through the one goroutine that changes the mesh,
// and returns the outcome. It answers GET /v1/reload.
func (m *reconciler) ask(ctx context.Context, cause string) (control.ReloadResult, error) {
	request := reloadRequest{cause: cause, reply: make(chan control.ReloadResult, 1)}
	select {
	case m.asked <- request:
	case <-ctx.Done():
		return control.ReloadResult{}, fmt.Errorf("meshd does not read files now: %w", ctx.Err())
	}
	return <-request.reply, nil
}

// plans tells what applying a file with the given content would change, and
// changes nothing. path is only for the words of faults. The work ends with ctx.
func (m *reconciler) plans(ctx context.Context, path string, doc []byte) (control.Plan, []control.Error, error) {
	p, err := m.planOfContent(ctx, path, doc)
	if err != nil {
		return control.Plan{}, faultsOf(err), err
	}
	inForce, generation := m.state.inForce()
	if inForce == nil {
		return control.Plan{}, nil, errors.New("nothing is forwarded yet, so there is nothing to compare with")
	}
	if err := feasible(inForce, p); err != nil {
		return control.Plan{}, nil, err
	}
	return control.Plan{Schema: control.Schema, Generation: generation, Changes: append([]string{}, changes(inForce, p)...)}, nil, nil
}

func (m *reconciler) planOfContent(ctx context.Context, path string, doc []byte) (*plan, error) {
	c, err := config.ParseContext(ctx, path, doc)
	if err != nil {
		return nil, err
	}
	return planFor(c, m.options)
}
