package container

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"example.org/meshd/internal/foreign"
)

// life is a folder for files and their note.
type life struct {
	t                  *testing.T
	env, conf, notices string
}

func newLife(t *testing.T) life {
	dir := t.TempDir()
	return life{t, filepath.Join(dir, "flannel", "subnet.env"), filepath.Join(dir, "net.d", "10-mesh.conflist"),
		filepath.Join(dir, "meshd.files")}
}

// set writes files as another run of meshd would, and returns the news.
func (l life) set(s Settings) []string {
	l.t.Helper()
	f, err := New(l.notices)
	if err != nil {
		l.t.Fatal(err)
	}
	o := f.Set(s)
	if err := errors.Join(o.Failed, o.Left); err != nil {
		l.t.Fatal(err)
	}
	return o.News
}

// cleanUp returns what was removed.
func (l life) cleanUp() (removed []string, err error) {
	err = CleanUp(l.notices, l.conf, func(path string, gone bool) {
		if gone {
			removed = append(removed, path)
		}
	})
	return removed, err
}

func (l life) settings() Settings {
	s := cases["ipv4"]
	s.SubnetEnv, s.CNIConf = l.env, l.conf
	return s
}

func (l life) is(path string, want []byte) {
	l.t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != string(want) {
		l.t.Errorf("%s is %q, %v, want %q", path, got, err, want)
		return
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o644 {
		l.t.Errorf("%s: %v, %v", path, info.Mode(), err)
	}
}

func (l life) gone(paths ...string) {
	l.t.Helper()
	for _, path := range paths {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			l.t.Errorf("%s is there: %v", path, err)
		}
	}
}

func TestFilesFollowSettings(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077)) // as the service has it
	l := newLife(t)
	s := l.settings()
	if restored := l.set(s); len(restored) != 0 {
		t.Errorf("restored %q", restored)
	}
	l.is(l.env, s.Environment())
	l.is(l.conf, s.ConfList())

	s.MTU = 1400
	if restored := l.set(s); len(restored) != 0 {
		t.Errorf("restored %q", restored)
	}
	l.is(l.env, s.Environment())

	// Somebody removes one and changes the other.
	if err := os.Remove(l.env); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.conf, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := []string{
		l.env + " was removed by another program: restored", l.conf + " was changed by another program: restored",
	}
	if news := l.set(s); !slices.Equal(news, want) {
		t.Errorf("%q", news)
	}
	// Also its mode.
	if err := os.Chmod(l.env, 0o600); err != nil {
		t.Fatal(err)
	}
	l.set(s)
	l.is(l.env, s.Environment())
	l.is(l.conf, s.ConfList())

	// Not wanted any more, or at another place.
	elsewhere := s
	elsewhere.SubnetEnv, elsewhere.CNIConf = l.env+".moved", ""
	l.set(elsewhere)
	l.gone(l.env, l.conf)
	l.is(elsewhere.SubnetEnv, s.Environment())
}

func TestUnchangedFilesAreNotWritten(t *testing.T) {
	l := newLife(t)
	l.set(l.settings())
	before, err := os.Stat(l.env)
	if err != nil {
		t.Fatal(err)
	}
	l.set(l.settings())
	if after, err := os.Stat(l.env); err != nil || !os.SameFile(before, after) {
		t.Errorf("written again, %v", err)
	}
}

func TestCleanUpTakesOnlyWhatIsOurs(t *testing.T) {
	l := newLife(t)
	s := l.settings()
	l.set(s)
	if err := os.WriteFile(l.conf, []byte("{\"name\": \"mine\"}"), 0o644); err != nil {
		t.Fatal(err)
	}
	removed, err := l.cleanUp()
	if err != nil || !slices.Equal(removed, []string{l.env}) {
		t.Errorf("removed %q, %v", removed, err)
	}
	l.gone(l.env, l.notices)
	l.is(l.conf, []byte("{\"name\": \"mine\"}"))
	if removed, err := l.cleanUp(); err != nil || len(removed) != 0 {
		t.Errorf("again: removed %q, %v", removed, err)
	}
}

