// Package drain keeps whether this node is in maintenance. That outlives the daemon and the host: it is in
// the state folder.
package drain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/state"
)

// name is that of the file in the state folder.
const name = "drain"

// maxFile bounds it, in bytes.
const maxFile = 4096

// ErrNotKept says that what was asked for is in force, and that a restart ends it. Test with errors.Is.
var ErrNotKept = errors.New("a restart of meshd would forget it")

// kept is the content of the file.
type kept struct {
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until,omitzero"`
	Reason string    `json:"reason"`
	By     string    `json:"by"`
}

// A Keeper keeps a maintenance. Its methods may be called from any goroutine at any time.
type Keeper struct {
	folder string
	log    *slog.Logger
	tell   func(*mesh.Drain) // hears of each change; nil: the maintenance has ended
	wake   chan struct{}

	disk sync.Mutex // held while the file is written
	mu   sync.Mutex // guards the fields below
	now  *mesh.Drain
	lost error // why the file does not say so
}

// New returns a Keeper that knows of no maintenance. tell hears what other nodes have to know; it must not
// change it, wait, or call the Keeper.
func New(folder string, log *slog.Logger, tell func(*mesh.Drain)) *Keeper {
	return &Keeper{folder: folder, log: log, tell: tell, wake: make(chan struct{}, 1)}
}

// String names the task in the log.
func (k *Keeper) String() string { return "maintenance" }

// Now returns the maintenance of this node; nil: it is in none. It must not be changed.
func (k *Keeper) Now() *mesh.Drain {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now
}

// Load takes over the maintenance that an earlier meshd has kept. A file that makes no sense is told of,
// and counts as none.
func (k *Keeper) Load() {
	doc, err := state.Timely(func() ([]byte, error) { return state.Read(k.folder, name, maxFile) })
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var d *mesh.Drain
	if err == nil {
		d, err = parse(doc)
	}
	if err != nil {
		k.log.Warn("cannot read whether this node is in maintenance: it is not", "folder", k.folder,
			"error", err, "event", "drain_unread")
		return
	}
	if !d.Ended(time.Now()) {
		k.set(d)
		k.log.Info("this node is in maintenance", about(d)...)
	}
}

// parse reads the content of the file.
func parse(doc []byte) (*mesh.Drain, error) {
	var one kept
	if err := json.Unmarshal(doc, &one); err != nil {
		return nil, err
	}
	if one.Since.IsZero() {
		return nil, errors.New("it does not say since when")
	}
	d := mesh.Drain(one)
	return &d, nil
}

// about describes a maintenance for the log.
func about(d *mesh.Drain) []any {
	fields := []any{"by", d.By, "reason", d.Reason, "since", d.Since.Format(time.RFC3339), "event", "drain"}
	if !d.Until.IsZero() {
		fields = append(fields, "until", d.Until.Format(time.RFC3339))
	}
	return fields
}

// set puts a maintenance in force, or ends it.
func (k *Keeper) set(d *mesh.Drain) {
	k.mu.Lock()
	k.now = d
	k.mu.Unlock()
	k.tell(d)
	select {
	case k.wake <- struct{}{}:
	default: // it is awake already
	}
}

// Begin puts this node into maintenance, or changes the one that it is in, which keeps its beginning. An
// error is ErrNotKept.
func (k *Keeper) Begin(d mesh.Drain) error {
	k.disk.Lock()
	defer k.disk.Unlock()
	if before := k.Now(); before != nil {
		d.Since = before.Since
	}
	k.set(&d)
	k.log.Info("this node is in maintenance", about(&d)...)
	doc, err := json.Marshal(kept(d))
	if err == nil {
		_, err = state.Timely(func() ([]byte, error) { return nil, state.Write(k.folder, name, doc) })
	}
	return k.written(err)
}

// For is Begin for some seconds from now; 0: until somebody ends it.
func (k *Keeper) For(seconds float64, reason, by string) error {
	d := mesh.Drain{Since: time.Now(), Reason: reason, By: by}
	if seconds > 0 {
		d.Until = d.Since.Add(time.Duration(seconds * float64(time.Second)))
	}
	return k.Begin(d)
}

// End ends the maintenance, if there is one. by says who or what has ended it. An error is ErrNotKept.
func (k *Keeper) End(by string) error {
	k.disk.Lock()
	defer k.disk.Unlock()
	if k.Now() != nil {
		k.set(nil)
		k.log.Info("the maintenance of this node has ended", "by", by, "event", "undrain")
	}
	_, err := state.Timely(func() ([]byte, error) { _, err := state.Remove(k.folder, name); return nil, err })
	return k.written(err)
}

// written notes how writing the file has ended.
func (k *Keeper) written(err error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.lost = err; err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrNotKept, err)
}

// Run implements a task: it ends a maintenance whose time is over.
func (k *Keeper) Run(ctx context.Context) error {
	for {
		var over <-chan time.Time
		if d := k.Now(); d != nil && !d.Until.IsZero() {
			if d.Ended(time.Now()) {
				_ = k.End("its time is over") // Conditions tells of an error
				continue
			}
			// A minute at most: the clock may be set meanwhile.
			over = time.After(min(time.Until(d.Until), time.Minute))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-k.wake:
		case <-over:
		}
	}
}

// Conditions tells of the maintenance, and where a restart would forget what is in force.
func (k *Keeper) Conditions() (all []mesh.Condition) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.now != nil {
		all = append(all, mesh.Condition{Kind: mesh.Maintenance, Severity: mesh.Info, Cause: k.now.Why(),
			Remedy: "`meshd undrain` ends it"})
	}
	if k.lost != nil {
		all = append(all, mesh.Condition{Kind: mesh.StateFailed, Severity: mesh.Degraded, Subject: k.folder,
			Cause: "whether this node is in maintenance: " + k.lost.Error(),
			Remedy: "make room, or let the folder be written by the user that meshd runs as; " +
				"then drain or undrain again"})
	}
	return all
}
