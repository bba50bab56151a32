package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane"
)

// Filters of the clsact qdisc (Linux 4.5) are how programs are attached where the kernel has no
// tcx. A handle and a priority that other programs are unlikely to use tell ours from theirs.
const (
	filterHandle   = 0x6d65
	filterPriority = 0x6d65
	filterFirst    = 1 // priority of the one that has to be asked before all others
	filterTap      = 2 // priority of the first of the Taps, which see packets before mesh_out takes them
	filterName     = "meshd"
)

// addFilter attaches a BPF program of type SCHED_CLS to the packets that an interface receives, or
// with out to those that it sends. A filter that we attached there before is replaced at one packet
// boundary. It outlives the process.
func addFilter(at filtered, program int) error {
	qdisc := &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: at.device, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("add clsact: %w", err)
	}
	f := at.filter()
	f.Fd, f.Name, f.DirectAction = program, filterName, true
	if err := netlink.FilterReplace(f); err != nil {
		return fmt.Errorf("add a filter: %w", err)
	}
	return nil
}

// deleteFilter detaches it. A filter that does not exist is no error. The clsact qdisc stays, since
// other programs may have filters there.
func deleteFilter(at filtered) error {
	err := netlink.FilterDel(at.filter())
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

// filtered is a place where a filter of ours is.
type filtered struct {
	device   int
	out      bool
	priority uint16
}

// filteredAt returns the place for an attachment.
func filteredAt(at attachment) filtered {
	f := filtered{at.device, at.stage.out(), filterPriority}
	if at.stage == stageMerge || at.stage == stageDecap {
		f.priority = filterFirst
	}
	return f
}

// parent returns the handle of the direction.
func (f filtered) parent() uint32 {
	if f.out {
		return netlink.HANDLE_MIN_EGRESS
	}
	return netlink.HANDLE_MIN_INGRESS
}

func (f filtered) filter() *netlink.BpfFilter {
	return &netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{
		LinkIndex: f.device, Parent: f.parent(), Handle: filterHandle, Priority: f.priority,
		Protocol: unix.ETH_P_ALL,
	}}
}

// isOurs tells whether some meshd attached a filter.
func isOurs(f netlink.Filter) bool {
	ours, ok := f.(*netlink.BpfFilter)
	if !ok || ours.Handle != filterHandle {
		return false
	}
	return ours.Priority == filterPriority || ours.Priority < filterTap+dataplane.Taps
}

// filters returns where filters of ours are, whichever meshd attached them.
func filters() (all []filtered, err error) {
	links, err := retry(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		for _, out := range []bool{false, true} {
			list := func() ([]netlink.Filter, error) { return netlink.FilterList(l, filtered{out: out}.parent()) }
			there, err := retry(list)
			if err != nil && !absent(err) {
				return all, fmt.Errorf("list the filters of %s: %w", l.Attrs().Name, err)
			}
			for _, f := range there {
				if isOurs(f) {
					all = append(all, filtered{l.Attrs().Index, out, f.Attrs().Priority})
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
		err = errors.Join(err, deleteFilter(f))
	}
	return found, err
}
