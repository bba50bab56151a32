package foreign

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/nstest"
)

// Users that the service may be, and another one.
const (
	service = 65534
	third   = 65533
)

// ground is a folder of root's with one of the service's in it.
type ground struct {
	*testing.T
	root, own string
}

func newGround(t *testing.T) ground {
	nstest.Require(t)
	g := ground{t, t.TempDir(), ""}
	g.own = g.folder(service, 0o755, g.root, "own")
	return g
}

// folder makes a folder of a user's and returns its path.
func (g ground) folder(user int, mode fs.FileMode, parts ...string) string {
	g.Helper()
	path := filepath.Join(parts...)
	g.must(os.Mkdir(path, 0o700), os.Chown(path, user, user), os.Chmod(path, mode))
	return path
}

// file writes a file of a user's and returns its path.
func (g ground) file(user int, parts ...string) string {
	g.Helper()
	path := filepath.Join(parts...)
	g.must(os.WriteFile(path, []byte("content"), 0o644), os.Chown(path, user, user))
	return path
}

func (g ground) link(user int, to string, parts ...string) string {
	g.Helper()
	path := filepath.Join(parts...)
	g.must(os.Symlink(to, path), os.Lchown(path, user, user))
	return path
}

func (g ground) must(errs ...error) {
	g.Helper()
	if err := errors.Join(errs...); err != nil {
		g.Fatal(err)
	}
}

func (g ground) open(path string) *File {
	g.Helper()
	f, err := OpenFile(path)
	g.must(err)
	g.Cleanup(f.Close)
	return f
}

// is tells whether a path is there, as it should be.
func (g ground) is(path string, there bool) {
	g.Helper()
	if _, err := os.Lstat(path); (err == nil) != there {
		g.Errorf("%s: %v", path, err)
	}
}

// What may be in another user's folder by his hand is removed with his rights alone, and then the
// process has all of its own again.
func TestRemove(t *testing.T) {
	g := newGround(t)
	sticky := g.folder(0, 0o777|fs.ModeSticky, g.root, "tmp")
	for _, c := range []struct {
		name, path string
		user       uint32 // on whose behalf
		removed    bool
	}{
		{"root's in root's folder", g.file(0, g.root, "a"), 0, true},
		{"root's in root's folder, for the service", g.file(0, g.root, "b"), service, false},
		{"the service's in root's folder, for the service", g.file(service, g.root, "c"), service, false},
		{"root's in the service's folder", g.file(0, g.own, "a"), 0, true},
		{"the service's", g.file(service, g.own, "b"), service, true},
		{"the service's, for another user", g.file(service, g.own, "c"), third, false},
		{"root's in everybody's folder, for the service", g.file(0, sticky, "a"), service, false},
		{"root's in everybody's folder", g.file(0, sticky, "b"), 0, true},
		{"the service's in everybody's folder", g.file(service, sticky, "c"), 0, true},
		{"root's in root's folder in the service's", g.file(0, g.folder(0, 0o700, g.own, "sub"), "a"), 0, true},
		{"the same, for the service", g.file(0, g.folder(0, 0o755, g.own, "sub2"), "a"), service, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, err := rightsOfThread()
			g.must(err)
			err = g.open(c.path).Remove(c.user)
			if (err == nil) != c.removed || err != nil && !errors.Is(err, fs.ErrPermission) {
				t.Errorf("removed: %v", err)
			}
			g.is(c.path, !c.removed)
			after, err := rightsOfThread()
			user, _ := unix.SetfsuidRetUid(-1)
			if err != nil || user != 0 || after.able != before.able || !slices.Equal(after.groups, before.groups) {
				t.Errorf("%v, user %d, %+v, before %+v", err, user, after, before)
			}
		})
	}
}

