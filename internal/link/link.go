// Package link keeps the kernel's side of the TUN interface as it should be:
// address, MTU, routes, link state. Set and CleanUp say what is wanted and find
// out themselves what is there; they keep no state of their own.
//
// What is ours: the interface with the alias "meshd", its addresses, and the
// routes over it that carry our protocol number. Nothing else is touched.
package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Protocol is the number that marks our routes; `ip route` shows it as "proto
// 85". It is free in iproute2's table and says who made the route.
const Protocol = 85

// alias marks our interface; `ip link` shows it.
const alias = "meshd"

// Settings is what the interface should look like.
type Settings struct {
	Interface string
	MTU       int            // bytes
	Addresses []netip.Addr   // the TUN's own, each configured as a host prefix
	Routes    []netip.Prefix // all that goes through the interface, masked
}

// Set makes the TUN interface, which must exist, match s: it adds what is
// missing, removes what is ours and no longer wanted, and brings it up. It
// needs CAP_NET_ADMIN. Calling it again changes nothing.
func Set(s Settings) error {
	dev, err := tunByName(s.Interface)
	if err != nil {
		return err
	}
	if err := CheckRoutes(s.Interface, s.Routes); err != nil {
		return err
	}
	steps := []struct {
		what string
		do   func(netlink.Link, Settings) error
	}{
		{"mark as ours", setAlias},
		{"configure", setDevice},
		{"set MTU", setMTU},
		{"bring up", func(dev netlink.Link, _ Settings) error { return netlink.LinkSetUp(dev) }},
		{"set addresses", setAddresses},
		{"set routes", setRoutes},
	}
	for _, step := range steps {
		if err := step.do(dev, s); err != nil {
			return fmt.Errorf("%s %q: %w", step.what, s.Interface, err)
		}
	}
	return nil
}

// CleanUp removes every interface that an earlier run left, with its addresses
// and routes, and returns their names. The interface called name goes too if it
// is a TUN, marked or not; an empty name means marked ones only.
func CleanUp(name string) (removed []string, err error) {
	links, err := retry(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		tun, ok := l.(*netlink.Tuntap)
		if !ok || tun.Mode != netlink.TUNTAP_MODE_TUN || tun.Attrs().Alias != alias && tun.Attrs().Name != name {
			continue
		}
		if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
			return removed, fmt.Errorf("delete %q: %w", tun.Attrs().Name, err)
		}
		removed = append(removed, tun.Attrs().Name)
	}
	return removed, nil
}

// Exists tells whether there is an interface of that name, whoever made it.
func Exists(name string) bool {
	_, err := netlink.LinkByName(name)
	return err == nil
}

// Overflows returns how many packets the kernel dropped on their way into the
// TUN because nobody read them in time (tx_dropped of the interface).
func Overflows(name string) (uint64, error) {
	dev, err := netlink.LinkByName(name)
	if err != nil {
		return 0, fmt.Errorf("find %q: %w", name, err)
	}
	if dev.Attrs().Statistics == nil {
		return 0, nil
	}
	return dev.Attrs().Statistics.TxDropped, nil
}

func tunByName(name string) (netlink.Link, error) {
	dev, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find %q: %w", name, err)
	}
	if dev.Type() != "tuntap" {
		return nil, fmt.Errorf("%q is a %s interface, not a TUN", name, dev.Type())
	}
	return dev, nil
}

func setAlias(dev netlink.Link, _ Settings) error {
	if dev.Attrs().Alias == alias {
		return nil
	}
	return netlink.LinkSetAlias(dev, alias)
}

func setMTU(dev netlink.Link, s Settings) error {
	if dev.Attrs().MTU == s.MTU {
		return nil
	}
	return netlink.LinkSetMTU(dev, s.MTU)
}

func setAddresses(dev netlink.Link, s Settings) error {
	have, err := retry(func() ([]netlink.Addr, error) { return netlink.AddrList(dev, netlink.FAMILY_ALL) })
	if err != nil {
		return err
	}
	var found []netip.Addr
	for _, a := range have {
		ip := toPrefix(a.IPNet)
		if ip.IsSingleIP() && slices.Contains(s.Addresses, ip.Addr()) {
			found = append(found, ip.Addr())
			continue
		}
		if err := netlink.AddrDel(dev, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove %s: %w", ip, err)
		}
	}
	for _, ip := range s.Addresses {
		if slices.Contains(found, ip) {
			continue
		}
		a := &netlink.Addr{IPNet: toIPNet(netip.PrefixFrom(ip, ip.BitLen()))}
		if ip.Is6() {
			a.Flags = unix.IFA_F_NODAD // there is nobody on a TUN to collide with
		}
		if err := netlink.AddrAdd(dev, a); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add %s: %w", ip, err)
		}
	}
	return nil
}

// retry runs a netlink dump again when the kernel says that what it listed
// changed meanwhile (NLM_F_DUMP_INTR).
func retry[T any](dump func() ([]T, error)) ([]T, error) {
	var list []T
	var err error
	for range 10 {
		if list, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return list, err
		}
	}
	return list, err
}

func toIPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// toPrefix converts n; the zero Prefix if n is nil.
func toPrefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	ip, _ := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if bits == 32 {
		ip = ip.Unmap()
	}
	return netip.PrefixFrom(ip, ones)
}
