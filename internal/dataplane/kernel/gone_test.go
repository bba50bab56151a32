package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"example.org/meshd/internal/foreign"
	"example.org/meshd/internal/netns"
	"example.org/meshd/internal/nstest"
)

// The folder of a namespace is not that of an earlier one with the same number.
func TestFoldersOf(t *testing.T) {
	for _, test := range []struct {
		name        string
		a, b        netns.Identity
		same, clean bool // clean: the start of a removes what b left
	}{
		{"the same", netns.Identity{Inode: 7, Cookie: 1}, netns.Identity{Inode: 7, Cookie: 1}, true, true},
		{"a number that comes again", netns.Identity{Inode: 7, Cookie: 9}, netns.Identity{Inode: 7, Cookie: 1},
			false, true},
		{"another one", netns.Identity{Inode: 7, Cookie: 1}, netns.Identity{Inode: 77, Cookie: 2}, false, false},
		{"before 5.14", netns.Identity{Inode: 7}, netns.Identity{Inode: 7}, true, true},
		{"a newer kernel", netns.Identity{Inode: 7, Cookie: 1}, netns.Identity{Inode: 7}, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := foldersOf(test.a), foldersOf(test.b)
			if (a.own == b.own) != test.same || (a.begin == b.begin) != test.clean {
				t.Errorf("%+v, %+v", a, b)
			}
		})
	}
}

// pinProgram pins a program at an interface in a folder, as the engine does.
func pinProgram(t *testing.T, folder, device string) bool {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}})
	if !noErrors(t, err) {
		return false
	}
	defer program.Close()
	l, err := link.AttachXDP(
		link.XDPOptions{Program: program, Interface: indexOf(device), Flags: link.XDPGenericMode})
	if !noErrors(t, err) {
		return false
	}
	defer l.Close()
	return noErrors(t, l.Pin(filepath.Join(folder, "link-in-1")))
}

// What a namespace that is gone has left is removed by the next start of a meshd anywhere; what is of
// use to another namespace stays.
func TestPinsOfNamespacesThatAreGone(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		if !noErrors(t, mountAt(bpffs, "bpf", "mode=0700"), n.IP("link add live type veth peer name other")) {
			return
		}
		own, err := pinFolder()
		if !noErrors(t, err) || !pinSomething(t, own) {
			return
		}
		in := func(name string) string { return filepath.Join(pinned, name) }
		long := time.Now().Add(-2 * settled)
		folder := func(name string, at time.Time, fill func(path string) bool) {
			t.Helper()
			if noErrors(t, os.Mkdir(in(name), 0o700)) && fill(in(name)) {
				noErrors(t, os.Chtimes(in(name), at, at))
			}
		}
		maps := func(path string) bool { return pinSomething(t, path) }
		at := func(path string) bool { return pinSomething(t, path) && pinProgram(t, path, "live") }
		folder("net-1-1-v5", long, maps)
		folder("net-2-2-v5", long, at)
		folder("net-3-3-v5", time.Now(), maps)
		folder("net-4-4-v5", long, maps)
		folder("another", long, maps)
		lock := hold(in("net-4-4-v5"))
		if lock == nil {
			t.Error("no lock")
		}
		expect := func(when string, names ...string) {
			t.Helper()
			if removed, err := cleanUpBut(own); removed || err != nil {
				t.Errorf("%s: removed %v, %v", when, removed, err)
			}
			for _, name := range names {
				if _, err := os.Stat(in(name)); err != nil {
					t.Errorf("%s: %v", when, err)
				}
			}
			if all, err := os.ReadDir(pinned); err != nil || len(all) != len(names)+1 {
				t.Errorf("%s: %v, %v, want %v and ours", when, all, err, names)
			}
		}
		expect("at first", "net-2-2-v5", "net-3-3-v5", "net-4-4-v5", "another")
		// The interface ends with its namespace, and the lock with its process.
		noErrors(t, n.IP("link del live"), lock.Close(), os.Chtimes(in("net-3-3-v5"), long, long))
		expect("when they are gone", "another")
	})
}

// A start takes over nothing that an earlier namespace of the same number has pinned.
func TestPinsOfAnEarlierNamespace(t *testing.T) {
	withBPFFS(t, "mode=0700", func(t *testing.T) {
		ours, err := namespaceFolders()
		if !noErrors(t, err, os.MkdirAll(filepath.Join(pinned, ours.begin+"999999999-v5"), 0o700)) {
			return
		}
		earlier := filepath.Join(pinned, ours.begin+"999999999-v5")
		folder, err := pinFolder()
		if !noErrors(t, err) || !pinSomething(t, earlier) || folder == earlier {
			t.Errorf("pins in %s", folder)
			return
		}
		if removed, err := cleanUpBut(folder); !removed || err != nil {
			t.Errorf("removed %v, %v", removed, err)
		}
		if _, err := os.Stat(earlier); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%v", err)
		}
	})
}

// Two locks that others may share stand together; one that is for a process alone stands alone.
func TestLock(t *testing.T) {
	f, err := foreign.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	first, err1 := f.Lock(false)
	second, err2 := f.Lock(false)
	if !noErrors(t, err1, err2) {
		return
	}
	if _, err := f.Lock(true); !errors.Is(err, foreign.ErrLocked) {
		t.Errorf("%v", err)
	}
	noErrors(t, first.Close(), second.Close())
	alone, err := f.Lock(true)
	if !noErrors(t, err) {
		return
	}
	defer alone.Close()
	if _, err := f.Lock(false); !errors.Is(err, foreign.ErrLocked) {
		t.Errorf("%v", err)
	}
}