// Whose a file is decides on whose behalf is done what it says.
func TestAuthor(t *testing.T) {
	g := newGround(t)
	for path, want := range map[string]uint32{
		g.file(0, g.root, "a"): 0, g.file(service, g.root, "b"): service,
		g.file(0, g.own, "a"): service, g.file(service, g.own, "b"): service,
	} {
		if got := g.open(path).Author(); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
}

// A link is followed where root alone can have put it.
func TestLinks(t *testing.T) {
	g := newGround(t)
	target := g.folder(0, 0o755, g.root, "target")
	file := g.file(0, target, "file")
	sticky, group := g.folder(0, 0o777|fs.ModeSticky, g.root, "tmp"), g.folder(0, 0o775, g.root, "group")
	for _, c := range []struct {
		name, folder string
		followed     bool
	}{
		{"root's", g.link(0, target, g.root, "link"), true},
		{"root's, relative", g.link(0, "target", g.root, "relative"), true},
		{"root's, back and forth", g.link(0, "../"+filepath.Base(g.root)+"/./link", g.root, "back"), true},
		{"root's in a loop", g.link(0, "loop", g.root, "loop"), false},
		{"the service's in root's folder", g.link(service, target, g.root, "his"), false},
		{"the service's", g.link(service, target, g.own, "link"), false},
		{"root's in the service's folder", g.link(0, target, g.own, "root"), false},
		{"root's behind the service's folder", g.link(0, target, g.folder(0, 0o755, g.own, "sub"), "link"), false},
		{"root's in everybody's folder", g.link(0, target, sticky, "link"), false},
		{"root's in a group's folder", g.link(0, target, group, "link"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := OpenFile(filepath.Join(c.folder, "file"))
			if (err == nil) != c.followed {
				t.Fatal(err)
			}
			if err == nil {
				if f.folder.path != target {
					t.Errorf("%s, want %s", f.folder.path, target)
				}
				f.Close()
			}
		})
	}
	// The last part of a path is no way.
	if _, err := OpenFile(g.link(0, file, g.root, "file")); !errors.Is(err, ErrNotRegular) {
		t.Error(err)
	}
	root, err := Open(g.root)
	g.must(err)
	defer root.Close()
	if f, err := root.Folder("link"); !errors.Is(err, ErrUntrusted) {
		t.Error(f, err)
	}
}

// A way that others than one user and root could have laid leads nowhere.
func TestWay(t *testing.T) {
	g := newGround(t)
	open := g.folder(0, 0o775, g.root, "group")
	for name, path := range map[string]string{
		"below a folder of a group":                  g.file(0, g.folder(0, 0o755, open, "sub"), "a"),
		"a third user's folder below another user's": g.file(0, g.folder(third, 0o755, g.own, "theirs"), "a"),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := OpenFile(path); !errors.Is(err, ErrUntrusted) {
				t.Errorf("%s: %v", path, err)
			}
		})
	}
	for _, path := range []string{filepath.Join(g.root, "none"), filepath.Join(g.root, "none", "none")} {
		if _, err := OpenFile(path); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	}
	if _, err := OpenFile(filepath.Join(g.file(0, g.root, "a"), "b")); !errors.Is(err, syscall.ENOTDIR) {
		t.Error(err)
	}
}

// What is no ordinary file is not opened: a FIFO would block, a device could do anything.
func TestNotRegular(t *testing.T) {
	g := newGround(t)
	fifo, device := filepath.Join(g.own, "fifo"), filepath.Join(g.own, "device")
	// No driver has the number: opening it is ENXIO.
	g.must(unix.Mkfifo(fifo, 0o600))
	g.must(unix.Mknod(device, unix.S_IFCHR|0o600, int(unix.Mkdev(60, 0))))
	for _, path := range []string{fifo, device, g.own, g.link(0, fifo, g.own, "link")} {
		if _, err := OpenFile(path); !errors.Is(err, ErrNotRegular) {
			t.Errorf("%s: %v", path, err)
		}
		if _, err := ReadFile(path, 100); !errors.Is(err, ErrNotRegular) {
			t.Errorf("%s: %v", path, err)
		}
	}
	path := g.file(0, g.root, "file")
	if found, err := ReadFile(path, 7); err != nil || string(found.Content) != "content" || found.Mode != 0o644 {
		t.Errorf("%+v, %v", found, err)
	}
	if _, err := ReadFile(path, 6); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if _, err := ReadFile("/proc/self/status", 6); !errors.Is(err, ErrTooLarge) { // its size is 0
		t.Error(err)
	}
}

