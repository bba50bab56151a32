// Package link keeps the kernel's side of the mesh's interfaces in the wanted state:
// addresses, MTU, routes, link state, forwarding switches. Set and CleanUp take the wanted
// state, compare it with the kernel's and change the difference; the package keeps no state
// of its own, but for what Settings.Loose has changed. All functions may be called by several
// goroutines at once, but two writers of the same interface would undo each other's changes.
//
// meshd's own are: interfaces with the alias "meshd" and their addresses, routes over them
// with meshd's protocol number, and backstop routes, which have another number. Of other
// interfaces the package changes forwarding switches only, and only when asked to.
//
//	link, route      an interface of meshd's: its state, its routes
//	encrypted        the interface of WireGuard beside the TUN
//	earlier          TUNs that are in the way of a meshd that starts
//	underlay         how datagrams reach the peers
//	rules, ask       routing rules, and what the kernel answers about a packet
//	resolve          of what the kernel is asked, and which rule is behind its answer
//	diverted         rules that take packets of pods away from the mesh
//	explain          what the kernel does with one packet, for people
//	crossing         by which interfaces packets of pods cross this host
//	backstop         routes that refuse the mesh's packets while the TUN is away
//	switches, sysctl forwarding of IPv4 and of IPv6
//	ipsec            policies that apply to the mesh's datagrams
//	watch            tells when interfaces, addresses, routes or rules change
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

// Protocol marks meshd's routes; `ip route` shows it as "proto 85". The number is not
// assigned in iproute2's rt_protos.
const Protocol = 85

// alias marks meshd's interfaces; `ip link` shows it.
const alias = "meshd"

// Settings is the wanted state of an interface of meshd's.
type Settings struct {
	Interface string
	Kind      Kind
	MTU       int          // in bytes
	Addresses []netip.Addr // of the interface, each configured as a host prefix
	Routes    []Route      // everything that goes through the interface
	// Router6 turns on IPv6 forwarding of the interface itself, which bpf_fib_lookup asks where the underlay
	// is IPv6. The host forwards no IPv6 packet for that: the switch of all interfaces decides.
	Router6 bool
	// Loose accepts IPv4 packets whose answers would leave by another interface (rp_filter 2), as those of
	// peers do that come by the TUN and are answered by the encrypted interface. False leaves the host's
	// value as it is, or brings it back where an earlier call of this process has made it loose.
	Loose bool
	// Beside are further interfaces of meshd's own. Their routes for the same prefixes are no conflict; one
	// that has the same metric as well is replaced by this interface's, without a moment between.
	Beside []string
}

// Set brings an interface of meshd's, which must exist, into the state s. It adds what is missing,
// removes addresses and meshd's routes that s does not have, and sets the link up. A prefix whose route
// changes is never without one. Set needs CAP_NET_ADMIN. A second call changes nothing. changed describes
// each difference that Set found, for the log; after an error it holds those found until then.
func Set(s Settings) (changed []string, err error) {
	dev, err := ownByName(s.Interface, s.Kind)
	if err != nil {
		return nil, err
	}
	routes, err := mainTable()
	if err != nil {
		return nil, err
	}
	beside := indices(s.Beside)
	if err := conflict(routes, dev.Attrs().Index, s.Prefixes(), beside); err != nil {
		return nil, err
	}
	steps := []struct {
		what string
		do   func(netlink.Link, Settings) (changed []string, err error)
	}{
		{"mark", setMark},
		{"configure", setDevice},
		{"set MTU", setMTU},
		{"bring up", setUp},
		{"set IPv6 forwarding of", setRouter6},
		{"set addresses", setAddresses},
	}
	for _, step := range steps {
		what, err := step.do(dev, s)
		changed = append(changed, what...)
		if err != nil {
			return changed, fmt.Errorf("%s %q: %w", step.what, s.Interface, err)
		}
	}
	if len(changed) > 0 { // with an address the kernel removes routes that have it as their source
		if routes, err = mainTable(); err != nil {
			return changed, err
		}
	}
	what, err := setRoutes(routes, dev.Attrs().Index, s.Routes, beside)
	if changed = append(changed, what...); err != nil {
		return changed, fmt.Errorf("set routes %q: %w", s.Interface, err)
	}
	return changed, nil
}

// setMark marks the interface as meshd's. A TUN that is deleted while its queues are opened is made anew by
// opening them, without a mark, and the next start would take it for another program's.
func setMark(dev netlink.Link, _ Settings) (changed []string, err error) {
	if was := dev.Attrs().Alias; was != alias {
		return []string{fmt.Sprintf("alias was %q", was)}, netlink.LinkSetAlias(dev, alias)
	}
	return nil, nil
}

// Claim marks the TUN, or the interface of WireGuard, called name as meshd's. The caller has just made it.
func Claim(name string) error {
	dev, err := ownByName(name, Encrypted)
	if err != nil {
		return err
	}
	if dev.Attrs().Alias == alias {
		return nil
	}
	if err := netlink.LinkSetAlias(dev, alias); err != nil {
		return fmt.Errorf("set alias of %q: %w", name, err)
	}
	return nil
}

// Reasons why meshd does not take an interface; test with errors.Is.
var (
	ErrForeign = errors.New("meshd did not make it")
	ErrInUse   = errors.New("a running meshd uses it, or systemd holds it for one that starts again")
	ErrNotTUN  = errors.New("not a TUN")
)

