package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Filters of the clsact qdisc (Linux 4.5) are how programs are attached where the kernel has no
// tcx. A handle and a priority that other programs are unlikely to use tell ours from theirs.
const (
	filterHandle   = 0x6d65
	filterPriority = 0x6d65
	filterName     = "meshd"
)

// addFilter attaches a BPF program of type SCHED_CLS to the packets that an interface receives, or
// with out to those that it sends. A filter that we attached there before is replaced at one packet
// boundary. It outlives the process.
func addFilter(device, program int, out bool) error {
	qdisc := &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: device, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("add clsact: %w", err)
	}
	f := filterAt(device, out)
	f.Fd, f.Name, f.DirectAction = program, filterName, true
	if err := netlink.FilterReplace(f); err != nil {
		return fmt.Errorf("add a filter: %w", err)
	}
	return nil
}

// deleteFilter detaches it. A filter that does not exist is no error. The clsact qdisc stays, since
// other programs may have filters there.
func deleteFilter(device int, out bool) error {
	err := netlink.FilterDel(filterAt(device, out))
	if err == nil || absent(err) {
		return nil
	}
	return fmt.Errorf("delete a filter: %w", err)
}

// absent tells whether an error means that there is no filter: because the filter, clsact (EINVAL),
// the interface, or all of traffic control is missing.
func absent(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) ||
		errors.Is(err, unix.EOPNOTSUPP)
}

func filterAt(device int, out bool) *netlink.BpfFilter {
	parent := uint32(netlink.HANDLE_MIN_INGRESS)
	if out {
		parent = netlink.HANDLE_MIN_EGRESS
	}
	return &netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{
		LinkIndex: device, Parent: parent, Handle: filterHandle, Priority: filterPriority,
		Protocol: unix.ETH_P_ALL,
	}}
}

// filtered is a place where a filter of ours is.
type filtered struct {
	device int
	out    bool
}

// filters returns where filters of ours are, whichever meshd attached them.
func filters() (all []filtered, err error) {
	links, err := retry(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		for _, out := range []bool{false, true} {
			list := func() ([]netlink.Filter, error) { return netlink.FilterList(l, filterAt(0, out).Parent) }
			there, err := retry(list)
			if err != nil && !absent(err) {
				return all, fmt.Errorf("list the filters of %s: %w", l.Attrs().Name, err)
			}
			for _, f := range there {
				ours, ok := f.(*netlink.BpfFilter)
				if ok && ours.Handle == filterHandle && ours.Priority == filterPriority {
					all = append(all, filtered{l.Attrs().Index, out})
				}
			}
		}
	}
	return all, nil
}

// deleteFilters detaches all filters of ours from every interface.
func deleteFilters() (found bool, err error) {
	all, err := filters()
	for _, f := range all {
		found = true
		err = errors.Join(err, deleteFilter(f.device, f.out))
	}
	return found, err
}
