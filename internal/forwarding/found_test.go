package forwarding

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/budget"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/nstest"
)

func TestFoundIsKept(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "a", "b")
	f, err := readFound(folder)
	if err != nil || !f.empty() || f.Where == "" {
		t.Fatalf("%+v, %v", f, err)
	}
	f.IPv4, f.IPv6 = []int{3, 7}, true
	if err := f.save(folder); err != nil {
		t.Fatal(err)
	}
	if got, err := readFound(folder); err != nil || !got.same(f) {
		t.Errorf("%+v, %v, want %+v", got, err, f)
	}
	entries, err := os.ReadDir(folder)
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	f.IPv4, f.IPv6 = nil, false
	for range 2 {
		if err := f.save(folder); err != nil {
			t.Error(err)
		}
	}
	if entries, err := os.ReadDir(folder); err != nil || len(entries) != 0 {
		t.Errorf("%v, %v", entries, err)
	}
}

// Root reads what the service wrote: whatever that is, nothing is followed, nothing hangs, and
// nothing is turned but what the note may be about.
func TestHostileNotes(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		r := newRouter(t, n, "ipv4.ip_forward=0")
		r.set("ipv4.conf.other.forwarding=1", "ipv6.conf.all.forwarding=1", "ipv6.conf.default.forwarding=0")
		here, err := where()
		r.must(err)
		r.must(os.MkdirAll(r.folder, 0o700))
		path, target := filepath.Join(r.folder, foundFile), filepath.Join(t.TempDir(), "target")
		good := `{"where":"` + here + `","ipv4":[` // and indices
		other := strconv.Itoa(link.Index("other"))
		for _, test := range []struct {
			name, text string
			make       func() error
			refused    bool
		}{
			{"a link", "", func() error { return os.Symlink(target, path) }, true},
			{"a FIFO", "", func() error { return unix.Mkfifo(path, 0o644) }, true},
			{"a folder", "", func() error { return os.Mkdir(path, 0o755) }, true},
			{"a huge file", "", func() error {
				return os.WriteFile(path, []byte(good+"1"+strings.Repeat(" ", foundAtMost)+`],"ipv6":true}`), 0o600)
			}, true},
			{"another boot", `{"where":"x","ipv4":[` + other + `],"ipv6":true}`, nil, false},
			{"no boot", `{"ipv4":[` + other + `],"ipv6":true}`, nil, false},
			{"names", good + `"other"],"ipv6":false}`, nil, true},
			{"unknown keys", good + `],"ipv6":true,"accept_ra":{"../../kernel/x":"2"}}`, nil, true},
			{"a second value", good + `],"ipv6":true}{}`, nil, true},
			{"all", good + `-1],"ipv6":false}`, nil, true},
			{"default", good + `-2],"ipv6":false}`, nil, true},
			{"none", good + `0],"ipv6":false}`, nil, true},
			{"no number of an interface", good + `4294967299],"ipv6":false}`, nil, true},
			{"nothing", "", nil, true},
			{"interfaces that are not there", good + `4242,7777],"ipv6":false}`, nil, false},
		} {
			r.must(os.RemoveAll(path))
			r.must(os.MkdirAll(r.folder, 0o700))
			r.must(os.WriteFile(target, []byte(good+other+`],"ipv6":true}`), 0o600))
			if test.make == nil {
				test.make = func() error { return os.WriteFile(path, []byte(test.text), 0o600) }
			}
			r.must(test.make())
			did, err := Restore(r.folder)
			if len(did) > 0 || (err != nil) != test.refused {
				t.Errorf("%s: did %q, %v", test.name, did, err)
			}
			r.is(test.name, "ipv4.ip_forward=0", "ipv4.conf.other.forwarding=1", "ipv6.conf.all.forwarding=1")
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %v", test.name, err)
			}
		}
		// The daemon replaces what it cannot read.
		r.set("ipv6.conf.all.forwarding=0")
		for _, make := range []func() error{
			func() error { return os.Symlink(target, path) },
			func() error { return unix.Mkfifo(path, 0o644) },
		} {
			r.must(os.RemoveAll(path))
			r.must(os.MkdirAll(r.folder, 0o700))
			before := read(t, target)
			r.must(make())
			r.restart()
			r.look(true)
			if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() || read(t, target) != before {
				t.Errorf("%v, %v, %q", info, err, read(t, target))
			}
			_, err := Restore(r.folder)
			r.must(err)
		}
	})
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

// Whatever is in a note: either it is refused, or it is what save writes of it.
func FuzzDecodeFound(f *testing.F) {
	for _, seed := range []string{
		`{"where":"a/b","ipv4":[1,2],"ipv6":true}`, `{"ipv4":[-1]}`, `{}`, `null`, `[[[[`, `{"ipv6":1}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		defer budget.Of(t)()
		decoded, err := decodeFound(doc)
		if err != nil {
			if !decoded.empty() {
				t.Errorf("%+v with %v", decoded, err)
			}
			return
		}
		for _, index := range decoded.IPv4 {
			if index <= 0 {
				t.Errorf("the index %d", index)
			}
		}
		folder := t.TempDir()
		if err := decoded.save(folder); err != nil {
			t.Fatal(err)
		}
		if decoded.empty() {
			return
		}
		again, err := decodeFound([]byte(read(t, filepath.Join(folder, foundFile))))
		if err != nil || !again.same(decoded) {
			t.Errorf("%+v, %v, from %+v", again, err, decoded)
		}
	})
}
