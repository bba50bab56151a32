package source

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// watched reports the content of a file each time Watch says it may have changed.
type watched struct {
	t    *testing.T
	path string
	seen chan string
}

func watching(t *testing.T, path string) *watched {
	w := &watched{t: t, path: path, seen: make(chan string, 100)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- Watch(ctx, path, func() {
			b, err := os.ReadFile(path)
			if err != nil {
				b = []byte("missing")
			}
			w.seen <- string(b)
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w
}

// sees waits until the content is reported; others may come before.
func (w *watched) sees(what, content string) {
	w.t.Helper()
	deadline := time.After(5 * time.Second)
	for {
		select {
		case got := <-w.seen:
			if got == content {
				return
			}
		case <-deadline:
			w.t.Fatalf("%s: %q was not noticed", what, content)
		}
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func put(path, content string) error { return os.WriteFile(path, []byte(content), 0o644) }

// Every way of saving is noticed, one after the other on the same watch.
func TestWatchSeesEverySave(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "etc", "mesh.toml")
	must(t, os.Mkdir(filepath.Dir(path), 0o755), put(path, "first"))
	w := watching(t, path)
	w.sees("start", "first")

	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteString("FIRST")
	must(t, err, f.Close())
	w.sees("in place", "FIRST")

	must(t, put(path, "truncated"))
	w.sees("truncate and write", "truncated")

	for _, content := range []string{"renamed over", "and again"} {
		must(t, put(path+".new", content), os.Rename(path+".new", path))
		w.sees("rename over", content)
	}

	must(t, os.Rename(path, path+"~"), put(path, "vim with backup"))
	w.sees("backup and write", "vim with backup")

	must(t, os.Remove(path))
	w.sees("remove", "missing")
	must(t, put(path, "back"))
	w.sees("back", "back")

	must(t, os.Rename(filepath.Dir(path), filepath.Join(dir, "old")))
	w.sees("directory gone", "missing")
	must(t, os.Mkdir(filepath.Dir(path), 0o755))
	must(t, put(path, "another directory"))
	w.sees("directory replaced", "another directory")
	must(t, put(path, "in it"))
	w.sees("in the new directory", "in it")

	must(t, os.RemoveAll(filepath.Dir(path)))
	w.sees("directory deleted", "missing")
	must(t, os.Mkdir(filepath.Dir(path), 0o755), put(path, "once more"))
	w.sees("directory made again", "once more")
}

// A Kubernetes ConfigMap: the file is a link through ..data, which is swapped.
func TestWatchSeesSwappedLinks(t *testing.T) {
	dir := t.TempDir()
	in := func(names ...string) string { return filepath.Join(append([]string{dir}, names...)...) }
	for _, version := range []string{"v1", "v2", "v3"} {
		must(t, os.Mkdir(in(version), 0o755), put(in(version, "mesh.toml"), version))
	}
	must(t, os.Symlink("v1", in("..data")), os.Symlink("..data/mesh.toml", in("mesh.toml")))
	w := watching(t, in("mesh.toml"))
	w.sees("start", "v1")
	for _, version := range []string{"v2", "v3", "v1"} {
		must(t, os.Symlink(version, in("..tmp")), os.Rename(in("..tmp"), in("..data")))
		w.sees("swap", version)
	}
	must(t, put(in("v1", "mesh.toml"), "written through"))
	w.sees("behind the links", "written through")

	// A link to a file elsewhere, absolute.
	other := filepath.Join(t.TempDir(), "elsewhere.toml")
	must(t, put(other, "elsewhere"), os.Symlink(other, in("..tmp")), os.Rename(in("..tmp"), in("mesh.toml")))
	w.sees("an absolute link", "elsewhere")
	must(t, put(other+".new", "elsewhere 2"), os.Rename(other+".new", other))
	w.sees("there", "elsewhere 2")

	// Links in a circle are no reason to give up.
	must(t, os.Symlink("mesh.toml", in("..tmp")), os.Rename(in("..tmp"), in("mesh.toml")))
	w.sees("a circle", "missing")
	must(t, os.Symlink("v2/mesh.toml", in("..tmp")), os.Rename(in("..tmp"), in("mesh.toml")))
	w.sees("out of the circle", "v2")
}

// What happens beside the file is no news.
func TestWatchIgnoresNeighbours(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "mesh.toml")
	must(t, put(path, "a"))
	w := watching(t, path)
	w.sees("start", "a")
	for range 20 {
		must(t, put(filepath.Join(dir, "other"), "x"), os.Remove(filepath.Join(dir, "other")))
	}
	must(t, put(path, "b"))
	if got := <-w.seen; got != "b" {
		t.Errorf("reported %q", got)
	}
}

// The way to a file: every name on it counts, and behind a link those of its target.
func TestWalk(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	in := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.Mkdir(in("real"), 0o755), put(in("real/file"), ""), os.Symlink("real", in("link")),
		os.Symlink(in("link/file"), in("absolute")), os.Symlink("circle", in("circle")))
	for path, want := range map[string][]string{
		"real/file":  {"real", "real/file"},
		"link/file":  {"link", "real", "real/file"},
		"absolute":   {"absolute", "link", "real", "real/file"},
		"real/none":  {"real", "real/none"},
		"none/file":  {"none"},
		"circle":     {"circle"},
		"circle/sub": {"circle"},
	} {
		t.Run(strings.ReplaceAll(path, "/", "_"), func(t *testing.T) {
			w := &watch{steps: map[string]bool{}}
			w.follow(in(path), map[string]bool{})
			var got []string
			for step := range w.steps {
				if name, below := strings.CutPrefix(step, dir+"/"); below {
					got = append(got, name)
				}
			}
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}