// CheckInterface returns an error if meshd cannot use the interface called name although it
// exists: ErrForeign if another program made it, ErrInUse if another meshd has it open.
// fresh is true if no interface has the name.
func CheckInterface(name string) (fresh bool, err error) {
	dev, err := netlink.LinkByName(name)
	if err != nil {
		return true, nil
	}
	return false, usable(dev)
}

// usable is CheckInterface for an interface that exists.
func usable(dev netlink.Link) error {
	name := dev.Attrs().Name
	switch {
	case !marked(dev):
		return fmt.Errorf("interface %q exists, and %w: `ip link del %[1]s`, or, if NetworkManager made it, "+
			"`nmcli connection delete \"$(nmcli -g GENERAL.CONNECTION device show %[1]s)\"`, "+
			"or choose another network.interface", name, ErrForeign)
	case inUse(dev):
		return fmt.Errorf("interface %q: %w: stop that meshd, or choose another network.interface", name, ErrInUse)
	}
	return nil
}

// Exists reports whether an interface called name exists.
func Exists(name string) bool { return Index(name) >= 0 }

// Index returns the index of the interface called name; negative if it does not exist.
func Index(name string) int {
	dev, err := netlink.LinkByName(name)
	if err != nil {
		return -1
	}
	return dev.Attrs().Index
}

// Up reports whether the interface called name exists and is set up.
func Up(name string) bool {
	dev, err := netlink.LinkByName(name)
	return err == nil && dev.Attrs().Flags&net.FlagUp != 0
}

// An IdleDevice is an interface by which no packet leaves at the moment.
type IdleDevice struct {
	Name string
	Up   bool // it is set up, and only lacks a carrier
}

// Idle returns those of some interfaces, by index, that are down or have no carrier: first those that are
// down. Interfaces that do not exist any more are left out.
func Idle(devices []int) (idle []IdleDevice) {
	for _, up := range []bool{false, true} {
		for _, index := range devices {
			dev, err := netlink.LinkByIndex(index)
			if err != nil || dev.Attrs().RawFlags&unix.IFF_LOWER_UP != 0 {
				continue
			}
			if d := (IdleDevice{dev.Attrs().Name, dev.Attrs().Flags&net.FlagUp != 0}); d.Up == up {
				idle = append(idle, d)
			}
		}
	}
	return idle
}

// inUse reports whether a program has a queue of the TUN open: only then has the TUN a
// carrier (tun_attach and __tun_detach in drivers/net/tun.c). One that is down does not show
// its carrier, but counts its queues (Linux 4.20).
func inUse(dev netlink.Link) bool {
	tun, ok := dev.(*netlink.Tuntap)
	return ok && (dev.Attrs().RawFlags&unix.IFF_LOWER_UP != 0 || tun.Queues+tun.DisabledQueues > 0)
}

// CleanUp removes the interface called name, or with an empty name every interface, that an earlier
// run marked as meshd's, with its addresses and routes. It returns the names of those removed.
// If a running program uses one of them, the error is ErrInUse, and all of them stay.
func CleanUp(name string) (removed []string, err error) {
	links, err := retry(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var all []netlink.Link
	for _, l := range links {
		if !marked(l) || name != "" && l.Attrs().Name != name {
			continue
		}
		if inUse(l) { // by a meshd, or by the helper that encrypts for it
			return nil, fmt.Errorf("delete %q: %w: stop that first, `systemctl stop meshd meshd-wireguard`",
				l.Attrs().Name, ErrInUse)
		}
		all = append(all, l)
	}
	for _, l := range all {
		if err := deleteLink(l); err != nil {
			return removed, err
		}
		removed = append(removed, l.Attrs().Name)
	}
	return removed, nil
}

// Overflows returns how many packets the kernel dropped because the TUN's queue was full:
// the daemon did not read them in time (tx_dropped of the interface).
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

// setMTU sets the MTU. If it is right, no call is made: each would tell all netlink listeners.
func setMTU(dev netlink.Link, s Settings) ([]string, error) {
	if dev.Attrs().MTU == s.MTU {
		return nil, nil
	}
	return []string{fmt.Sprintf("mtu was %d", dev.Attrs().MTU)}, netlink.LinkSetMTU(dev, s.MTU)
}

// setUp sets the link up.
func setUp(dev netlink.Link, _ Settings) ([]string, error) {
	if dev.Attrs().RawFlags&unix.IFF_UP != 0 {
		return nil, nil
	}
	return []string{"was down"}, netlink.LinkSetUp(dev)
}

// setAddresses removes all unwanted addresses, also those of other programs: any of them
// could become the source of packets into the mesh. Then it adds the missing ones.
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
		changed = append(changed, fmt.Sprintf("address %s was unwanted", ip))
	}
	for _, ip := range s.Addresses {
		if slices.Contains(found, ip) {
			continue
		}
		a := &netlink.Addr{IPNet: toIPNet(netip.PrefixFrom(ip, ip.BitLen()))}
		if ip.Is6() {
			a.Flags = unix.IFA_F_NODAD // a TUN has no neighbours that could have the address
		}
		if err := netlink.AddrAdd(dev, a); err != nil && !errors.Is(err, unix.EEXIST) {
			return changed, fmt.Errorf("add %s: %w", ip, err)
		}
		changed = append(changed, fmt.Sprintf("address %s was missing", ip))
	}
	return changed, nil
}

// retry repeats a netlink dump while the kernel says that the list changed during the dump
// (NLM_F_DUMP_INTR): such a list may miss entries.
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

// toIPNet converts a prefix for the netlink library.
func toIPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// toPrefix converts a prefix of the netlink library; nil gives the zero Prefix.
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
