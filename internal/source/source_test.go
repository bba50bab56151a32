package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/passing"
)

// What is no regular file is named and not opened. None of these calls may wait.
func TestReadOnlyRegularFiles(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	must(t, put(in("file"), "text"), put(in("empty"), ""), put(in("large"), strings.Repeat("x", 101)),
		put(in("exact"), strings.Repeat("x", 100)), put(in("binary"), "\x00\xff\x7fELF"),
		unix.Mkfifo(in("fifo"), 0o644), os.Mkdir(in("folder"), 0o755), os.Symlink("file", in("link")),
		os.Symlink("link", in("links")), os.Symlink("/dev/zero", in("zero")), os.Symlink("loop", in("loop")),
		os.Symlink("nowhere", in("dangling")))
	socket, err := net.Listen("unix", in("socket"))
	must(t, err)
	defer socket.Close()
	for _, test := range []struct {
		name, doc string
		err       error
		words     string
	}{
		{"file", "text", nil, ""},
		{"empty", "", nil, ""},
		{"exact", strings.Repeat("x", 100), nil, ""},
		{"binary", "\x00\xff\x7fELF", nil, ""},
		{"link", "text", nil, ""},
		{"links", "text", nil, ""},
		{"large", "", ErrTooLarge, "too large"},
		{"fifo", "", ErrNotRegular, "a FIFO"},
		{"folder", "", ErrNotRegular, "a directory"},
		{"socket", "", ErrNotRegular, "a socket"},
		{"zero", "", ErrNotRegular, "a device"},
		{"loop", "", unix.ELOOP, ""},
		{"dangling", "", fs.ErrNotExist, ""},
		{"missing", "", fs.ErrNotExist, ""},
		{"file/below", "", unix.ENOTDIR, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			one := NewReader(in(test.name), 100).Read(t.Context())
			if string(one.Doc) != test.doc || !errors.Is(one.Err, test.err) || (one.Err == nil) != (test.err == nil) {
				t.Errorf("%q, %v", one.Doc, one.Err)
			}
			if test.err != nil && (!strings.Contains(one.Err.Error(), test.words) || one.passes()) {
				t.Errorf("%v", one.Err)
			}
			// Callers put the path in front, and what the file is says that it is no regular one.
			if said := fmt.Sprint(one.Err); test.err == ErrNotRegular &&
				(strings.Contains(said, in(test.name)) || strings.Contains(said, ErrNotRegular.Error())) {
				t.Errorf("said twice: %s", said)
			}
			sum := sha256.Sum256([]byte(test.doc))
			if hashed := one.Identity() == hex.EncodeToString(sum[:]); hashed != (test.err == nil) {
				t.Errorf("identity %q", one.Identity())
			}
		})
	}
}

// A file that the service may not read is named with the remedy. Root may read everything, so the
// refusal is made up.
func TestReadForbidden(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	one := NewReader(path, 100)
	one.read = func(path string, most int64) ([]byte, Place, error) {
		return nil, Place{}, &fs.PathError{Op: "open", Path: path, Err: unix.EACCES}
	}
	got := one.Read(t.Context())
	advises := strings.Contains(got.Err.Error(), "chmod 644 "+path)
	if !errors.Is(got.Err, fs.ErrPermission) || !advises || got.passes() {
		t.Errorf("%v", got.Err)
	}
}

// A mount of one file shows that file after another has taken its name.
func TestNamelessFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	must(t, put(path, "old"))
	file, err := os.Open(path)
	must(t, err)
	defer file.Close()
	if one := NewReader(path, 100).Read(t.Context()); one.Place.Nameless {
		t.Errorf("%+v", one)
	}
	must(t, os.Remove(path))
	one := NewReader(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), 100).Read(t.Context())
	if one.Err != nil || string(one.Doc) != "old" || !one.Place.Nameless {
		t.Errorf("%+v", one)
	}
}

// A file system that hangs costs one goroutine, and no caller more than its deadline.
func TestReadThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, hang := NewReader("file", 100), make(chan struct{})
		var reads atomic.Int64
		r.read = func(string, int64) ([]byte, Place, error) {
			reads.Add(1)
			<-hang
			return []byte("at last"), Place{}, nil
		}
		for range 3 {
			began := time.Now()
			one := r.Read(t.Context())
			if !errors.Is(one.Err, ErrNoAnswer) || !passing.Is(one.Err) || time.Since(began) != deadline {
				t.Errorf("%v after %v", one.Err, time.Since(began))
			}
		}
		if n := reads.Load(); n != 1 {
			t.Errorf("%d reads hang", n)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if one := r.Read(gone); !errors.Is(one.Err, context.Canceled) {
			t.Errorf("%v", one.Err)
		}
		time.AfterFunc(time.Second, func() { close(hang) })
		if one := r.Read(t.Context()); string(one.Doc) != "at last" || one.Order != 2 {
			t.Errorf("%+v", one)
		}
	})
}

func TestOrderGrows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	r, last := NewReader(path, 100), uint64(0)
	for i := range 3 {
		must(t, put(path, strings.Repeat("x", i)))
		one := r.Read(t.Context())
		if one.Order <= last || len(one.Doc) != i {
			t.Errorf("%+v after %d", one, last)
		}
		last = one.Order
	}
	doc, err := Read(t.Context(), path, 100)
	if err != nil || !bytes.Equal(doc, []byte("xx")) {
		t.Errorf("%q, %v", doc, err)
	}
}
