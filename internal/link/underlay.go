package link

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LocalAddresses returns the addresses of all interfaces of this host that are
// up, in the order of the interfaces. Tentative IPv6 addresses, which nobody
// may use yet, are left out.
func LocalAddresses() ([]netip.Addr, error) {
	list, err := retry(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var ips []netip.Addr
	for _, a := range list {
		if a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 {
			ips = append(ips, toPrefix(a.IPNet).Addr())
		}
	}
	return ips, nil
}

// WatchAddresses calls changed once at the start and then after every change of
// an address of this host, until ctx ends (nil) or changed returns false (nil)
// or the kernel's messages cannot be read.
func WatchAddresses(ctx context.Context, changed func() bool) error {
	done := make(chan struct{})
	defer close(done)
	failed := make(chan error, 1)
	updates := make(chan netlink.AddrUpdate, 64)
	err := netlink.AddrSubscribeWithOptions(updates, done, netlink.AddrSubscribeOptions{
		ErrorCallback: func(err error) {
			select {
			case failed <- err:
			default:
			}
		},
	})
	if err != nil {
		return fmt.Errorf("watch addresses: %w", err)
	}
	for changed() {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return fmt.Errorf("watch addresses: %w", err)
		case <-updates:
		}
	}
	return nil
}

// UnderlayMTU returns the lowest MTU, in bytes, of the interfaces and routes of
// the main table that lead to the peers, and of the interface that has local.
// Routes chosen by rules (policy routing) are not followed. If nothing leads
// anywhere yet, it is 1500.
func UnderlayMTU(local netip.Addr, peers []netip.Addr) (int, error) {
	links, err := retry(netlink.LinkList)
	if err != nil {
		return 0, fmt.Errorf("list interfaces: %w", err)
	}
	mtus := map[int]int{}
	for _, l := range links {
		mtus[l.Attrs().Index] = l.Attrs().MTU
	}
	addresses, err := retry(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return 0, fmt.Errorf("list addresses: %w", err)
	}
	lowest := 0
	lower := func(mtu int) {
		if mtu > 0 && (lowest == 0 || mtu < lowest) {
			lowest = mtu
		}
	}
	for _, a := range addresses {
		if toPrefix(a.IPNet).Addr() == local {
			lower(mtus[a.LinkIndex])
		}
	}
	routes, err := mainTable()
	if err != nil {
		return 0, err
	}
	for r := range leading(routes, peers) {
		if r.MTU > 0 {
			lower(r.MTU)
		}
		lower(mtus[r.LinkIndex])
		for _, hop := range r.MultiPath {
			lower(mtus[hop.LinkIndex])
		}
	}
	if lowest == 0 {
		lowest = 1500
	}
	return lowest, nil
}

// leading returns the routes that are the longest match for one of the peers.
func leading(routes []netlink.Route, peers []netip.Addr) map[*netlink.Route]bool {
	used := map[*netlink.Route]bool{}
	for _, peer := range peers {
		var best *netlink.Route
		bits := -1
		for i := range routes {
			r := &routes[i]
			if p := destination(*r); r.Protocol != Protocol && p.Contains(peer) && p.Bits() > bits {
				best, bits = r, p.Bits()
			}
		}
		if best != nil {
			used[best] = true
		}
	}
	return used
}
