package main

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
)

// --host runs `ssh NAME meshtui --stream`, and shows what comes.
func TestHost(t *testing.T) {
	socket := fake(t)
	ssh(t, `[ "$host" = edge-1 ] && exec "$@" --socket `+socket)
	if code, out, errs := meshtui(t, "--host", "edge-1"); code != 0 || !strings.Contains(out, "edge-2 is down") {
		t.Errorf("%d, %s%s", code, out, errs)
	}
	r, err := newRemote("edge-1", true)
	if err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	var seen []string
	err = r.Watch(t.Context(), 100*time.Millisecond, true, func(w control.Watched) error {
		if seen = append(seen, w.Type); len(seen) == 4 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || fmt.Sprint(seen) != "[hello snapshot event snapshot]" {
		t.Errorf("%v, %q", err, seen)
	}
}

// A meshtui there that only knows whole snapshots is asked for these.
func TestHostOlder(t *testing.T) {
	socket := fake(t)
	ssh(t, `case "$*" in *--changes*) echo "meshtui: usage: unknown flag: --changes" >&2; exit 2 ;; esac
exec "$@" --socket `+socket)
	r, err := newRemote("edge-1", true)
	if err != nil {
		t.Fatal(err)
	}
	enough, generations := errors.New("enough"), []int{}
	for connection := range 2 { // the second one knows
		err = r.Watch(t.Context(), 100*time.Millisecond, true, func(w control.Watched) error {
			if w.Status != nil {
				generations = append(generations, w.Status.Config.Generation)
			}
			if len(generations) == 2*(connection+1) {
				return enough
			}
			return nil
		})
		if !errors.Is(err, enough) {
			t.Fatal(err)
		}
	}
	if !slices.IsSorted(generations) || !r.whole {
		t.Errorf("%v, whole: %v", generations, r.whole)
	}
}

// What goes wrong there is said here, with the same exit code.
func TestHostErrors(t *testing.T) {
	for name, test := range map[string]struct{ script, want string }{
		"no meshd there": {`exec "$@" --socket /nonexistent`,
			"3 meshtui: edge-1: meshd is not running: no process answers at /nonexistent"},
		"no login": {`echo "edge-1: Permission denied" >&2; exit 255`,
			"1 meshtui: ssh edge-1: edge-1: Permission denied: ssh must log in without a password"},
		"another version": {`echo '{"type":"hello","seq":1,"hello":{"schema":2}}'`,
			"5 meshtui: meshd speaks another version of the API: 2"},
		"not installed":  {`exit 127`, "1 meshtui: edge-1: meshtui is not installed on that host"},
		"no stream":      {`echo hello, world`, "1 meshtui: the output is not that of `meshtui --stream`"},
		"another error":  {`echo banner >&2; echo oops >&2; exit 9`, "1 meshtui: edge-1: oops"},
		"not permitted":  {`echo "meshtui: it is for root" >&2; exit 4`, "4 meshtui: edge-1: it is for root"},
		"nothing at all": {`exit 0`, "1 meshtui: edge-1: the connection has ended"},
	} {
		t.Run(name, func(t *testing.T) {
			ssh(t, test.script)
			code, _, errs := meshtui(t, "--host", "edge-1")
			if got := fmt.Sprint(code, " ", errs); !strings.HasPrefix(got, test.want) {
				t.Errorf("%s, not %s", got, test.want)
			}
		})
	}
}

// Without an ssh that fact is said.
func TestNoSSH(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	r, err := newRemote("edge-1", false)
	if err != nil {
		t.Fatal(err)
	}
	err = r.Watch(t.Context(), time.Second, false, func(control.Watched) error { return nil })
	if !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

// The end of what is said is kept, however it is cut into writes.
func TestTail(t *testing.T) {
	said := bytes.Repeat([]byte("0123456789\n"), 2*tailKept/11)
	said = append(said, "meshtui: the last line\n"...)
	for _, n := range []int{1, 7, tailKept, len(said)} {
		t.Run(fmt.Sprint(n, " bytes a write"), func(t *testing.T) {
			kept := &tail{}
			for rest := said; len(rest) > 0; rest = rest[min(n, len(rest)):] {
				part := rest[:min(n, len(rest))]
				if written, err := kept.Write(part); written != len(part) || err != nil {
					t.Fatal(written, err)
				}
			}
			if len(kept.said) > tailKept || kept.lastLine() != "the last line" {
				t.Errorf("%d bytes, %q", len(kept.said), kept.lastLine())
			}
		})
	}
}
