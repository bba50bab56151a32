package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Other versions of the package, which the steps about upgrades install. Each is this package with files
// changed.
var otherVersions = []struct {
	version string
	change  func(t *trial, tree string) error
}{
	{"99.0", in("usr/share/doc/meshd/README.md", func(text string) string { return text + "\nNew.\n" })},
	{"99.1", in("usr/lib/systemd/system/meshd.service", func(text string) string {
		return strings.Replace(text, "TimeoutStopSec=10", "TimeoutStopSec=11", 1)
	})},
	{"99.2", in("usr/bin/meshd", refuses)},
	{"99.3", in("usr/bin/meshd", refuses)},
	{"99.4", in("usr/share/doc/meshd/README.md", func(text string) string { return text + "\nWaiting.\n" })},
	{"0.0", (*trial).asPrevious},
}

// refuses is a program that does not take the file.
func refuses(string) string {
	return "#!/bin/sh\necho mesh.toml:1:1: error: network: not in my time\nexit 78\n"
}

// in changes one file of a package.
func in(file string, change func(text string) string) func(*trial, string) error {
	return func(_ *trial, tree string) error { return edit(filepath.Join(tree, file), change) }
}

// edit changes a file.
func edit(path string, change func(text string) string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(change(string(text))), 0o644) // an executable stays one
}

// rebuilt is where a package of otherVersions is.
func (t *trial) rebuilt(version string) string {
	return filepath.Join(t.work, "meshd_"+version+"_amd64.deb")
}

// otherVersions builds all of them. It does not compress: that takes longer than all the rest.
func (t *trial) otherVersions() (seen string, err error) {
	deb, err := t.one("meshd_*_amd64.deb")
	if err != nil {
		return "", err
	}
	for _, other := range otherVersions {
		tree := filepath.Join(t.work, "rebuilt")
		if err := os.RemoveAll(tree); err != nil {
			return "", err
		}
		if out, err := exec.Command("dpkg-deb", "-R", deb, tree).CombinedOutput(); err != nil {
			return "", fmt.Errorf("unpack: %w\n%s", err, out)
		}
		// nfpm writes an empty list, which dpkg-deb refuses.
		if err := os.Remove(filepath.Join(tree, "DEBIAN/conffiles")); err != nil &&
			!errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if err := errors.Join(other.change(t, tree), edit(filepath.Join(tree, "DEBIAN/control"),
			func(text string) string {
				return regexp.MustCompile(`(?m)^Version: .*`).ReplaceAllString(text, "Version: "+other.version)
			})); err != nil {
			return "", err
		}
		if out, err := exec.Command("dpkg-deb", "--root-owner-group", "-Znone", "-b", tree,
			t.rebuilt(other.version)).CombinedOutput(); err != nil {
			return "", fmt.Errorf("build: %w\n%s", err, out)
		}
	}
	previous, err := os.ReadFile(filepath.Join(t.previous, "commit"))
	return fmt.Sprintf("%d packages; the version before is %s", len(otherVersions),
		strings.TrimSpace(string(previous))), err
}

// asPrevious makes a package what it was before: its programs, its units and its scripts. Pages and
// completions stay, since no step looks at them.
func (t *trial) asPrevious(tree string) error {
	packaging := filepath.Join(t.previous, "packaging")
	out, err := exec.Command("sh", "-ec", `
rm -r "$2/usr/bin" "$2/usr/lib"
install -D -t "$2/usr/bin" "$1/meshd" "$1/meshtui"
install -D -m 644 -t "$2/usr/lib/systemd/system" "$3"/*.service
install -D -m 644 "$3/sysusers.conf" "$2/usr/lib/sysusers.d/meshd.conf"
install "$3/scripts/preinstall.sh" "$2/DEBIAN/preinst"
install "$3/scripts/postinstall.sh" "$2/DEBIAN/postinst"
install "$3/scripts/preremove.sh" "$2/DEBIAN/prerm"
install "$3/scripts/postremove.sh" "$2/DEBIAN/postrm"
rm -f "$2/DEBIAN/md5sums"`, "sh", t.previous, tree, packaging).CombinedOutput()
	if err != nil {
		return fmt.Errorf("make the version before (`make previous` builds it): %w\n%s", err, tail(string(out)))
	}
	return nil
}
