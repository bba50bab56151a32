// Package link keeps the kernel's side of the TUN interface as it should be:
// address, MTU, routes, link state. Set and CleanUp say what is wanted and find
// out themselves what is there; they keep no state of their own.
//
// What is ours: the interface with the alias "meshd", its addresses, the routes
// over it that carry our protocol number, and the backstop routes, which carry
// another. Nothing else is touched.
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
// needs CAP_NET_ADMIN. Calling it again changes nothing; changed tells, in words,
// what was not as it should be.
func Set(s Settings) (changed []string, err error) {
	dev, err := tunByName(s.Interface)
	if err != nil {
		return nil, err
	}
	if err := CheckRoutes(s.Interface, s.Routes); err != nil {
		return nil, err
	}
	steps := []struct {
		what string
		do   func(netlink.Link, Settings) (changed []string, err error)
	}{
		{"configure", setDevice},
		{"set MTU", setMTU},
		{"bring up", setUp},
		{"set addresses", setAddresses},
		{"set routes", setRoutes},
	}
	for _, step := range steps {
		what, err := step.do(dev, s)
		changed = append(changed, what...)
		if err != nil {
			return changed, fmt.Errorf("%s %q: %w", step.what, s.Interface, err)
		}
	}
	return changed, nil
}

// Claim marks the TUN called name, which has just been made, as ours.
func Claim(name string) error {
	dev, err := tunByName(name)
	if err != nil {
		return err
	}
	if dev.Attrs().Alias == alias {
		return nil
	}
	if err := netlink.LinkSetAlias(dev, alias); err != nil {
		return fmt.Errorf("mark %q as ours: %w", name, err)
	}
	return nil
}

// CheckInterface returns an error if the interface called name exists and cannot
// be taken over: because we did not make it, or because it is in use. fresh is
// true if there is none.
func CheckInterface(name string) (fresh bool, err error) {
	dev, err := netlink.LinkByName(name)
	switch {
	case err != nil:
		return true, nil
	case dev.Attrs().Alias != alias || dev.Type() != "tuntap":
		return false, fmt.Errorf("interface %q exists, and meshd did not make it: `ip link del %s`, or choose another network.interface", name, name)
	case inUse(dev):
		return false, fmt.Errorf("interface %q is in use, by another meshd: stop that, or choose another network.interface", name)
	}
	return false, nil
}

// Exists tells whether there is an interface called name.
func Exists(name string) bool { return indexOf(name) >= 0 }

// Index returns the index of an interface; negative if there is none.
func Index(name string) int { return indexOf(name) }

// Up tells whether there is an interface of that name that carries packets.
func Up(name string) bool {
	dev, err := netlink.LinkByName(name)
	return err == nil && dev.Attrs().Flags&net.FlagUp != 0
}

// inUse tells whether a program has a queue of the TUN open: only then does it
// have a carrier (tun_attach in drivers/net/tun.c).
func inUse(dev netlink.Link) bool { return dev.Attrs().RawFlags&unix.IFF_LOWER_UP != 0 }

// CleanUp removes the interface called name, or with an empty name every one,
// that an earlier run marked as ours and left, with its addresses and routes. It
// returns their names. One that a running program uses is an error.
func CleanUp(name string) (removed []string, err error) {
	links, err := retry(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		tun, ok := l.(*netlink.Tuntap)
		if !ok || tun.Attrs().Alias != alias || name != "" && tun.Attrs().Name != name {
			continue
		}
		if inUse(l) {
			return removed, fmt.Errorf("delete %q: a running meshd uses it: stop that first, `systemctl stop meshd`", tun.Attrs().Name)
		}
		if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
			return removed, fmt.Errorf("delete %q: %w", tun.Attrs().Name, err)
		}
		removed = append(removed, tun.Attrs().Name)
	}
	return removed, nil
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

func setMTU(dev netlink.Link, s Settings) ([]string, error) {
	if dev.Attrs().MTU == s.MTU {
		return nil, nil
	}
	return []string{fmt.Sprintf("mtu was %d", dev.Attrs().MTU)}, netlink.LinkSetMTU(dev, s.MTU)
}

func setUp(dev netlink.Link, _ Settings) ([]string, error) {
	if dev.Attrs().RawFlags&unix.IFF_UP != 0 {
		return nil, nil
	}
	return []string{"was down"}, netlink.LinkSetUp(dev)
}

func setAddresses(dev netlink.Link, s Settings) (changed []string, err error) {
	have, err := retry(func() ([]netlink.Addr, error) { return netlink.AddrList(dev, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	var found []netip.Addr
	for _, a := range have {
		ip := toPrefix(a.IPNet)
		if ip.IsSingleIP() && slices.Contains(s.Addresses, ip.Addr()) {
			found = append(found, ip.Addr())
			continue
		}
		if err := netlink.AddrDel(dev, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return changed, fmt.Errorf("remove %s: %w", ip, err)
		}
		changed = append(changed, fmt.Sprintf("foreign address %s", ip))
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
			return changed, fmt.Errorf("add %s: %w", ip, err)
		}
		changed = append(changed, fmt.Sprintf("address %s was missing", ip))
	}
	return changed, nil
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
