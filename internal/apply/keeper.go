package apply

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/source"
	"example.org/meshd/internal/state"
)

// Daemon is what a Keeper needs of the daemon. Its functions may be called from any goroutine.
type Daemon struct {
	// Read reads the file that people edit.
	Read func(context.Context) source.Reading
	// Plan returns why a text could not be applied; faults are its places in the text.
	Plan func(ctx context.Context, path string, doc []byte) (faults []control.Error, err error)
	// Put puts a text in force in the place of the file's, and waits for the outcome.
	Put func(ctx context.Context, cause string, doc []byte) (control.ReloadResult, error)
	// Current returns the text in force, or the one that waits to be while there is no plan.
	Current func() string
	// Settled hears that the text in force stays, and returns when it is the last good file; soon, if the disk
	// fails.
	Settled func(context.Context)
}

// A Keeper knows which text is in force in the place of the file's. See, Accepted and Told never wait for a
// disk; everything else does. Its methods may be called from any goroutine.
type Keeper struct {
	folder, path string
	clock        Clock
	log          *slog.Logger
	daemon       Daemon
	one          chan struct{} // holds an element while somebody changes something
	wake         chan struct{}

	store store

	mu     sync.Mutex // guards the fields below
	rec    *record    // never changed, but replaced; nil: the file decides
	text   []byte     // of rec.Sum
	before []byte     // of rec.Before
	dirty  bool       // rec is not what the state folder has
	came   []arrival  // files in force that history does not have yet
	sure   string     // SHA-256 of a change of which history does not have yet that it is confirmed
	lost   error      // why the state folder lacks something
}

// An arrival is a file that came into force.
type arrival struct {
	entry
	text string
}

// mostArrivals bounds what is remembered while the disk hangs.
const mostArrivals = 8

