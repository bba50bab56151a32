package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/foreign"
	"example.org/meshd/internal/netns"
)

// Pins keep programs and maps in the kernel while no meshd runs, so that packets flow on;
// the next meshd takes them over. There is a folder for each network namespace, since its
// interfaces are what the programs are at:
//
//	/sys/fs/bpf/meshd/net-4026531840-1-v3/nodes       a map; 1 is the namespace's cookie, v3 the layout
//	/sys/fs/bpf/meshd/net-4026531840-1-v3/link-in-2   a program at the interface with index 2
//
// The number of a namespace comes again, its cookie never: nothing of another namespace is taken over.
// Kernels before 5.14 have no cookie, and the name has none.
//
// All users may write in the BPF file system, as in /tmp, if it was mounted without a mode. So nothing
// is pinned in a folder that other users than this process's may change, and nothing is removed with
// more rights than a folder's owner has (package foreign).
const (
	bpffs  = "/sys/fs/bpf"
	outer  = "meshd"
	pinned = bpffs + "/" + outer
)

// folders is how the folders of a network namespace are called.
type folders struct {
	begin string // all that have the number of the namespace, also those of others that had it before
	own   string // of this namespace and layout
}

// foldersOf names the folders of a namespace.
func foldersOf(n netns.Identity) folders {
	begin := fmt.Sprintf("net-%d-", n.Inode)
	if n.Cookie == 0 {
		return folders{begin, fmt.Sprintf("%sv%d", begin, layout)}
	}
	return folders{begin, fmt.Sprintf("%s%d-v%d", begin, n.Cookie, layout)}
}

// namespaceFolders names those of this network namespace.
func namespaceFolders() (folders, error) {
	n, err := netns.Current()
	return foldersOf(n), err
}

// openBPFFS opens the BPF file system; nil if none is mounted.
func openBPFFS() (*foreign.Folder, error) {
	f, err := foreign.Open(bpffs)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	is, err := f.Holds(unix.BPF_FS_MAGIC)
	if !is || err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// pinFolder returns the folder of this namespace and layout, and makes it if need be. The
// error says why nothing can be pinned.
func pinFolder() (string, error) {
	names, err := namespaceFolders()
	if err != nil {
		return "", err
	}
	root, err := openBPFFS()
	if err != nil {
		return "", err
	}
	if root == nil {
		return "", remedied{fmt.Errorf("no BPF file system is mounted at %s", bpffs),
			"mount -t bpf -o mode=0700 bpf " + bpffs + "; systemctl restart meshd"}
	}
	defer root.Close()
	all, err := ownFolder(root, outer)
	if err != nil {
		return "", err
	}
	defer all.Close()
	one, err := ownFolder(all, names.own)
	if err != nil {
		return "", err
	}
	defer one.Close()
	return one.Path(), nil
}

// ownFolder opens, or makes, a folder that only the user of this process can change.
func ownFolder(in *foreign.Folder, name string) (*foreign.Folder, error) {
	f, err := in.Make(name)
	if err != nil {
		return nil, advise(in, name, err)
	}
	if err := f.Own(); err != nil {
		f.Close()
		return nil, advise(in, name, err)
	}
	return f, nil
}

// advise adds to an error what to do about a folder of pins.
func advise(in *foreign.Folder, name string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return remedied{err, "systemctl restart meshd"} // which makes the folder as root
	}
	// Users who may write in the file system could put their own there again.
	remedy := "chmod go-w %s; rm -r %s; systemctl restart meshd"
	return remedied{err, fmt.Sprintf(remedy, bpffs, filepath.Join(in.Path(), name))}
}

