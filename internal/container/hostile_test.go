package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"example.org/meshd/internal/budget"
	"example.org/meshd/internal/foreign"
	"example.org/meshd/internal/nstest"
)

// service is the user that the service is, in its own folders, when root cleans up behind it.
const service = 65534

// newServiceLife is a life whose folders are the service's.
func newServiceLife(t *testing.T) life {
	nstest.Require(t)
	l := newLife(t)
	for _, dir := range []string{filepath.Dir(l.notices), filepath.Dir(l.env), filepath.Dir(l.conf)} {
		must(t, os.MkdirAll(dir, 0o755), os.Chown(dir, service, service))
	}
	return l
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// own makes files the service's.
func own(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		must(t, os.Lchown(path, service, service))
	}
}

// claim writes a note of the service's that files with a content are ours.
func (l life) claim(content string, paths ...string) {
	l.t.Helper()
	n := note{}
	for _, path := range paths {
		n[path] = hash([]byte(content))
	}
	doc, err := json.Marshal(n)
	must(l.t, err, os.WriteFile(l.notices, doc, 0o600))
	own(l.t, l.notices)
}

const body = "FLANNEL_MTU=1472\n"

// What the service has written goes, whether root or the service cleans up.
func TestCleanUpBehindTheService(t *testing.T) {
	l := newServiceLife(t)
	l.set(l.settings())
	own(t, l.notices, l.env, l.conf)
	if removed, err := l.cleanUp(); err != nil || len(removed) != 2 {
		t.Errorf("removed %q, %v", removed, err)
	}
	l.gone(l.notices, l.env, l.conf)
}

// A daemon that root ran once, in folders that are the service's.
func TestCleanUpBehindRoot(t *testing.T) {
	l := newServiceLife(t)
	l.set(l.settings())
	if removed, err := l.cleanUp(); err != nil || len(removed) != 2 {
		t.Errorf("removed %q, %v", removed, err)
	}
	l.gone(l.notices, l.env, l.conf)
}

// The service claims files that it could not remove itself.
func TestClaims(t *testing.T) {
	l := newServiceLife(t)
	etc := t.TempDir()
	precious := filepath.Join(etc, "precious")
	must(t, os.WriteFile(precious, []byte(body), 0o644))
	dir := filepath.Dir(l.env)
	link, loop, twin := filepath.Join(dir, "link"), filepath.Join(dir, "loop"), filepath.Join(dir, "twin")
	must(t, os.Symlink(etc, link), os.Symlink(loop, loop), os.Symlink(precious, twin))
	own(t, link, loop, twin)
	for name, path := range map[string]string{
		"by name": precious, "by a link": twin,
		"by a folder that is a link": filepath.Join(link, "precious"), "by a loop": filepath.Join(loop, "precious"),
	} {
		t.Run(name, func(t *testing.T) {
			l.claim(body, path)
			removed, err := l.cleanUp()
			if err == nil || len(removed) != 0 || !strings.Contains(err.Error(), "remove "+path) {
				t.Errorf("removed %q, %v", removed, err)
			}
			l.is(precious, []byte(body))
			l.gone(l.notices)
		})
	}
	t.Run("by another name of the file", func(t *testing.T) {
		must(t, os.Remove(twin), os.Link(precious, twin))
		l.claim(body, twin)
		if _, err := l.cleanUp(); err != nil {
			t.Error(err)
		}
		l.is(precious, []byte(body))
	})
}

// Once the file was read, its folder becomes a link to root's. A FIFO tells the attacker when
// that is, wherever one is read.
func TestFolderExchangedWhileRead(t *testing.T) {
	l := newServiceLife(t)
	etc := t.TempDir()
	precious := filepath.Join(etc, "file")
	must(t, os.WriteFile(precious, []byte(body), 0o644))
	dir := filepath.Join(filepath.Dir(l.env), "d")
	fifo := filepath.Join(dir, "file")
	must(t, os.Mkdir(dir, 0o755), syscall.Mkfifo(fifo, 0o600))
	own(t, dir, fifo)
	l.claim(body, fifo)
	swapped := make(chan error, 1)
	go func() {
		w, err := os.OpenFile(fifo, os.O_WRONLY, 0) // until somebody reads
		if err == nil {
			_, err = w.WriteString(body)
			err = errors.Join(err, os.Rename(dir, dir+"2"), os.Symlink(etc, dir), w.Close())
		}
		swapped <- err
	}()
	_, err := l.cleanUp()
	if !errors.Is(err, foreign.ErrNotRegular) {
		t.Error(err)
	}
	l.is(precious, []byte(body))
	// Nobody has read: the attacker still waits.
	r, err := os.OpenFile(fifo, os.O_RDONLY, 0)
	must(t, err, <-swapped, r.Close())
}