// Between the look and the removal the service exchanges folders and files.
func TestExchanged(t *testing.T) {
	g := newGround(t)
	precious := g.file(0, g.folder(0, 0o755, g.root, "etc"), "file")

	// Its folder becomes a link to root's.
	path := g.file(service, g.folder(service, 0o755, g.own, "d"), "file")
	f := g.open(path)
	g.must(os.Rename(filepath.Dir(path), filepath.Join(g.own, "d2")))
	g.link(service, filepath.Dir(precious), g.own, "d")
	g.must(f.Remove(0))
	g.is(precious, true)
	g.is(filepath.Join(g.own, "d2", "file"), false)

	// Its file becomes a FIFO before it is read, and a link before it is removed.
	path = g.file(service, g.own, "file")
	f = g.open(path)
	g.must(os.Rename(path, path+"2"), unix.Mkfifo(path, 0o600))
	if content, err := f.Read(100); err != nil || string(content) != "content" {
		t.Errorf("%q, %v", content, err)
	}
	if err := f.Remove(0); !errors.Is(err, ErrReplaced) {
		t.Error(err)
	}
	g.is(path, true)
	g.must(os.Remove(path))
	if err := f.Remove(0); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}

	// Root's folder, into which the service's becomes a link while it is looked at.
	f = g.open(g.file(0, g.folder(0, 0o755, g.own, "e"), "file"))
	g.must(os.Rename(filepath.Join(g.own, "e"), filepath.Join(g.own, "e2")))
	g.link(service, filepath.Dir(precious), g.own, "e")
	if err := f.Remove(service); !errors.Is(err, fs.ErrPermission) {
		t.Error(err)
	}
	g.is(precious, true)
}

// Without the capability to become another user nothing is done at all.
func TestCannotBecome(t *testing.T) {
	nstest.Require(t)
	if os.Getenv("MESH_NO_SETUID") != "" {
		called := false
		err := as(service, func() error { called = true; return nil })
		if !errors.Is(err, fs.ErrPermission) || called {
			t.Errorf("%v, called %v", err, called)
		}
		return
	}
	cmd := exec.Command("setpriv", "--bounding-set", "-setuid", os.Args[0], "-test.run", "^TestCannotBecome$")
	cmd.Env = append(os.Environ(), "MESH_NO_SETUID=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// A folder is given with what root has put there, and only if root alone could.
func TestGive(t *testing.T) {
	g := newGround(t)
	root, err := Open(g.root)
	g.must(err)
	defer root.Close()
	owner := func(path string) int {
		info, err := os.Lstat(path)
		g.must(err)
		return int(info.Sys().(*syscall.Stat_t).Uid)
	}
	// give makes a folder what it is to be before, and gives it to the service.
	give := func(name string) error {
		f, err := root.Make(name)
		g.must(err)
		defer f.Close()
		return f.Give(service, service)
	}
	g.must(give("new"))
	if path := filepath.Join(g.root, "new"); owner(path) != service {
		t.Errorf("%s is user %d's", path, owner(path))
	}

	path := g.folder(0, 0o755, g.root, "filled")
	pin, link := g.file(0, path, "pin"), g.link(0, g.file(0, g.root, "precious"), path, "link")
	g.must(give("filled"), give("filled"))
	for path, want := range map[string]int{path: service, pin: service, link: service, g.root + "/precious": 0} {
		if owner(path) != want {
			t.Errorf("%s is user %d's", path, owner(path))
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
		t.Error(info.Mode(), err)
	}

	// What is in the service's folder may be another name of anything.
	other := filepath.Join(g.own, "other")
	g.must(os.Link(filepath.Join(g.root, "precious"), other), give("own"))
	if owner(other) != 0 {
		t.Error("a file of root's was given away")
	}
	for name, path := range map[string]string{
		"of a third user":      g.folder(third, 0o755, g.root, "third"),
		"that anybody changes": g.folder(0, 0o777, g.root, "everybody"),
	} {
		t.Run("a folder "+name, func(t *testing.T) {
			if err := give(filepath.Base(path)); !errors.Is(err, ErrUntrusted) {
				t.Error(err)
			}
			if owner(path) == service {
				t.Errorf("%s was given away", path)
			}
		})
	}
	g.link(third, g.folder(0, 0o755, g.root, "etc"), g.root, "link")
	if f, err := root.Make("link"); err == nil {
		t.Errorf("%s was opened", f.path)
	}
}
