package state

import (
	"bytes"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestWriteAndRead(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "a", "state")
	if _, err := Read(folder, "file", 10); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before: %v", err)
	}
	for _, write := range []func(folder, name string, content []byte) error{Write, Note} {
		for _, content := range []string{"first", "", "0123456789"} {
			must(t, write(folder, "file", []byte(content)))
			if got, err := Read(folder, "file", 10); err != nil || string(got) != content {
				t.Errorf("%q, %v, want %q", got, err, content)
			}
		}
	}
	if _, err := Read(folder, "file", 9); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a byte too much: %v", err)
	}
	if info, err := os.Stat(folder); err != nil || info.Mode().Perm()&0o027 != 0 {
		t.Errorf("the folder: %v, %v", info.Mode(), err)
	}
	if names, err := os.ReadDir(folder); err != nil || len(names) != 1 {
		t.Errorf("%v, %v", names, err)
	}
	if removed, err := Remove(folder, "file"); !removed || err != nil {
		t.Errorf("%v, %v", removed, err)
	}
	if removed, err := Remove(folder, "file"); removed || err != nil {
		t.Errorf("again: %v, %v", removed, err)
	}
}

// What a killed run has left beside the file, or another user has put there, is in nobody's way and is
// not written to.
func TestWriteBesideOthers(t *testing.T) {
	folder, precious := t.TempDir(), filepath.Join(t.TempDir(), "precious")
	must(t, os.WriteFile(precious, []byte("precious"), 0o644))
	beside, path := filepath.Join(folder, ".file.new"), filepath.Join(folder, "file")
	for name, put := range map[string]func(path string) error{
		"half a file": func(path string) error { return os.WriteFile(path, []byte("ha"), 0o644) },
		"a link":      func(path string) error { return os.Symlink(precious, path) },
		"a FIFO":      func(path string) error { return unix.Mkfifo(path, 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			must(t, put(beside), put(path), Write(folder, "file", []byte("whole")))
			if got, err := Read(folder, "file", 10); err != nil || string(got) != "whole" {
				t.Errorf("%q, %v", got, err)
			}
			if got, err := os.ReadFile(precious); err != nil || string(got) != "precious" {
				t.Errorf("written to: %q, %v", got, err)
			}
			must(t, os.Remove(path))
		})
	}
}

func TestReadOnlyRegularFiles(t *testing.T) {
	folder := t.TempDir()
	in := func(name string) string { return filepath.Join(folder, name) }
	must(t, os.WriteFile(in("file"), nil, 0o644), os.Symlink("file", in("link")), os.Mkdir(in("folder"), 0o755),
		unix.Mkfifo(in("fifo"), 0o644), os.Symlink("/dev/zero", in("device")))
	socket, err := net.Listen("unix", in("socket"))
	must(t, err)
	defer socket.Close()
	for _, name := range []string{"link", "folder", "fifo", "device", "socket"} {
		t.Run(name, func(t *testing.T) {
			if _, err := Read(folder, name, 10); !errors.Is(err, ErrNotRegular) {
				t.Errorf("%v", err)
			}
		})
	}
}

// A full or a read-only disk leaves the file as it was.
func TestWriteThatFails(t *testing.T) {
	folder := t.TempDir()
	must(t, Write(folder, "file", []byte("before")))
	failed := errors.New("the disk is full")
	err := replace(folder, "file", bytes.Repeat([]byte("x"), 100), func(*os.File) error { return failed })
	if !errors.Is(err, failed) {
		t.Errorf("%v", err)
	}
	if got, err := Read(folder, "file", 10); err != nil || string(got) != "before" {
		t.Errorf("%q, %v", got, err)
	}
	if names, err := os.ReadDir(folder); err != nil || len(names) != 1 {
		t.Errorf("left behind: %v, %v", names, err)
	}
	if err := Write(filepath.Join(folder, "file", "below"), "file", nil); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("%v", err)
	}
}

func TestAuthor(t *testing.T) {
	me := uint32(os.Geteuid())
	giveFolder := func(folder, _ string) error { return os.Chown(folder, 65533, 0) }
	giveFile := func(_, file string) error { return os.Chown(file, 65533, 0) }
	shareFolder := func(folder, _ string) error { return os.Chmod(folder, 0o777) }
	shareFile := func(_, file string) error { return os.Chmod(file, 0o664) }
	for _, test := range []struct {
		name      string
		change    func(folder, file string) error
		want      uint32
		err       error
		needsRoot bool
	}{
		{"mine", func(string, string) error { return nil }, me, nil, false},
		{"another user's folder", giveFolder, 65533, nil, true},
		{"another user's file", giveFile, 65533, nil, true},
		{"a folder of all", shareFolder, 0, fs.ErrPermission, false},
		{"a file of a group", shareFile, 0, fs.ErrPermission, false},
		{"none", func(_, file string) error { return os.Remove(file) }, 0, fs.ErrNotExist, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.needsRoot && me != 0 {
				return // only root can give a file away
			}
			folder := filepath.Join(t.TempDir(), "state")
			must(t, Write(folder, "file", nil), test.change(folder, filepath.Join(folder, "file")))
			got, err := Author(folder, "file")
			if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) || got != test.want {
				t.Errorf("%d, %v, want %d, %v", got, err, test.want, test.err)
			}
		})
	}
}
