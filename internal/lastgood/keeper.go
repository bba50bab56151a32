package lastgood

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"example.org/meshd/internal/backoff"
	"example.org/meshd/internal/mesh"
)

// A Keeper keeps the file in force in a state folder, without anybody waiting for the disk. Set and
// Conditions may be called from any goroutine.
type Keeper struct {
	folder string
	log    *slog.Logger
	write  func(folder string, f File) error
	wake   chan struct{}

	mu      sync.Mutex
	wanted  File
	kept    File            // that was read or written last; Path is empty: none
	failure *mesh.Condition // why wanted is not kept; nil: it is, or is about to be
	wrote   chan struct{}   // closed and replaced whenever kept changes
}

// NewKeeper returns a Keeper for a state folder.
func NewKeeper(folder string, log *slog.Logger) *Keeper {
	return &Keeper{folder: folder, log: log, write: Write, wake: make(chan struct{}, 1),
		wrote: make(chan struct{})}
}

// Set has a file kept, soon, in the place of the one before. A text that is kept already stays with its
// time. It returns at once.
func (k *Keeper) Set(f File) {
	k.mu.Lock()
	if k.wanted.same(f) {
		k.mu.Unlock()
		return
	}
	k.wanted = f
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default: // it is awake already
	}
}

// patience is how long somebody waits for the disk.
const patience = 3 * time.Second

// Wait returns when the file that Set was called with last is kept: a power cut does not bring an earlier one
// back. If the disk fails or hangs it returns after 3 s, or with ctx; Conditions tells why.
func (k *Keeper) Wait(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		k.mu.Lock()
		kept, wrote := k.wanted.same(k.kept), k.wrote
		k.mu.Unlock()
		if kept {
			return
		}
		select {
		case <-wrote:
		case <-ctx.Done():
			return
		}
	}
}

// same tells whether two files have the same text at the same path.
func (f File) same(g File) bool { return f.Path == g.Path && f.Text == g.Text }

// String names the task in the log.
func (k *Keeper) String() string { return "last good file" }

// Run implements a task: it writes what Set wants, and again after a failure. It returns nil soon
// after ctx ends: a write that hangs then is left behind, one that does not has finished.
func (k *Keeper) Run(ctx context.Context) error {
	var pauses backoff.Backoff
	for {
		var again <-chan time.Time
		if done, due := k.begin(); due {
			err, ended := k.await(ctx, done)
			if !ended {
				return nil
			}
			again = k.ended(err, &pauses)
		}
		select {
		case <-ctx.Done():
			if done, due := k.begin(); due && again == nil {
				k.finish(done)
			}
			return nil
		case <-k.wake:
		case <-again:
		}
	}
}

// await waits for a write, and tells of one that takes long. ended is false if ctx ended before it.
func (k *Keeper) await(ctx context.Context, done <-chan error) (err error, ended bool) {
	late := time.After(slow)
	for {
		select {
		case err := <-done:
			return err, true
		case <-ctx.Done():
			k.finish(done)
			return nil, false
		case <-late:
			k.fail(errNoAnswer, 0)
		}
	}
}

// slow is when a write that has not ended is told of.
const slow = 10 * time.Second

// errNoAnswer is why nothing is kept while a write hangs.
var errNoAnswer = errors.New("the file system does not answer")

// lastMoment is how long the end of the daemon waits for the disk.
const lastMoment = 200 * time.Millisecond

// finish waits a moment for a write.
func (k *Keeper) finish(done <-chan error) {
	select {
	case <-done:
	case <-time.After(lastMoment):
	}
}

// begin writes what is wanted, unless it is kept.
func (k *Keeper) begin() (done <-chan error, due bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.wanted.same(k.kept) {
		k.failure = nil
		return nil, false
	}
	wanted, result := k.wanted, make(chan error, 1)
	go func() { // the disk may hang
		err := k.write(k.folder, wanted)
		if err == nil {
			k.mu.Lock()
			k.kept = wanted
			close(k.wrote)
			k.wrote = make(chan struct{})
			k.mu.Unlock()
		}
		result <- err
	}()
	return result, true
}

// ended notes how a write has ended. It returns when to write again; nil: when there is something.
func (k *Keeper) ended(err error, pauses *backoff.Backoff) <-chan time.Time {
	if err == nil {
		pauses.Reset()
		k.note(nil)
		return time.After(0) // there may be another by now
	}
	pause := pauses.Next()
	k.fail(err, pause)
	return time.After(pause)
}

// fail notes why the file in force is not kept, and logs it once.
func (k *Keeper) fail(err error, pause time.Duration) {
	fresh := k.note(&mesh.Condition{Kind: mesh.StateFailed, Severity: mesh.Degraded, Subject: k.folder,
		Cause: err.Error(), Again: pause,
		Remedy: "make room, or let the folder be written by the user that meshd runs as"})
	if fresh {
		k.log.Warn("the file in force cannot be kept for the next start", "error", err, "event", "state_failed")
	}
}

// note remembers a failure, and tells whether it is another one than before.
func (k *Keeper) note(c *mesh.Condition) (fresh bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	fresh = c != nil && (k.failure == nil || k.failure.Cause != c.Cause)
	k.failure = c
	return fresh
}

// Conditions tells why the file in force would not be there on a bad day.
func (k *Keeper) Conditions() []mesh.Condition {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.failure == nil {
		return nil
	}
	return []mesh.Condition{*k.failure}
}