// The note itself may be anything; cleaning up ends, and files of root's stay.
func TestNoteOfOthers(t *testing.T) {
	l := newServiceLife(t)
	precious := filepath.Join(t.TempDir(), "precious")
	must(t, os.WriteFile(precious, []byte(body), 0o644))
	many := make([]string, maxFiles+1)
	for i := range many {
		many[i] = fmt.Sprintf("%s%d", l.env, i)
	}
	write := func(doc string) { must(t, os.WriteFile(l.notices, []byte(doc), 0o600)) }
	for name, c := range map[string]struct {
		make func()
		want error
		gone bool
	}{
		"a FIFO":   {func() { must(t, syscall.Mkfifo(l.notices, 0o600)) }, foreign.ErrNotRegular, false},
		"a link":   {func() { must(t, os.Symlink(precious, l.notices)) }, foreign.ErrNotRegular, false},
		"a folder": {func() { must(t, os.Mkdir(l.notices, 0o700)) }, foreign.ErrNotRegular, false},
		"huge":     {func() { write(""); must(t, os.Truncate(l.notices, 1<<40)) }, foreign.ErrTooLarge, true},
		"deep":     {func() { write(strings.Repeat("[", maxNote)) }, errNoNote, true},
		"long":     {func() { l.claim(body, many...) }, errNoNote, true},
		"null":     {func() { write("null") }, errNoNote, true},
		"relative": {func() { l.claim(body, "precious") }, errNoNote, true},
		"detours":  {func() { l.claim(body, "/tmp/../"+precious) }, errNoNote, true},
		"everybody's": {func() {
			l.claim(body, precious)
			must(t, os.Chmod(l.notices, 0o666))
		}, errWritable, true},
	} {
		t.Run(name, func(t *testing.T) {
			must(t, os.RemoveAll(l.notices))
			c.make()
			own(t, l.notices)
			if removed, err := l.cleanUp(); !errors.Is(err, c.want) || len(removed) != 0 {
				t.Errorf("removed %q, %v, want %v", removed, err, c.want)
			}
			if _, err := os.Lstat(l.notices); os.IsNotExist(err) != c.gone {
				t.Errorf("the note: %v", err)
			}
			l.is(precious, []byte(body))
			// A daemon starts all the same.
			if _, err := New(l.notices); (err == nil) != c.gone {
				t.Errorf("the next daemon: %v", err)
			}
		})
	}
}

// A daemon of root's does nothing because of a note of the service's, and does not make it one
// of root's.
func TestRootDoesNotBelieve(t *testing.T) {
	l := newServiceLife(t)
	precious := filepath.Join(t.TempDir(), "precious")
	must(t, os.WriteFile(precious, []byte(body), 0o644))
	l.claim(body, precious)
	f, err := New(l.notices)
	if !errors.Is(err, errAuthor) {
		t.Error(err)
	}
	if o := f.Set(l.settings()); o.Failed != nil || o.Left != nil {
		t.Errorf("%+v", o)
	}
	l.is(precious, []byte(body))
	if doc, err := os.ReadFile(l.notices); err != nil || strings.Contains(string(doc), precious) {
		t.Errorf("%s, %v", doc, err)
	}
	if _, err := l.cleanUp(); err != nil {
		t.Error(err)
	}
	l.is(precious, []byte(body))
}

// The configuration for CNI is found by its path in a folder that was given to the service.
func TestCNIConfOfTheService(t *testing.T) {
	l := newServiceLife(t)
	conf := string(l.settings().ConfList())
	precious := filepath.Join(t.TempDir(), "precious")
	must(t, os.WriteFile(precious, []byte(conf), 0o644), os.Symlink(precious, l.conf))
	if removed, err := l.cleanUp(); err == nil || len(removed) != 0 {
		t.Errorf("removed %q, %v", removed, err)
	}
	must(t, os.Remove(l.conf), syscall.Mkfifo(l.conf, 0o600))
	if removed, err := l.cleanUp(); err == nil || len(removed) != 0 {
		t.Errorf("removed %q, %v", removed, err)
	}
	l.is(precious, []byte(conf))
	must(t, os.Remove(l.conf), os.WriteFile(l.conf, []byte(conf), 0o644))
	own(t, l.conf)
	if removed, err := l.cleanUp(); err != nil || len(removed) != 1 {
		t.Errorf("removed %q, %v", removed, err)
	}
}

// A file of any size is another program's, unless it was ours; it is not read.
func TestLargeFile(t *testing.T) {
	l := newLife(t)
	s := l.settings()
	must(t, os.MkdirAll(filepath.Dir(l.env), 0o755), os.WriteFile(l.env, nil, 0o644), os.Truncate(l.env, 1<<40))
	f, err := New(l.notices)
	must(t, err)
	if o := f.Set(s); !errors.Is(o.Failed, errNotOurs) {
		t.Errorf("%+v", o)
	}
	must(t, os.Remove(l.env))
	l.set(s)
	must(t, os.Truncate(l.env, 1<<40))
	if news := l.set(s); len(news) != 1 || !strings.Contains(news[0], "changed by another program: restored") {
		t.Errorf("%q", news)
	}
	l.is(l.env, s.Environment())
}

// Whatever a note holds, what is believed has bounds.
func FuzzNote(f *testing.F) {
	f.Add([]byte(`{"/run/flannel/subnet.env":"` + hash(nil) + `"}`))
	f.Add([]byte(`{"a":"b"}`))
	f.Add([]byte(`{"/a/../b":1}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		defer budget.Of(t)()
		if len(doc) > maxNote {
			return
		}
		n, err := parseNote(doc)
		if (err == nil) != (n != nil) || len(n) > maxFiles {
			t.Errorf("%d files, %v", len(n), err)
		}
		for path, sum := range n {
			if !filepath.IsAbs(path) || path != filepath.Clean(path) || len(sum) != len(hash(nil)) {
				t.Errorf("%q: %q", path, sum)
			}
		}
	})
}
