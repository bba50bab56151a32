package config

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

// Editors save in many ways: in place, by renaming another file over it, by
// moving a symbolic link on the way to it, with the file or a whole directory
// missing for a while. A watch on the file itself is deaf after the first of
// these, so the directories are watched: of the file, of every link that leads to
// it, and of those directories themselves.
//
//	step    a path on the way to the file whose replacement leads elsewhere
//	settle  the time without events after which an edit is taken to be done

const (
	settle    = 50 * time.Millisecond
	settleMax = 500 * time.Millisecond // for a file that is written without end
	maxLinks  = 40                     // as the kernel follows (MAXSYMLINKS)
)

// Watch calls changed once at the start, and then a moment after each time the
// content at path may have become another. It reads nothing itself. It blocks
// until ctx ends (nil) or the kernel's messages cannot be read.
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

type watch struct {
	notify *fsnotify.Watcher
	path   string
	steps  map[string]bool
	inodes map[string]uint64 // of the directories that are watched
}

// wait returns when something on the way to the file has changed and settled.
func (w *watch) wait(ctx context.Context) error {
	var quiet, latest <-chan time.Time
	for {
		relevant := false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-w.notify.Events:
			if !ok {
				return errors.New("the watch was closed")
			}
			relevant = w.steps[e.Name]
		case err, ok := <-w.notify.Errors:
			if !ok {
				return errors.New("the watch was closed")
			}
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return err
			}
			relevant = true // who knows what was lost
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

// aim finds the steps to the file as they are now, and watches their directories.
func (w *watch) aim() error {
	w.steps = map[string]bool{}
	wanted := map[string]bool{}
	w.follow(w.path, wanted)
	for dir := range w.inodes {
		if !wanted[dir] || inode(dir) != w.inodes[dir] {
			_ = w.notify.Remove(dir) // the kernel may have done so
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

// follow walks to the file as the kernel does, noting steps and directories.
func (w *watch) follow(path string, dirs map[string]bool) {
	for range maxLinks {
		target := w.walk(path, dirs)
		if target == "" {
			return
		}
		path = target
	}
}

// walk goes down to the first symbolic link, and returns where it leads with the
// rest of the path behind it; empty if there is none, or nothing more.
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

// inode returns the number of what is at path; 0 if there is nothing.
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
