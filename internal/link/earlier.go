package link

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// This file clears the way for a meshd that starts: of the interfaces that an earlier run had under
// another name, and of an interface that another program made and does not use.

// ErrEarlier tells that a route is of a meshd with another interface: of an earlier run, whose interface
// TakeDown removes, or of one that runs.
var ErrEarlier = errors.New("a meshd with another network.interface made it")

// TakeDown deletes each interface that is marked as meshd's and has none of the names to keep, with its
// addresses and routes, and returns their names. It leaves alone what a program has open, since that may
// be another meshd; held lists those that the caller itself has open, or the service manager for it.
func TakeDown(keep, held []string) (removed []string, err error) {
	links, err := retry(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		name := l.Attrs().Name
		if !marked(l) || slices.Contains(keep, name) || inUse(l) && !slices.Contains(held, name) {
			continue
		}
		if err := deleteLink(l); err != nil {
			return removed, err
		}
		removed = append(removed, name)
	}
	return removed, nil
}

// TakeBack gives the TUN with an index, which is meshd's, its name back, and returns the one that another
// program gave it; empty if meshd has no TUN of that index. No interface may have the name.
func TakeBack(index int, name string) (was string, err error) {
	dev, err := netlink.LinkByIndex(index)
	if err != nil || !marked(dev) {
		return "", nil
	}
	err = netlink.LinkSetName(dev, name)
	if errors.Is(err, unix.EBUSY) { // before Linux 6.2 an interface that is up keeps its name; Set sets it up
		err = errors.Join(netlink.LinkSetDown(dev), netlink.LinkSetName(dev, name))
	}
	if err != nil {
		return "", fmt.Errorf("rename %q to %q: %w", dev.Attrs().Name, name, err)
	}
	return dev.Attrs().Name, nil
}

// Vacate makes room for a TUN of a name. It deletes one that another program made and left idle, such
// as a boot script or NetworkManager, and reports that. The error is that of CheckInterface if meshd
// cannot use the name. An idle TUN of meshd's own stays.
func Vacate(name string) (removed bool, err error) {
	dev, err := netlink.LinkByName(name)
	if err != nil {
		return false, nil
	}
	idle, err := foreignAndIdle(dev)
	if err != nil {
		return false, fmt.Errorf("look at interface %q: %w", name, err)
	}
	if !idle {
		return false, usable(dev)
	}
	return true, deleteLink(dev)
}

// foreignAndIdle reports whether an interface is a TUN of another program that nothing depends on: no
// program has it open or has made it for some user, and it has no address and no route. What the kernel
// adds to every interface that is up does not count.
func foreignAndIdle(dev netlink.Link) (bool, error) {
	tun, ok := dev.(*netlink.Tuntap)
	switch {
	case !ok, tun.Mode != netlink.TUNTAP_MODE_TUN, marked(dev), inUse(dev):
		return false, nil
	case tun.Owner != 0, tun.Group != 0, tun.Attrs().MasterIndex != 0:
		return false, nil
	}
	addresses, err := retry(func() ([]netlink.Addr, error) { return netlink.AddrList(dev, netlink.FAMILY_ALL) })
	if err != nil {
		return false, err
	}
	if slices.ContainsFunc(addresses, func(a netlink.Addr) bool { return !a.IP.IsLinkLocalUnicast() }) {
		return false, nil
	}
	filter := &netlink.Route{LinkIndex: dev.Attrs().Index, Table: unix.RT_TABLE_UNSPEC}
	routes, err := retry(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	})
	others := func(r netlink.Route) bool { return r.Protocol != unix.RTPROT_KERNEL }
	return !slices.ContainsFunc(routes, others), err
}

// marked reports whether an interface is meshd's: a TUN, or one of WireGuard.
func marked(dev netlink.Link) bool {
	return (dev.Type() == "tuntap" || isKernels(dev)) && dev.Attrs().Alias == alias
}

// deleteLink deletes an interface; one that is gone already is no error.
func deleteLink(dev netlink.Link) error {
	if isKernels(dev) {
		// Where this fails, the kernel removes the peers itself, which only takes longer. First the interface
		// goes down, and its routes with it: packets take the way behind them at once.
		_ = errors.Join(netlink.LinkSetDown(dev), removePeers(dev))
	}
	if err := netlink.LinkDel(dev); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete %q: %w", dev.Attrs().Name, err)
	}
	return nil
}
