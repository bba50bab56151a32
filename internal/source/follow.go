package source

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"example.org/meshd/internal/backoff"
	"example.org/meshd/internal/mesh"
)

const (
	// regularly is how often the file is read without a sign of a change: not every file system, and no
	// mount of a single file, gives signs.
	regularly = 30 * time.Second
	// watchAgain is how long to wait after the kernel refused to watch the file, which is read instead.
	watchAgain = 2 * time.Second
	// patience is how long a file may be empty or missing before that is taken for an edit.
	patience = time.Second
)

// A Follower delivers what is in a file, again and again. Now and Conditions may be called from any
// goroutine.
type Follower struct {
	reader *Reader
	log    *slog.Logger
	watch  func(ctx context.Context, path string, changed func()) error
	due    chan struct{} // holds an element while the file has to be read

	unwatched atomic.Pointer[mesh.Condition] // why the file cannot be watched; nil if it is
	place     atomic.Pointer[Place]          // of the last reading that found one

	backoff backoff.Backoff // of reads that fail for a passing reason
	last    string          // identity of the reading that was delivered last
	doubted bool            // the last reading was empty and not believed
}

// NewFollower returns a Follower of the reader's file.
func NewFollower(reader *Reader, log *slog.Logger) *Follower {
	return &Follower{reader: reader, log: log, watch: Watch, due: make(chan struct{}, 1)}
}

// Now reads the file for somebody who wants to know at once. If that fails for a passing reason, Run
// tries again.
func (f *Follower) Now(ctx context.Context) Reading {
	one := f.reader.Read(ctx)
	f.found(one)
	if one.passes() {
		one.Again = backoff.First
		f.look()
	}
	return one
}

// found notes where a reading found the file.
func (f *Follower) found(one Reading) {
	if one.Err == nil {
		f.place.Store(&one.Place)
	}
}

// look has Run read the file soon.
func (f *Follower) look() {
	select {
	case f.due <- struct{}{}:
	default:
	}
}

// Run reads the file at the start, after each sign of a change, every 30 s, and again after a failure
// that passes. It calls deliver with each reading, also with equal ones; calls do not overlap. A file
// that is empty or missing is delivered only if it still is so a second later. Run returns nil
// soon after ctx ends, whatever a file system does.
func (f *Follower) Run(ctx context.Context, deliver func(context.Context, Reading)) error {
	go f.keepWatching(ctx) // it looks at folders, which may hang as well
	tick := time.NewTicker(regularly)
	defer tick.Stop()
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.due:
		case <-tick.C:
		case <-again:
		}
		one := f.reader.Read(ctx)
		if ctx.Err() != nil {
			return nil
		}
		pause, believed := f.judge(&one)
		if again = nil; pause > 0 {
			again = time.After(pause)
		}
		if believed {
			deliver(ctx, one)
		}
	}
}

// judge notes where the file was found, and decides whether to believe a reading and when to read
// again; 0: not before there is a reason.
func (f *Follower) judge(one *Reading) (again time.Duration, believed bool) {
	f.found(*one)
	if one.empty() && !f.doubted && one.Identity() != f.last {
		f.doubted = true
		f.log.Info("the file is empty or missing: looking again", "in", patience, "event", "file_missing")
		return patience, false
	}
	f.doubted, f.last = false, one.Identity()
	if !one.passes() {
		f.backoff.Reset()
		return 0, true
	}
	one.Again = f.backoff.Next()
	return one.Again, true
}

// keepWatching reads the file again whenever it may have changed, until ctx ends. Where inotify has no
// room for us, that is every watchAgain.
func (f *Follower) keepWatching(ctx context.Context) {
	for {
		err := f.watch(ctx, f.reader.path, func() {
			f.unwatched.Store(nil)
			f.look()
		})
		if ctx.Err() != nil {
			return
		}
		f.note(err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(watchAgain):
			f.look()
		}
	}
}

// note remembers why the file is not watched, and logs it once.
func (f *Follower) note(err error) {
	c := &mesh.Condition{Kind: mesh.FileUnwatched, Severity: mesh.Degraded, Cause: fmt.Sprint(err),
		Remedy: "`sysctl fs.inotify.max_user_instances=1024` may help"}
	if before := f.unwatched.Swap(c); before == nil || *before != *c {
		f.log.Warn("the file cannot be watched: reading it from time to time",
			"every", watchAgain, "error", err, "event", "watch_failed")
	}
}

// Conditions tells why an edit of the file may be noticed late, or never.
func (f *Follower) Conditions() (all []mesh.Condition) {
	if c := f.unwatched.Load(); c != nil {
		all = append(all, *c)
	}
	place := f.place.Load()
	if place == nil {
		return all
	}
	if place.Nameless {
		all = append(all, mesh.Condition{Kind: mesh.FileDetached, Severity: mesh.Degraded, Subject: f.reader.path,
			Remedy: "mount the new file again (a container: restart it), or mount the folder and not the file"})
	}
	if place.System != "" {
		all = append(all, mesh.Condition{Kind: mesh.FileElsewhere, Severity: mesh.Info, Subject: place.System,
			Remedy: "`meshd reload` applies an edit at once"})
	}
	return all
}
