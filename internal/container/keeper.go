package container

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/rate"
)

// Keeper keeps the files for container runtimes as wanted, whoever changes or removes them. One
// goroutine, Run, looks at files, since their file system may hang; others ask it with Set, and read
// what it has published. Files that cannot be written are a condition: the mesh works without them.
type Keeper struct {
	log  *slog.Logger
	note string // path of what Files remembers

	asked   chan request
	failure atomic.Pointer[string] // why they are not as planned; nil if they are
	repairs *rate.Repairs

	// Of Run alone.
	files  *Files // nil until the first plan
	wanted *Settings
}

// request asks for files.
type request struct {
	wanted Settings
	reply  chan reply
}

// A reply is what came of a request: the files that were kept before (nil: none), and why writing
// failed.
type reply struct {
	before *Settings
	err    error
}

// NewKeeper returns a Keeper that has not looked at any file. note is the path where Files remembers
// what it wrote.
func NewKeeper(note string, log *slog.Logger) *Keeper {
	return &Keeper{log: log, note: note, repairs: rate.NewRepairs("files for containers"),
		asked: make(chan request)}
}

// String implements fmt.Stringer.
func (t *Keeper) String() string { return "files for containers" }

// Fine tells whether the files are as planned.
func (t *Keeper) Fine() bool { return t.failure.Load() == nil }

// Set makes files the ones to keep, and returns once they are written. Undo goes back to the files
// before; without any, these stay.
func (t *Keeper) Set(ctx context.Context, s Settings) (undo func() error, err error) {
	before, err := t.ask(ctx, s)
	undo = func() error {
		if before == nil {
			return nil
		}
		_, err := t.ask(ctx, *before)
		return err
	}
	if err != nil {
		return nil, errors.Join(err, undo())
	}
	return undo, nil
}

// ask has Run make files the ones to keep, and write them.
func (t *Keeper) ask(ctx context.Context, wanted Settings) (before *Settings, err error) {
	// Room for one: if the asker gives up, Run does not wait for it.
	r := request{wanted, make(chan reply, 1)}
	select {
	case t.asked <- r:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case answer := <-r.reply:
		return answer.before, answer.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// filesEvery is how often the files are looked at.
const filesEvery = 2 * time.Second

// Run works until ctx ends. It restores files that somebody changed or removed.
func (t *Keeper) Run(ctx context.Context) error {
	tick := time.NewTicker(filesEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-t.asked:
			before := t.wanted
			t.wanted = &r.wanted
			// wanted is replaced even if writing fails: the plan holds, and the next tick tries again.
			r.reply <- reply{before, t.set()}
		case <-tick.C:
			if t.wanted != nil {
				_ = t.set() // said, and shown in status
			}
		}
	}
}

// set makes the files match.
func (t *Keeper) set() error {
	if t.files == nil {
		files, err := New(t.note)
		if err != nil { // what an earlier run wrote is overwritten, or stays
			t.log.Warn("cannot read which files an earlier run wrote: they may stay", "error", err, "event", "warning")
		}
		t.files = files
	}
	o := t.files.Set(*t.wanted)
	for _, news := range o.News {
		if n := t.repairs.Add(time.Now(), news, ""); n > 0 {
			t.log.Warn(news, "count", n, "event", "files_restored")
		}
	}
	var failure *string
	if err := errors.Join(o.Failed, o.Left); err != nil {
		failure = new(err.Error())
	}
	before := t.failure.Swap(failure)
	switch {
	case failure == nil && before != nil:
		t.log.Info("files for containers are written", "event", "files_written")
	case failure != nil && (before == nil || *before != *failure):
		t.log.Error("files for containers are not as planned: trying again", "error", *failure,
			"event", "files_failed")
	}
	return o.Failed
}

// Conditions tells what is wrong with the files.
func (t *Keeper) Conditions() []mesh.Condition {
	conditions := t.repairs.Conditions(time.Now())
	failure := t.failure.Load()
	if failure == nil {
		return conditions
	}
	return append(conditions, mesh.Condition{Kind: mesh.FilesFailed, Severity: mesh.Degraded, Cause: *failure})
}
