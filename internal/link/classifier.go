package link

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Where a program is asked about packets of an interface (the clsact qdisc, Linux 4.5).
const (
	ingress = netlink.HANDLE_MIN_INGRESS
	egress  = netlink.HANDLE_MIN_EGRESS
)

// classifier names our filters: a handle and a priority that nobody else is likely to use.
const (
	classifierHandle   = 0x6d65
	classifierPriority = 0x6d65
	classifierName     = "meshd"
)

// AttachClassifier has a BPF program of type SCHED_CLS decide about the packets that come in
// by an interface, or go out. One that we attached there before is replaced at one packet
// boundary. It stays when the process ends.
func AttachClassifier(device, program int, out bool) error {
	qdisc := &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: device, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("add clsact: %w", err)
	}
	filter := classifier(device, out)
	filter.Fd, filter.Name, filter.DirectAction = program, classifierName, true
	if err := netlink.FilterReplace(filter); err != nil {
		return fmt.Errorf("add a filter: %w", err)
	}
	return nil
}

// DetachClassifier takes it away. That it was not there is no error. The clsact qdisc stays:
// others may have their filters there.
func DetachClassifier(device int, out bool) error {
	err := netlink.FilterDel(classifier(device, out))
	if err == nil || absent(err) {
		return nil
	}
	return fmt.Errorf("delete a filter: %w", err)
}

// absent tells whether an error means that there is no filter: for want of the filter, of
// clsact (EINVAL), of the interface, or of all that in the kernel.
func absent(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP)
}

func classifier(device int, out bool) *netlink.BpfFilter {
	parent := uint32(ingress)
	if out {
		parent = egress
	}
	return &netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{
		LinkIndex: device, Parent: parent, Handle: classifierHandle, Priority: classifierPriority, Protocol: unix.ETH_P_ALL,
	}}
}

// Classified is where a program of ours is asked.
type Classified struct {
	Device int
	Out    bool
}

// Classifiers returns where we have programs, whichever meshd attached them.
func Classifiers() (all []Classified, err error) {
	links, err := retry(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		for _, out := range []bool{false, true} {
			filters, err := retry(func() ([]netlink.Filter, error) { return netlink.FilterList(l, classifier(0, out).Parent) })
			if err != nil && !absent(err) {
				return all, fmt.Errorf("list the filters of %s: %w", l.Attrs().Name, err)
			}
			for _, f := range filters {
				if ours, ok := f.(*netlink.BpfFilter); ok && ours.Handle == classifierHandle && ours.Priority == classifierPriority {
					all = append(all, Classified{l.Attrs().Index, out})
				}
			}
		}
	}
	return all, nil
}

// DetachClassifiers takes those that we attached from every interface.
func DetachClassifiers() (found bool, err error) {
	all, err := Classifiers()
	for _, c := range all {
		found = true
		err = errors.Join(err, DetachClassifier(c.Device, c.Out))
	}
	return found, err
}
