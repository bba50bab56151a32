package begin

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/lastgood"
	"example.org/meshd/internal/source"
)

const good = `[network]
cidr = "10.244.0.0/16"
[[node]]
name = "a"
address = "172.18.0.2"
subnets = ["10.244.1.0/24"]
`

var since = time.Date(2026, 11, 25, 10, 11, 12, 0, time.UTC)

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// at returns where a file with a text is, and a last good one with another; "" stands for none.
func at(t *testing.T, text, kept string) Where {
	t.Helper()
	w := Where{Path: filepath.Join(t.TempDir(), "mesh.toml"), State: filepath.Join(t.TempDir(), "state")}
	if text != "" {
		must(t, os.WriteFile(w.Path, []byte(text), 0o644))
	}
	if kept != "" {
		must(t, lastgood.Write(w.State, lastgood.File{Path: w.Path, Text: kept, Since: since}))
	}
	return w
}

func (w Where) load(t *testing.T) (File, error) {
	t.Helper()
	return w.Load(t.Context(), source.NewReader(w.Path, config.MaxSize))
}

func TestLoad(t *testing.T) {
	const older = good + "# older\n"
	damage := func(w Where) error {
		return os.WriteFile(lastgood.Path(w.State), []byte(older), 0o644)
	}
	share := func(w Where) error { return os.Chmod(w.State, 0o777) }
	for _, test := range []struct {
		name, text, kept string
		change           func(w Where) error
		strict           bool
		runs             string   // "": an error
		words            []string // of the error
	}{
		{"a good file", good, older, nil, false, good, nil},
		{"half a file", good[:60], older, nil, false, older, nil},
		{"an empty file", " ", older, nil, false, older, nil},
		{"no file", "", older, nil, false, older, nil},
		{"zeros", string(make([]byte, 100)), older, nil, false, older, nil},
		{"a folder", "", older, func(w Where) error { return os.Mkdir(w.Path, 0o755) }, false, older, nil},
		{"a FIFO", "", older, func(w Where) error { return syscall.Mkfifo(w.Path, 0o644) }, false, older, nil},
		{"too large", strings.Repeat("#\n", config.MaxSize), older, nil, false, older, nil},
		{"strict", "x = 1\n", older, nil, true, "", []string{"mesh.toml:1:1: error: "}},
		{"never accepted", "x = 1\n", "", nil, false, "", []string{"mesh.toml:1:1: error: "}},
		{"both bad", "x = 1\n", "y = 1\n", nil, false, "",
			[]string{"mesh.toml:1:1: error: ", "no last good file", lastgood.Name + ":1:1: error: "}},
		{"a damaged one", "x = 1\n", older, damage, false, "",
			[]string{"mesh.toml:1:1: error: ", "no last good file", "damaged"}},
		{"one that others may write", "x = 1\n", older, share, false, "",
			[]string{"mesh.toml:1:1: error: ", "can be changed by others"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := at(t, test.text, test.kept)
			w.Strict = test.strict
			if test.change != nil {
				must(t, test.change(w))
			}
			first, err := w.load(t)
			if (err == nil) != (test.runs != "") {
				t.Fatalf("%+v, %v", first, err)
			}
			if err != nil {
				for _, words := range test.words {
					if !strings.Contains(err.Error(), words) {
						t.Errorf("%v does not say %q", err, words)
					}
				}
				if _, faults := errors.AsType[config.Faults](err); !faults {
					t.Errorf("%T is no fault of the file", err)
				}
				return
			}
			if got := first.Config.Text(); got != test.runs || (first.Bad == nil) != (got == good) {
				t.Errorf("%q because of %v", got, first.Bad)
			}
			if first.Bad != nil && !first.Since.Equal(since) {
				t.Errorf("since %v", first.Since)
			}
		})
	}
}

// A file that was kept for another path is none: whoever tries a file of another name by hand wants
// its faults.
func TestLoadAnotherFile(t *testing.T) {
	w := at(t, "x = 1\n", good)
	w.Path = filepath.Join(filepath.Dir(w.Path), "other.toml")
	must(t, os.WriteFile(w.Path, []byte("x = 1\n"), 0o644))
	if first, err := w.load(t); err == nil {
		t.Errorf("%+v", first)
	}
}

// Root must not do what another user has written into the state folder.
func TestLoadOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		return // only root can give a folder away
	}
	w := at(t, "x = 1\n", good)
	must(t, os.Chown(w.State, 65534, 65534))
	if first, err := w.load(t); err == nil || !strings.Contains(err.Error(), "user 65534") {
		t.Errorf("%+v, %v", first, err)
	}
	if c, at, err := w.LastGood(t.Context()); err != nil || c.Text() != good || !at.Equal(since) {
		t.Errorf("whoever wrote it: %+v, %v, %v", c, at, err)
	}
}

// What is kept is the file at the path, and not the last good file itself.
func TestKeep(t *testing.T) {
	w := at(t, good, "")
	keeper := lastgood.NewKeeper(w.State, nil)
	first, err := w.load(t)
	must(t, err)
	w.Keep(keeper)(first.Config)
	must(t, keeper.Run(ended(t)))
	again, _, err := w.LastGood(t.Context())
	must(t, err)
	if again.Text() != good || again.Path == w.Path {
		t.Errorf("%+v", again)
	}
	must(t, os.Remove(lastgood.Path(w.State)))
	other := lastgood.NewKeeper(w.State, nil)
	w.Keep(other)(again)
	must(t, other.Run(ended(t)))
	if _, _, err := w.LastGood(t.Context()); !errors.Is(err, lastgood.ErrNone) {
		t.Errorf("%v", err)
	}
}

// ended returns a context that is over: a task that is run with it does what is due, and returns.
func ended(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