// GiveFolder gives the folder of all pins to a user, as whom meshd will run, with the pins that root's
// meshd has left in it. It is for root, before that user's meshd starts. It does nothing where no BPF
// file system is mounted. A folder that belongs to neither root nor the user is an error, and so is
// a symbolic link; both stay as they are.
func GiveFolder(user, group int) error {
	root, err := openBPFFS()
	if root == nil || err != nil {
		return err
	}
	defer root.Close()
	all, err := root.Make(outer)
	if err != nil {
		return advise(root, outer, err)
	}
	defer all.Close()
	names, err := all.Names()
	if err != nil {
		return err
	}
	// The outer folder is last: until then only root can change what is in it.
	for _, name := range names {
		if !strings.HasPrefix(name, "net-") {
			continue
		}
		if err := give(all, name, user, group); err != nil {
			return err
		}
	}
	if err := all.Give(user, group); err != nil {
		return advise(root, outer, err)
	}
	return root.LetPass()
}

func give(in *foreign.Folder, name string, user, group int) error {
	f, err := in.Folder(name)
	if err != nil {
		return advise(in, name, err)
	}
	defer f.Close()
	if err := f.Give(user, group); err != nil {
		return advise(in, name, err)
	}
	return nil
}

// CleanUp removes all that is pinned for this network namespace, whichever meshd pinned it, and with
// it the programs from the interfaces. It tells whether there was something. It is an error if another
// program has put something where meshd pins; everything else is removed all the same.
func CleanUp() (removed bool, err error) {
	removed, notOurs, err := cleanUp()
	return removed, errors.Join(notOurs, err)
}

// cleanUp is CleanUp, which tells what is not ours apart from what could not be removed.
func cleanUp() (removed bool, notOurs, err error) {
	tunnels, tunnelsErr := deleteTunnels() // before the program there goes
	removed, err = cleanUpBut("")
	removed = removed || tunnels
	if errors.Is(err, errNotOurs) {
		notOurs, err = err, nil
	}
	filters, filtersErr := deleteFilters()
	removed = removed || filters
	if err := errors.Join(err, filtersErr, tunnelsErr); err != nil { // what is left may need the merger
		return removed, notOurs, err
	}
	merger, err := deleteMerger()
	return removed || merger, notOurs, err
}

// errNotOurs says that there is no folder of pins, but something else in its place.
var errNotOurs = errors.New("another program put something where meshd pins: not removing it")

// cleanUpBut removes what is pinned for this network namespace, but for the folder at a path, and what
// is left of namespaces that are gone.
func cleanUpBut(keep string) (removed bool, err error) {
	ours, err := namespaceFolders()
	if err != nil {
		return false, err
	}
	root, err := openBPFFS()
	if root == nil || err != nil {
		return false, err
	}
	defer root.Close()
	all, err := root.Folder(outer)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%w: %w", errNotOurs, err)
	}
	defer all.Close()
	names, err := all.Names()
	if errors.Is(err, fs.ErrPermission) { // who may not look there has pinned nothing there
		return false, fmt.Errorf("%w: %w", errNotOurs, err)
	}
	if err != nil {
		return false, err
	}
	for _, name := range names {
		switch {
		case !strings.HasPrefix(name, ours.begin):
			removeIfGone(all, name)
		case filepath.Join(all.Path(), name) != keep:
			err = errors.Join(err, removePinsIn(all, name))
			removed = true
		}
	}
	if keep == "" {
		_ = root.RemoveFolder(outer) // if no other namespace has pins
	}
	return removed, err
}

// removePins removes the folder at a path, which pinFolder returned.
func removePins(folder string) error {
	all, err := foreign.Open(filepath.Dir(folder))
	if err != nil {
		return err
	}
	defer all.Close()
	return removePinsIn(all, filepath.Base(folder))
}

// removePinsIn removes a folder of pins.
func removePinsIn(all *foreign.Folder, name string) error {
	f, err := all.Folder(name)
	if err != nil {
		return err
	}
	defer f.Close()
	pins, err := f.Names()
	for _, pin := range removalOrder(pins) {
		err = errors.Join(err, f.Unlink(pin))
	}
	return errors.Join(err, all.RemoveFolder(name))
}
