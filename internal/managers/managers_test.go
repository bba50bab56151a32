package managers

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"example.org/meshd/internal/budget"
)

// shipped are the package's files for the drop-ins.
var shipped = map[string]string{
	"NetworkManager.service":   "NetworkManager-meshd.conf",
	"systemd-networkd.service": "networkd-meshd.network",
	"systemd-udevd.service":    "udev-meshd.rules",
}

// hostWith makes the root of a host on which the package and some managers are installed.
func hostWith(t *testing.T, units ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, d := range dropIns {
		text, err := os.ReadFile(filepath.Join("../../packaging", shipped[d.unit]))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(root, d.shipped), string(text))
	}
	for _, unit := range units {
		write(t, filepath.Join(root, "usr/lib/systemd/system", unit), "")
	}
	return root
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Managers are other users, whatever the umask of the service is.
func TestOverridesAreForEveryone(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	root := hostWith(t, "systemd-networkd.service")
	if err := os.Mkdir(filepath.Join(root, "run"), 0o700); err != nil { // stays as it is
		t.Fatal(err)
	}
	follow(t, root, "edge0", "systemd-networkd.service")
	for path, want := range map[string]os.FileMode{"run": 0o700, "run/systemd": 0o755,
		"run/systemd/network": 0o755, "run/systemd/network/00-meshd.network": 0o644} {
		if info, err := os.Stat(filepath.Join(root, path)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %o", path, info.Mode(), err, want)
		}
	}
}

// overrides returns what stands below /run.
func overrides(t *testing.T, root string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(filepath.Join(root, "run"), func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil
		}
		text, err := os.ReadFile(path)
		found[strings.TrimPrefix(path, root+"/")] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func follow(t *testing.T, root, name string, want ...string) {
	t.Helper()
	changed, err := Follow(root, name)
	if err != nil || !slices.Equal(changed, want) {
		t.Errorf("Follow(%q): %q, %v, want %q", name, changed, err, want)
	}
}

func TestFollow(t *testing.T) {
	all := []string{"NetworkManager.service", "systemd-networkd.service", "systemd-udevd.service"}
	root := hostWith(t, all...)
	follow(t, root, DefaultInterface)
	if got := overrides(t, root); len(got) > 0 {
		t.Errorf("overrides for the default name: %q", got)
	}
	follow(t, root, "edge-0.7", all...)
	follow(t, root, "edge-0.7")
	got := overrides(t, root)
	for _, d := range dropIns {
		text := got[d.override]
		if !strings.Contains(text, "edge-0.7") || strings.Contains(text, DefaultInterface) ||
			!strings.Contains(text, "meshd-wg") || !strings.Contains(text, "meshd-gro0") ||
			!strings.Contains(text, "meshd-gro1") {
			t.Errorf("%s:\n%s", d.override, text)
		}
	}
	if len(got) != len(dropIns) {
		t.Errorf("overrides: %q", slices.Collect(maps.Keys(got)))
	}
	// A manager that was removed needs no override, and the next name replaces that of the others.
	if err := os.Remove(filepath.Join(root, "usr/lib/systemd/system", all[0])); err != nil {
		t.Fatal(err)
	}
	follow(t, root, "edge1", all...)
	if got := overrides(t, root); len(got) != 2 {
		t.Errorf("overrides: %q", got)
	}
	follow(t, root, DefaultInterface, all[1:]...)
	if got := overrides(t, root); len(got) > 0 {
		t.Errorf("stale overrides: %q", got)
	}
}

func TestFollowWithoutTheManagersOrThePackage(t *testing.T) {
	follow(t, hostWith(t), "edge0")
	bare := t.TempDir()
	write(t, filepath.Join(bare, "etc/systemd/system/NetworkManager.service"), "")
	follow(t, bare, "edge0")
	if got := overrides(t, bare); len(got) > 0 {
		t.Errorf("overrides: %q", got)
	}
}

// What the kernel takes for a name may be a pattern, a list or a new line to a manager.
func TestFollowRefusesNames(t *testing.T) {
	root := hostWith(t, "NetworkManager.service")
	follow(t, root, "edge0", "NetworkManager.service")
	for _, name := range []string{"", ".", "..", "*", "e?", "e[0-9]", "a;b", "a,b", `a"b`, "a=b", "a|b", "a b",
		"a\nmanaged=1", "!edge", "~a", "$name", "%k", "ä", "a\x00", "/etc", "edge0edge0edge0x"} {
		t.Run(name, func(t *testing.T) {
			if _, err := Follow(root, name); !errors.Is(err, ErrName) {
				t.Errorf("Follow(%q): %v", name, err)
			}
			if got := overrides(t, root); len(got) > 0 {
				t.Errorf("overrides: %q", got)
			}
		})
	}
}

// Another program's symbolic link does not lead root elsewhere.
func TestFollowStaysInItsRoot(t *testing.T) {
	root, outside := hostWith(t, "NetworkManager.service"), t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "run"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(root, "run/NetworkManager")); err != nil {
		t.Fatal(err)
	}
	if changed, err := Follow(root, "edge0"); err == nil || len(changed) > 0 {
		t.Errorf("Follow: %q, %v", changed, err)
	}
	if files, err := os.ReadDir(outside); err != nil || len(files) > 0 {
		t.Errorf("written elsewhere: %v, %v", files, err)
	}
}

func FuzzCheckName(f *testing.F) {
	for _, seed := range []string{"mesh0", "a;b", "a\n", "..", "é"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		defer budget.Of(t)()
		if CheckName(name) == nil && (strings.ContainsAny(name, "*?[];,|=!~\"'\\$% \t\r\n\x00/") || name == "") {
			t.Errorf("%q is accepted", name)
		}
	})
}