// A note is no power of attorney: what never was a file of this kind stays.
func TestNoteCannotNameOtherFiles(t *testing.T) {
	l := newLife(t)
	other := filepath.Join(t.TempDir(), "passwd")
	content := []byte("root:x:0:0::/root:/bin/sh\n")
	if err := os.WriteFile(other, content, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := (note{other: hash(content)}).save(l.notices); err != nil {
		t.Fatal(err)
	}
	if removed, err := l.cleanUp(); err != nil || len(removed) != 0 {
		t.Errorf("removed %q, %v", removed, err)
	}
	l.is(other, content)

	if err := os.WriteFile(l.notices, []byte("no JSON"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.cleanUp(); err == nil || !strings.Contains(err.Error(), l.notices) {
		t.Errorf("a note that nobody understands: %v", err)
	}
	l.gone(l.notices)
}

// A device, a folder or somebody's link is not replaced by a file.
func TestOnlyOrdinaryFilesAreReplaced(t *testing.T) {
	l := newLife(t)
	dir := t.TempDir()
	link, pipe := filepath.Join(dir, "link"), filepath.Join(dir, "pipe")
	if err := errors.Join(os.Symlink("elsewhere", link), syscall.Mkfifo(pipe, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, pipe, dir} {
		before, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := New(l.notices)
		if err != nil {
			t.Fatal(err)
		}
		s := cases["ipv4"]
		s.SubnetEnv = path
		if o := f.Set(s); !errors.Is(o.Failed, foreign.ErrNotRegular) {
			t.Errorf("%s: %+v", path, o)
		}
		if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
			t.Errorf("%s was replaced: %v", path, err)
		}
	}
}

// What can be written is, and the error names the rest.
func TestOneFileFails(t *testing.T) {
	l := newLife(t)
	s := l.settings()
	s.CNIConf = "/proc/no/such/10-mesh.conflist"
	f, err := New(l.notices)
	if err != nil {
		t.Fatal(err)
	}
	words := ""
	for range 2 {
		o := f.Set(s)
		if o.Failed == nil || !strings.Contains(o.Failed.Error(), s.CNIConf) || len(o.News) != 0 {
			t.Fatalf("%+v", o)
		}
		if words != "" && o.Failed.Error() != words {
			t.Errorf("%v, before %q", o.Failed, words)
		}
		words = o.Failed.Error() // the same each time: it is said once
	}
	l.is(l.env, s.Environment())
}

// What another program wrote is not ours to replace, but for flannel's subnet.env.
func TestOthersFiles(t *testing.T) {
	l := newLife(t)
	s := l.settings()
	for path, content := range map[string]string{
		l.env: "FLANNEL_NETWORK=10.1.0.0/16\n", l.conf: "{\"name\": \"mine\"}\n",
	} {
		err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644))
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := New(l.notices)
	if err != nil {
		t.Fatal(err)
	}
	o := f.Set(s)
	want := []string{l.env + " was written by another program: replaced"}
	if !slices.Equal(o.News, want) || !errors.Is(o.Failed, errNotOurs) {
		t.Errorf("%+v", o)
	}
	l.is(l.env, s.Environment())
	l.is(l.conf, []byte("{\"name\": \"mine\"}\n"))
}

// What cannot be removed is no reason not to write the rest, and is tried again.
func TestOldFileStays(t *testing.T) {
	l := newLife(t)
	s := l.settings()
	l.set(s)
	f, err := New(l.notices)
	if err != nil {
		t.Fatal(err)
	}
	// A folder in the place of a file cannot be read as one.
	if err := errors.Join(os.Remove(l.conf), os.Mkdir(l.conf, 0o755)); err != nil {
		t.Fatal(err)
	}
	s.CNIConf = l.conf + ".moved"
	for range 2 {
		if o := f.Set(s); o.Failed != nil || o.Left == nil || !strings.Contains(o.Left.Error(), l.conf) {
			t.Errorf("%+v", o)
		}
	}
	l.is(s.CNIConf, s.ConfList())
	if err := os.Remove(l.conf); err != nil {
		t.Fatal(err)
	}
	if o := f.Set(s); o.Left != nil {
		t.Errorf("%+v", o)
	}
}

// After a reboot nothing in /run tells of the configuration for CNI.
func TestCleanUpWithoutNote(t *testing.T) {
	l := newLife(t)
	l.set(l.settings())
	if err := os.Remove(l.notices); err != nil {
		t.Fatal(err)
	}
	if removed, err := l.cleanUp(); err != nil || !slices.Equal(removed, []string{l.conf}) {
		t.Errorf("removed %q, %v", removed, err)
	}
}
