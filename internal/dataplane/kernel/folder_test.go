package kernel

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/nstest"
)

// Users that the service may be, and another one.
const (
	service = 65534
	third   = 65533
)

// withBPFFS runs a test body in a network namespace with a BPF file system of its own, mounted
// with options; "" are those of `mount -t bpf`, by which it is everybody's.
func withBPFFS(t *testing.T, options string, body func(t *testing.T)) {
	t.Helper()
	nstest.Inside(t, func(t *testing.T, _ *nstest.Namespace) {
		// The thread ends with the body, and with it the mounts.
		if noErrors(t, mountAt(bpffs, "bpf", options)) {
			body(t)
		}
	})
}

// mountAt mounts a file system for this thread alone.
func mountAt(path, kind, options string) error {
	return errors.Join(unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_FS),
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("none", path, kind, 0, options))
}

// noErrors is for a body inside a namespace, which must not call Fatal.
func noErrors(t *testing.T, errs ...error) bool {
	t.Helper()
	err := errors.Join(errs...)
	if err != nil {
		t.Error(err)
	}
	return err == nil
}

func ownerOf(path string) int {
	info, err := os.Lstat(path)
	if err != nil {
		return -1
	}
	return int(info.Sys().(*syscall.Stat_t).Uid)
}

// pinSomething pins a map where the next run of meshd would look for its own.
func pinSomething(t *testing.T, folder string) bool {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if !noErrors(t, err) {
		return false
	}
	defer m.Close()
	return noErrors(t, m.Pin(filepath.Join(folder, "something")))
}

func TestPinFolder(t *testing.T) {
	for _, options := range []string{"", "mode=0700"} {
		withBPFFS(t, options, func(t *testing.T) {
			folder, err := pinFolder()
			if again, err := pinFolder(); err != nil || again != folder {
				t.Errorf("%s, %v, want %s", again, err, folder)
			}
			if !noErrors(t, err) || !pinSomething(t, folder) {
				return
			}
			if removed, err := CleanUp(); !removed || err != nil {
				t.Errorf("removed %v, %v", removed, err)
			}
			if _, err := os.Lstat(pinned); !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
			if removed, err := CleanUp(); removed || err != nil {
				t.Errorf("again: removed %v, %v", removed, err)
			}
		})
	}
	withBPFFS(t, "", func(t *testing.T) { // without a sticky bit anybody exchanges folders
		noErrors(t, os.Chmod(bpffs, 0o777))
		if folder, err := pinFolder(); err == nil || !strings.Contains(err.Error(), "can be changed by others") {
			t.Errorf("%s, %v", folder, err)
		}
	})
	nstest.Inside(t, func(t *testing.T, _ *nstest.Namespace) {
		if !noErrors(t, mountAt(bpffs, "tmpfs", "")) {
			return
		}
		folder, err := pinFolder()
		const mounts = "mount -t bpf -o mode=0700 bpf /sys/fs/bpf; systemctl restart meshd"
		if r, ok := errors.AsType[remedied](err); !ok || r.remedy != mounts {
			t.Errorf("%s, %v", folder, err)
		}
		if removed, err := CleanUp(); removed || err != nil {
			t.Errorf("removed %v, %v", removed, err)
		}
	})
}

// squat puts something of a user's where the folder of all pins is to be, or the one of this
// namespace, and returns its path.
func squat(t *testing.T, where string, user int, put func(path string) error) string {
	t.Helper()
	ours, err := namespaceFolders()
	noErrors(t, err)
	path := pinned
	if where == "inner" {
		path = filepath.Join(pinned, ours.own)
		noErrors(t, os.Mkdir(pinned, 0o700))
	}
	noErrors(t, put(path), os.Lchown(path, user, user))
	return path
}

