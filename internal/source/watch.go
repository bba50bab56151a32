package source

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Editors save in many ways: in place, by renaming a new file over the old one, by
// switching a symbolic link on the way to it, with the file or a whole directory missing
// for a while. An inotify watch follows the inode: a watch on the file itself is deaf after
// the first rename. So the directories are watched: that of the file, those of all
// symbolic links that lead to it, and the parents of those directories.
//
//	step    a path on the way to the file; if it is replaced, the way may lead elsewhere
//	settle  an edit counts as finished after this time without events

const (
	settle    = 50 * time.Millisecond
	settleMax = 500 * time.Millisecond // the longest wait, for a file that changes all the time
	maxLinks  = 40                     // as many links as the kernel follows (MAXSYMLINKS)
)

// Watch calls changed once at the start, and then each time after the content at path may
// have changed and settled. Calls do not overlap. Watch does not read the file: changed may
// find the same content as before. Watch blocks until ctx ends, and then returns nil. It
// returns an error if the kernel's inotify events cannot be read.
func Watch(ctx context.Context, path string, changed func()) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("watch %s: %w", path, err)
	}
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", path, err)
	}
	defer notify.Close()
	w := &watch{notify: notify, path: path, inodes: map[string]uint64{}}
	for {
		if err := w.aim(); err != nil {
			return fmt.Errorf("watch %s: %w", path, err)
		}
		changed()
		if err := w.wait(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watch %s: %w", path, err)
		}
	}
}

// errWatchClosed says that fsnotify ended by itself, which it does not do while it is open.
var errWatchClosed = errors.New("the file watcher was closed")

// A watch is the state of one Watch.
type watch struct {
	notify *fsnotify.Watcher
	path   string            // absolute
	steps  map[string]bool   // the paths whose events count
	inodes map[string]uint64 // inode number of each watched directory
}

// wait returns nil when a step has changed and then settled.
func (w *watch) wait(ctx context.Context) error {
	var quiet, latest <-chan time.Time
	for {
		relevant := false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-w.notify.Events:
			if !ok {
				return errWatchClosed
			}
			relevant = w.steps[e.Name]
		case err, ok := <-w.notify.Errors:
			if !ok {
				return errWatchClosed
			}
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return err
			}
			relevant = true // the lost events may have been about a step
		case <-quiet:
			return nil
		case <-latest:
			return nil
		}
		if relevant {
			quiet = time.After(settle)
			if latest == nil {
				latest = time.After(settleMax)
			}
		}
	}
}

// aim finds the present steps to the file and watches their directories. A directory that
// was replaced has another inode and needs a new watch.
func (w *watch) aim() error {
	w.steps = map[string]bool{}
	wanted := map[string]bool{}
	w.follow(w.path, wanted)
	for dir := range w.inodes {
		if !wanted[dir] || inode(dir) != w.inodes[dir] {
			_ = w.notify.Remove(dir) // fails if the kernel has removed it with the directory
			delete(w.inodes, dir)
		}
	}
	for dir := range wanted {
		number := inode(dir)
		if w.inodes[dir] != 0 || number == 0 {
			continue
		}
		if err := w.notify.Add(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		w.inodes[dir] = number
	}
	return nil
}

// follow walks to the file as the kernel does (path_resolution(7)) and notes the steps and
// their directories.
func (w *watch) follow(path string, dirs map[string]bool) {
	for range maxLinks {
		target := w.walk(path, dirs)
		if target == "" {
			return
		}
		path = target
	}
}

// walk goes down the path to the first symbolic link. It returns the path with the link
// replaced by its target; empty if the path has no link, or does not exist.
func (w *watch) walk(path string, dirs map[string]bool) string {
	names := strings.Split(strings.Trim(path, "/"), "/")
	at := "/"
	for i, name := range names {
		dirs[at] = true
		step := filepath.Join(at, name)
		w.steps[step] = true
		info, err := os.Lstat(step)
		if err != nil {
			return ""
		}
		if info.Mode()&os.ModeSymlink != 0 {
			target, err := os.Readlink(step)
			if err != nil {
				return ""
			}
			if !filepath.IsAbs(target) {
				target = filepath.Join(at, target)
			}
			return filepath.Join(append([]string{target}, names[i+1:]...)...)
		}
		at = step
	}
	return ""
}

// inode returns the inode number at path; 0 if nothing exists there.
func inode(path string) uint64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Ino
	}
	return 1
}
