package foreign

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The tests of this file need no other user: they show what every user of the package gets.

// opened returns an open folder that belongs to this process alone.
func opened(t *testing.T) *Folder {
	t.Helper()
	f, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

func write(t *testing.T, folder *Folder, name, content string) string {
	t.Helper()
	path := filepath.Join(folder.Path(), name)
	if err := os.WriteFile(path, []byte(content), 0o640); err != nil {
		t.Fatal(err)
	}
	return path
}

// A read has a bound: one byte more is an error, and never a truncated content.
func TestReadHasABound(t *testing.T) {
	path := write(t, opened(t), "file", "12345")
	for max, want := range map[int64]error{4: ErrTooLarge, 5: nil, 6: nil} {
		t.Run(fmt.Sprint(max), func(t *testing.T) {
			found, err := ReadFile(path, max)
			if !errors.Is(err, want) {
				t.Fatalf("%v, want %v", err, want)
			}
			if want == nil && (string(found.Content) != "12345" || found.Mode != 0o640) {
				t.Errorf("%q, mode %o", found.Content, found.Mode)
			}
		})
	}
}

// A file of /proc says that its size is 0: the bound counts bytes that were read.
func TestReadDoesNotBelieveTheSize(t *testing.T) {
	if _, err := ReadFile("/proc/self/status", 10); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	found, err := ReadFile("/proc/self/status", 1<<20)
	if err != nil || !strings.HasPrefix(string(found.Content), "Name:") {
		t.Errorf("%q, %v", found.Content, err)
	}
}

// ReadFile takes a regular file only, and says what is missing.
func TestReadFileRefuses(t *testing.T) {
	f := opened(t)
	link := filepath.Join(f.Path(), "link")
	if err := os.Symlink(write(t, f, "file", ""), link); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		path string
		want error
	}{
		"a folder":        {f.Path(), ErrNotRegular},
		"a device":        {"/dev/null", ErrNotRegular},
		"a symbolic link": {link, ErrNotRegular},
		"nothing":         {filepath.Join(f.Path(), "none"), fs.ErrNotExist},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ReadFile(test.path, 10); !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
		})
	}
}

// A path leads where the kernel would lead it, as long as its links are trusted ones.
func TestOpenFollowsTrustedLinks(t *testing.T) {
	f := opened(t)
	path := func(parts ...string) string { return filepath.Join(append([]string{f.Path()}, parts...)...) }
	err := errors.Join(os.MkdirAll(path("a", "b"), 0o755), os.Symlink("a", path("relative")),
		os.Symlink(path("a"), path("absolute")), os.Symlink("../relative", path("a", "up")),
		os.Symlink("loop", path("loop")), os.WriteFile(path("file"), nil, 0o644))
	if err != nil {
		t.Fatal(err)
	}
	for way, want := range map[string]error{
		"a/b": nil, "relative/b": nil, "absolute/b": nil, "a/up/b": nil, "a//./b/": nil, "a/../a/b": nil,
		"loop/b": unix.ELOOP, "file/b": unix.ENOTDIR, "a/none/b": fs.ErrNotExist,
	} {
		t.Run(strings.ReplaceAll(way, "/", "_"), func(t *testing.T) {
			got, err := Open(f.Path() + "/" + way)
			if !errors.Is(err, want) {
				t.Fatalf("%v, want %v", err, want)
			}
			if err != nil {
				return
			}
			defer got.Close()
			if got.Path() != path("a", "b") {
				t.Errorf("it is %s", got.Path())
			}
		})
	}
}

// The life of a folder: it is made with a private mode, filled, listed and emptied.
func TestFolderLife(t *testing.T) {
	f := opened(t)
	made, err := f.Make("pins")
	if err != nil {
		t.Fatal(err)
	}
	defer made.Close()
	if info, err := os.Stat(made.Path()); err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("%v, %v", info, err)
	}
	if names, err := made.Names(); err != nil || len(names) != 0 {
		t.Errorf("an empty folder has %q, %v", names, err)
	}
	write(t, made, "one", "")
	write(t, made, "two", "")
	again, err := f.Make("pins") // exists: opened as it is
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	names, err := again.Names()
	if slices.Sort(names); err != nil || !slices.Equal(names, []string{"one", "two"}) {
		t.Errorf("%q, %v", names, err)
	}
	if err := f.RemoveFolder("pins"); !errors.Is(err, unix.ENOTEMPTY) {
		t.Errorf("a full folder: %v", err)
	}
	if err := errors.Join(made.Unlink("one"), made.Unlink("two"), f.RemoveFolder("pins")); err != nil {
		t.Error(err)
	}
	if err := made.Unlink("one"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a name that is gone: %v", err)
	}
}

// LetPass sets one bit, and Own notices the bits that let others make names.
func TestModes(t *testing.T) {
	f := opened(t)
	for mode, want := range map[fs.FileMode]error{
		0o700: nil, 0o711: nil, 0o755: nil, 0o770: ErrUntrusted, 0o702: ErrUntrusted,
	} {
		t.Run(fmt.Sprintf("%o", mode), func(t *testing.T) {
			path := filepath.Join(f.Path(), fmt.Sprintf("%o", mode))
			if err := errors.Join(os.Mkdir(path, 0o700), os.Chmod(path, mode)); err != nil {
				t.Fatal(err)
			}
			folder, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer folder.Close()
			if err := folder.Own(); !errors.Is(err, want) {
				t.Errorf("Own: %v, want %v", err, want)
			}
			if err := folder.LetPass(); err != nil {
				t.Error(err)
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode|0o001 {
				t.Errorf("after LetPass: %v, %v", info.Mode(), err)
			}
		})
	}
}

// Holds knows the file system of /proc from that of another folder.
func TestHolds(t *testing.T) {
	proc, err := Open("/proc")
	if err != nil {
		t.Fatal(err)
	}
	defer proc.Close()
	if holds, err := proc.Holds(unix.PROC_SUPER_MAGIC); err != nil || !holds {
		t.Errorf("/proc: %v, %v", holds, err)
	}
	if holds, err := opened(t).Holds(unix.PROC_SUPER_MAGIC); err != nil || holds {
		t.Errorf("another folder: %v, %v", holds, err)
	}
}
