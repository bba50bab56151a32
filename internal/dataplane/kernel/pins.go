package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	devices "example.org/meshd/internal/link"
)

// Pins keep programs and maps in the kernel while no meshd runs, so that packets flow on;
// the next meshd takes them over. There is a folder for each network namespace, since its
// interfaces are what the programs are at:
//
//	/sys/fs/bpf/meshd/net-4026531840-v1/nodes       a map
//	/sys/fs/bpf/meshd/net-4026531840-v1/link-in-2   a program at the interface with index 2
const (
	bpffs  = "/sys/fs/bpf"
	pinned = bpffs + "/meshd"
)

// layout is the version mark: a daemon takes over only what has its own, and removes what
// has another. It is raised with every change of bpf/mesh.h or of a map.
const layout = 2

// namespaceFolders begins the names of all folders of this network namespace.
func namespaceFolders() (string, error) {
	var s unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &s); err != nil {
		return "", &os.PathError{Op: "stat", Path: "/proc/thread-self/ns/net", Err: err}
	}
	return fmt.Sprintf("%s/net-%d-", pinned, s.Ino), nil
}

// pinFolder returns the folder of this namespace and layout, and makes it if need be. The
// error says why nothing can be pinned.
func pinFolder() (string, error) {
	begins, err := namespaceFolders()
	if err != nil {
		return "", err
	}
	if err := os.Mkdir(pinned, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("%w: is %s mounted? `mount -t bpf bpf %s` does it", err, bpffs, bpffs)
	}
	var s unix.Statfs_t
	if err := unix.Statfs(pinned, &s); err != nil {
		return "", &os.PathError{Op: "statfs", Path: pinned, Err: err}
	}
	if uint32(s.Type) != unix.BPF_FS_MAGIC { // the type is signed on some machines
		return "", fmt.Errorf("%s is not in a BPF file system: `mount -t bpf bpf %s` mounts one", pinned, bpffs)
	}
	folder := fmt.Sprintf("%sv%d", begins, layout)
	if err := os.Mkdir(folder, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return folder, nil
}

// CleanUp removes all that is pinned for this network namespace, whichever meshd pinned it,
// and with it the programs from the interfaces. It tells whether there was something.
func CleanUp() (removed bool, err error) {
	removed, err = cleanUpBut("")
	filters, filtersErr := devices.DetachClassifiers()
	if err := errors.Join(err, filtersErr); err != nil { // what is left may need the merger
		return removed || filters, err
	}
	merger, err := devices.DeleteMerger()
	return removed || filters || merger, err
}

func cleanUpBut(keep string) (removed bool, err error) {
	begins, err := namespaceFolders()
	if err != nil {
		return false, err
	}
	folders, err := filepath.Glob(begins + "*")
	if err != nil {
		return false, err
	}
	for _, folder := range folders {
		if folder == keep {
			continue
		}
		err = errors.Join(err, removePins(folder))
		removed = true
	}
	if keep == "" {
		_ = os.Remove(pinned) // if no other namespace has pins
	}
	return removed, err
}

// removePins removes a folder. Programs go in the order of inOrder, backwards, which is that
// of their names.
func removePins(folder string) error {
	links, err := filepath.Glob(filepath.Join(folder, "link-*")) // sorted
	for _, link := range slices.Backward(links) {
		err = errors.Join(err, os.Remove(link))
	}
	return errors.Join(err, os.RemoveAll(folder))
}

// adopt takes over what an earlier meshd has left: what pinned maps say of the mesh, and
// programs at interfaces, which become ours at one packet boundary each. Counters begin
// again, as all that a meshd counts.
func (p *Programs) adopt() error {
	if p.folder != "" {
		if err := p.adoptPins(); err != nil {
			return err
		}
	}
	// Filters outlive the process without pins.
	filters, err := devices.Classifiers()
	if err != nil {
		return fmt.Errorf("take over filters: %w", err)
	}
	for _, f := range filters {
		at := attachment{"in", f.Device}
		switch {
		case f.Out:
			at.program = "out"
		case nameOf(f.Device) == devices.MergerExit:
			at.program = "gro"
		}
		p.attached[at] = filter{at}
		if p.stands(at) {
			continue
		}
		if err := (filter{at}).remove(); err != nil { // no error if its interface was deleted
			return fmt.Errorf("take over the filter of %s: %w", nameOf(f.Device), err)
		}
	}
	return nil
}

func (p *Programs) adoptPins() error {
	if err := p.readTables(); err != nil {
		return fmt.Errorf("take over pinned maps: %w", err)
	}
	pins, err := filepath.Glob(filepath.Join(p.folder, "link-*"))
	if err != nil {
		return err
	}
	for _, pin := range pins {
		at, ok := attachmentOf(filepath.Base(pin))
		if l := p.takeOver(pin, at); ok && l != nil {
			p.attached[at] = linked{l, true}
			continue
		}
		if err := os.Remove(pin); err != nil {
			return err
		}
	}
	return nil
}

// takeOver returns a pinned link with our program in it; nil if it is of no use, for instance
// because its interface was deleted.
func (p *Programs) takeOver(pin string, at attachment) link.Link {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return nil
	}
	program, err := p.program(at)
	if err != nil || interfaceOf(l) != at.device || l.Update(program) != nil {
		_ = l.Close()
		return nil
	}
	return l
}

// interfaceOf returns the index of the interface that a link is at; 0 if that was deleted.
func interfaceOf(l link.Link) int {
	info, err := l.Info()
	if err != nil {
		return 0
	}
	if tcx := info.TCX(); tcx != nil {
		return int(tcx.Ifindex)
	}
	if xdp := info.XDP(); xdp != nil {
		return int(xdp.Ifindex)
	}
	return 0
}

// String names the pin of what is attached.
func (at attachment) String() string { return fmt.Sprintf("link-%s-%d", at.program, at.device) }

func attachmentOf(name string) (at attachment, ok bool) {
	words := strings.NewReplacer("-", " ").Replace(strings.TrimPrefix(name, "link-"))
	_, err := fmt.Sscan(words, &at.program, &at.device)
	return at, err == nil
}