// New returns a Keeper for the file at a path and a state folder. Nothing is known before Load, and nothing
// may be asked for before Use.
func New(folder, path string, clock Clock, log *slog.Logger) *Keeper {
	return &Keeper{folder: folder, path: path, clock: clock, log: log, store: store{folder: folder},
		one: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
}

// Use says what a Keeper works with. It comes before all methods but Load, See and Accepted.
func (k *Keeper) Use(d Daemon) { k.daemon = d }

// Load takes over what an earlier meshd has left. A change whose time is over is taken back, before it was in
// force again. What makes no sense is told of, and counts as nothing.
func (k *Keeper) Load() {
	_, err := state.Timely(func() ([]byte, error) { return nil, k.store.read() })
	if err != nil {
		k.log.Warn("cannot read which files were in force before: history begins anew", "folder", k.folder,
			"error", err, "event", "change_unread")
	}
	if err := k.load(); err != nil {
		k.rec = nil
		k.log.Warn("cannot read what was applied: the file decides", "folder", k.folder, "error", err,
			"event", "change_unread")
	}
}

// load reads the record and its texts.
func (k *Keeper) load() error {
	doc, err := state.Timely(func() ([]byte, error) { return state.Read(k.folder, RecordName, maxRecord) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	r, err := parseRecord(doc)
	if err != nil || r.Path != k.path { // another file's, whose daemon ran with this folder before
		return err
	}
	read := func(sum string) ([]byte, error) {
		return state.Timely(func() ([]byte, error) { return k.store.text(sum) })
	}
	k.text, err = read(r.Sum)
	if r.State != pending {
		k.rec = &r
		return err
	}
	var gone error
	if k.before, gone = read(r.Before.Sum); gone != nil {
		return gone
	}
	k.rec = &r
	switch left := r.Line.left(k.clock); {
	case err != nil: // the change is lost, and the text before is not
		k.goBack(control.Asker{}, "the text of the change is lost: "+err.Error())
	case left == 0:
		k.goBack(control.Asker{}, late)
	default: // its deadline never moves away, however often the host boots
		next := r
		next.Line = k.clock.draw(left)
		k.rec, k.dirty = &next, true
		k.log.Warn("a change waits for its confirmation", "sha256", r.Sum, "in", left.Round(time.Second),
			"event", "change_pending")
	}
	k.rouse()
	return nil
}

// See returns a reading of the file, with the text that takes the place of what the file has. It belongs to
// the goroutine that applies files, which must not hear of a reading in any other way.
func (k *Keeper) See(one source.Reading) source.Reading {
	content := contentOf(one)
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.rec
	switch {
	case r == nil:
	case r.covers(content):
		return source.Reading{Doc: k.text, Sum: r.Sum, Order: one.Order, Place: one.Place}
	case content == r.Sum && len(r.Shadows) > 0: // the file has followed: from now on it decides
		next := *r
		if next.Shadows = nil; r.State == settled {
			k.set(nil)
		} else {
			k.set(&next)
		}
		k.rouse()
	}
	return one
}

// contentOf returns the SHA-256 of what was read, or unreadable.
func contentOf(one source.Reading) string {
	if one.Err != nil {
		return unreadable
	}
	return one.Sum
}

// set replaces the record; the caller holds mu.
func (k *Keeper) set(r *record) { k.rec, k.dirty = r, true }

// rouse has Run write what is not in the state folder.
func (k *Keeper) rouse() {
	select {
	case k.wake <- struct{}{}:
	default: // it is awake already
	}
}

// Accepted notes that a text came into force. It returns whether it is there to stay; if not, Settled is
// called once it is. A text that nobody applied is an edit, which ends a change that waits: it is the newest
// word.
func (k *Keeper) Accepted(text string) (stays bool) {
	sum := sumOf([]byte(text))
	var over *record
	k.mu.Lock()
	e := entry{Sum: sum, Bytes: len(text), At: k.clock.Wall().Round(time.Millisecond), Cause: CauseEdit}
	switch r := k.rec; {
	case r == nil:
	case r.Sum == sum:
		if e.By, e.Told, e.Cause = r.By, r.Told, r.Cause; r.State == pending {
			e.Outcome = pending
		}
	default:
		over = r
		k.set(nil)
	}
	k.came = append(k.came, arrival{e, text})
	k.came = k.came[max(0, len(k.came)-mostArrivals):]
	stays = k.rec == nil || k.rec.State != pending
	k.mu.Unlock()
	k.rouse()
	if over != nil && over.State == pending {
		k.log.Warn("the file was edited: the change that waited for its confirmation is over", "sha256", over.Sum,
			"event", "change_superseded")
	}
	return stays
}

// String names the task in the log.
func (k *Keeper) String() string { return "changes" }

// late is why most changes are taken back.
const late = "it was not confirmed in time"

// again is when a write that failed is tried again.
const again = 10 * time.Second

// Run implements a task: it takes back a change whose time is over, and writes what the state folder lacks.
func (k *Keeper) Run(ctx context.Context) error {
	for {
		k.work(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-k.wake:
		case <-k.next():
		}
	}
}

// next returns when there is something to do.
func (k *Keeper) next() <-chan time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.rec != nil && k.rec.State == pending: // a timer does not count while the host is suspended
		return time.After(min(k.rec.Line.left(k.clock), time.Second))
	case k.lost != nil:
		return time.After(again)
	}
	return nil
}

// work does what is due.
func (k *Keeper) work(ctx context.Context) {
	if k.hold(ctx) != nil {
		return
	}
	defer k.release()
	k.mu.Lock()
	over := k.rec != nil && k.rec.State == pending && k.rec.Line.left(k.clock) == 0
	k.mu.Unlock()
	if over {
		_, _ = k.takeBack(ctx, control.Asker{}, late) // an error is logged
	}
	k.flush()
}

// hold waits until nobody else changes anything.
func (k *Keeper) hold(ctx context.Context) error {
	select {
	case k.one <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("another change is under way: %w", ctx.Err())
	}
}

func (k *Keeper) release() { <-k.one }

// flush writes what the state folder lacks. The caller holds one.
func (k *Keeper) flush() {
	k.mu.Lock()
	r, dirty, came, sure := k.rec, k.dirty, k.came, k.sure
	k.mu.Unlock()
	if !dirty && len(came) == 0 && sure == "" {
		return
	}
	_, err := state.Timely(func() ([]byte, error) {
		var err error
		if dirty {
			err = k.store.keep(r)
		}
		if sure != "" && err == nil { // before a file comes that would have superseded the change
			err = k.store.confirmed(sure)
		}
		for _, a := range came {
			if err == nil {
				err = k.store.add(a, r)
			}
		}
		return nil, err
	})
	if err == nil {
		k.mu.Lock()
		k.came = k.came[min(len(came), len(k.came)):]
		k.dirty = k.dirty && k.rec != r
		k.sure = "" // whoever sets it holds one
		k.mu.Unlock()
	}
	k.note(err)
}

// note remembers why the state folder lacks something, and logs it once.
func (k *Keeper) note(err error) {
	k.mu.Lock()
	fresh := err != nil && k.lost == nil
	k.lost = err
	k.mu.Unlock()
	if fresh {
		k.log.Warn("cannot keep what was applied", "folder", k.folder, "error", err, "event", "state_failed")
	}
}

// Conditions tells of a change that waits or was taken back, and of a file that is not in force.
func (k *Keeper) Conditions() (all []mesh.Condition) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.lost != nil {
		all = append(all, mesh.Condition{Kind: mesh.StateFailed, Severity: mesh.Degraded, Subject: k.folder,
			Cause:  "what was applied: " + k.lost.Error(),
			Remedy: "make room, or let the folder be written by the user that meshd runs as"})
	}
	r := k.rec
	if r == nil {
		return all
	}
	c := mesh.Condition{Severity: mesh.Info, Subject: k.path, Cause: about(r)}
	switch {
	case r.State == pending:
		c.Kind, c.Remedy = mesh.ChangePending, "`meshd confirm` keeps the change, `meshd rollback` takes it back"
		c.Subject = r.Line.Saved.Add(r.Line.Left).Format(time.RFC3339)
	case r.State == takenBack && len(r.Shadows) == 0:
		c.Kind, c.Remedy = mesh.ChangeTakenBack, "`meshd history` lists what was in force"
	case r.State == takenBack:
		c.Kind, c.Severity = mesh.ChangeTakenBack, mesh.Degraded
		c.Remedy = "`sudo meshd rollback` writes the file in force there; `meshd apply` tries the change again"
	default:
		c.Kind, c.Severity = mesh.FileBehind, mesh.Degraded
		c.Remedy = "apply the file as root, or edit it: an edit is the newest word"
	}
	return append(all, c)
}

// about tells who made a change.
func about(r *record) string {
	who := "by " + r.By
	if r.By == "" {
		who = "by meshd itself"
	}
	return who + " at " + r.At.Format(time.RFC3339)
}

// Stands tells whether the text in force takes the place of another one that the file has.
func (k *Keeper) Stands() bool {
	if k == nil {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.rec != nil && len(k.rec.Shadows) > 0
}

// Told returns the change that waits for its confirmation; nil: none does.
func (k *Keeper) Told() *control.Pending {
	if k == nil { // as in tests of rooms that change nothing
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.told()
}

// told is Told for whoever holds mu.
func (k *Keeper) told() *control.Pending {
	if k.rec == nil || k.rec.State != pending {
		return nil
	}
	left := k.rec.Line.left(k.clock)
	return &control.Pending{SHA256: k.rec.Sum, Before: k.rec.Before.Sum, Since: k.rec.At,
		Until: k.clock.Wall().Add(left).Round(time.Millisecond), LeftSeconds: left.Seconds(),
		By: k.rec.By, Told: k.rec.Told}
}
