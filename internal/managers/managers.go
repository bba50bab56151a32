// Package managers keeps programs that manage network interfaces away from meshd's:
// NetworkManager, systemd-networkd, and what reads udev's properties.
//
// The package ships a drop-in for each of them, with the default name of the TUN, and the names of meshd's
// other interfaces, which never change: meshd-wg, meshd-gro0 and meshd-gro1, meshd-in, meshd-in6 and
// meshd-sit with a number. Where the file has another name, Follow writes the same drop-in with that name
// below /run. There it hides the shipped one, since all three managers prefer /etc to /run, and /run to
// /usr/lib, for files of one name:
//
//	shipped   /usr/lib/NetworkManager/conf.d/90-meshd.conf   says mesh0
//	override  /run/NetworkManager/conf.d/90-meshd.conf       says edge0; gone with a reboot
//
// A drop-in names interfaces. The alias, which marks meshd's interfaces for meshd itself, is set only
// after the kernel has announced a new interface, and managers decide at that moment.
package managers

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
)

// DefaultInterface is the name of the TUN in the shipped drop-ins.
const DefaultInterface = "mesh0"

// A dropIn keeps one manager away. Paths are relative to the root of the file system.
type dropIn struct {
	unit     string // of the manager
	shipped  string
	override string
}

// dropIns are all of them. The network comes before those that match all interfaces: systemd-networkd
// takes the first that matches.
var dropIns = []dropIn{
	{"NetworkManager.service", "usr/lib/NetworkManager/conf.d/90-meshd.conf",
		"run/NetworkManager/conf.d/90-meshd.conf"},
	{"systemd-networkd.service", "usr/lib/systemd/network/00-meshd.network",
		"run/systemd/network/00-meshd.network"},
	{"systemd-udevd.service", "usr/lib/udev/rules.d/86-meshd.rules",
		"run/udev/rules.d/86-meshd.rules"},
}

// unitFolders are where packages and administrators put units (systemd.unit(5)).
var unitFolders = []string{"usr/lib/systemd/system", "lib/systemd/system", "usr/local/lib/systemd/system",
	"etc/systemd/system"}

// ErrName says that drop-ins cannot have the name of an interface, although the kernel takes it.
var ErrName = errors.New("a drop-in can have only letters, digits, '.', '_' and '-' in a name: " +
	"choose another network.interface")

// CheckName returns ErrName for a name that could mean something else to a manager than itself. The
// drop-ins have three languages, with patterns, lists and quotes of their own; what is refused here
// needs no quoting in any of them.
func CheckName(name string) error {
	plain := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
			strings.ContainsRune("._-", c)
	}
	if name == "" || len(name) > 15 || strings.Trim(name, ".") == "" ||
		strings.ContainsFunc(name, func(c rune) bool { return !plain(c) }) {
		return fmt.Errorf("name interface %q: %w", name, ErrName)
	}
	return nil
}

// Follow makes the drop-ins name an interface. It writes an override for each manager that is
// installed, and removes overrides that are not needed: all of them if the interface has the default
// name or one that CheckName refuses. It returns the units of managers whose drop-in has changed, which
// have to read it again. What is right already is not touched. root is "/" but for tests; Follow does
// not leave it by symbolic links. It does what it can, and returns the errors of the rest.
func Follow(root, name string) (changed []string, err error) {
	top, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	bad := CheckName(name)
	errs := []error{bad}
	for _, d := range dropIns {
		var wanted []byte
		if bad == nil && name != DefaultInterface && installed(top, d.unit) {
			if wanted, err = d.naming(top, name); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		did, err := bring(top, d.override, wanted)
		if did {
			changed = append(changed, d.unit)
		}
		errs = append(errs, err)
	}
	return changed, errors.Join(errs...)
}

// installed reports whether a unit exists.
func installed(top *os.Root, unit string) bool {
	for _, folder := range unitFolders {
		if _, err := top.Lstat(path.Join(folder, unit)); err == nil {
			return true
		}
	}
	return false
}

// naming returns the shipped drop-in with another name in the place of the default one; nil if it is
// not shipped, as where only the program was installed.
func (d dropIn) naming(top *os.Root, name string) ([]byte, error) {
	text, err := top.ReadFile(d.shipped)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return bytes.ReplaceAll(text, []byte(DefaultInterface), []byte(name)), err
}

// bring gives a file its content, whole or not at all; nil removes the file. did is false if it was so
// already.
func bring(top *os.Root, file string, content []byte) (did bool, err error) {
	if content == nil {
		err := top.Remove(file)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return err == nil, err
	}
	if have, err := top.ReadFile(file); err == nil && bytes.Equal(have, content) {
		return false, nil
	}
	if err := makeFolders(top, path.Dir(file)); err != nil {
		return false, err
	}
	// Managers read only files with endings that they know.
	fresh := file + ".new"
	if err := errors.Join(top.WriteFile(fresh, content, 0o644), top.Chmod(fresh, 0o644)); err != nil {
		return false, errors.Join(err, top.Remove(fresh))
	}
	return true, top.Rename(fresh, file)
}

// makeFolders makes a folder and those around it, for everyone to read: the unit's umask is that of a
// secretive service, and systemd-networkd runs as a user of its own.
func makeFolders(top *os.Root, folder string) error {
	if folder == "." {
		return nil
	}
	if err := makeFolders(top, path.Dir(folder)); err != nil {
		return err
	}
	switch err := top.Mkdir(folder, 0o755); {
	case errors.Is(err, fs.ErrExist):
		return nil
	case err != nil:
		return err
	}
	return top.Chmod(folder, 0o755)
}