// In a BPF file system that is everybody's, nothing is pinned in what another user has put
// there, and nothing is given away or removed that lies behind it.
func TestSquattedFolder(t *testing.T) {
	etc := t.TempDir()
	precious := filepath.Join(etc, "link-in-2")
	if err := os.WriteFile(precious, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	link := func(path string) error { return os.Symlink(etc, path) }
	folder := func(path string) error { return os.Mkdir(path, 0o777) }
	for name, c := range map[string]struct {
		where, want string
		put         func(string) error
	}{
		"link":   {"outer", "is a symbolic link", link},
		"folder": {"outer", "belongs to user 65533", folder},

		"link inside":   {"inner", "is a symbolic link", link},
		"folder inside": {"inner", "belongs to user 65533", folder},
	} {
		t.Run(name, func(t *testing.T) {
			withBPFFS(t, "", func(t *testing.T) {
				path := squat(t, c.where, third, c.put)
				folder, err := pinFolder()
				r, ok := errors.AsType[remedied](err)
				if !ok || !strings.Contains(r.Error(), path+" "+c.want) ||
					!strings.Contains(r.remedy, "rm -r "+path+";") {
					t.Errorf("pin in %s, %v", folder, err)
				}
				if err := GiveFolder(service, service); err == nil || !strings.Contains(err.Error(), path+" "+c.want) {
					t.Errorf("given: %v", err)
				}
				if a, b, c := ownerOf(path), ownerOf(etc), ownerOf(precious); a != third || b != 0 || c != 0 {
					t.Errorf("given away: %d, %d, %d", a, b, c)
				}
				_, _ = CleanUp()
				if ownerOf(precious) != 0 {
					t.Errorf("removed %s", precious)
				}
			})
		})
	}
	// The rest goes all the same: nothing of ours needs the merger.
	withBPFFS(t, "", func(t *testing.T) {
		squat(t, "outer", third, link)
		if _, _, err := setMerger(1); !noErrors(t, err) {
			return
		}
		removed, err := CleanUp()
		if !removed || !errors.Is(err, errNotOurs) || indexOf(mergerExit) != 0 {
			t.Errorf("removed %v, %v", removed, err)
		}
	})
}

// Root prepares the folder, the service pins in it, root cleans up. What root's meshd has left
// is the service's from then on.
func TestFolderOfTheService(t *testing.T) {
	if os.Getenv("MESH_PIN_FOLDER") != "" {
		folder, err := pinFolder()
		if err == nil {
			_, err = os.ReadDir(folder)
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, options := range []string{"", "mode=0700"} {
		withBPFFS(t, options, func(t *testing.T) {
			before, err := pinFolder()
			if !noErrors(t, err) || !pinSomething(t, before) {
				return
			}
			noErrors(t, GiveFolder(service, service), GiveFolder(service, service)) // each start
			for _, path := range []string{pinned, before, before + "/something"} {
				if ownerOf(path) != service {
					t.Errorf("%s is user %d's", path, ownerOf(path))
				}
			}
			cmd := exec.Command("/proc/self/exe", "-test.run", "^TestFolderOfTheService$")
			cmd.Env = append(os.Environ(), "MESH_PIN_FOLDER=1")
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: service, Gid: service}}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("as the service: %v\n%s", err, out)
			}
			folder, err := pinFolder()
			if err == nil || !strings.Contains(err.Error(), "belongs to user 65534, and meshd runs as user 0") {
				t.Errorf("root pins in the service's folder: %s, %v", folder, err)
			}
			if removed, err := CleanUp(); !removed || err != nil || ownerOf(pinned) != -1 {
				t.Errorf("removed %v, %v, %d", removed, err, ownerOf(pinned))
			}
		})
	}
}

// A version before left pins of root's in the service's folder.
func TestCleanUpPinsOfRootInTheServicesFolder(t *testing.T) {
	withBPFFS(t, "mode=0701", func(t *testing.T) {
		folder, err := pinFolder()
		if !noErrors(t, err) || !pinSomething(t, folder) || !noErrors(t, os.Chown(pinned, service, service)) {
			return
		}
		if removed, err := CleanUp(); !removed || err != nil || ownerOf(folder) != -1 {
			t.Errorf("removed %v, %v, %d", removed, err, ownerOf(folder))
		}
	})
}

// Without a BPF file system there is nothing to give.
func TestNothingToGive(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, _ *nstest.Namespace) {
		if noErrors(t, mountAt(bpffs, "tmpfs", "")) {
			noErrors(t, GiveFolder(service, service))
			if ownerOf(pinned) != -1 {
				t.Error("made a folder")
			}
		}
	})
}
