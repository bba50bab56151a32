package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane"
)

// Devices where the kernel delivers what was in datagrams, after FOU has taken UDP off:
//
//	meshd-in     IPv4 in IPv4     ipip external: for whichever addresses
//	meshd-sit0   IPv6 in IPv4     sit, one for each of our own IPv4 addresses: it knows no external mode
//	meshd-in6    either in IPv6   ip6tnl external
//
// They have no addresses, and nothing is routed to them. GRO is off: what comes is merged already, and
// packets that wait there for others would be overtaken (gro_cells_receive).
const (
	tunnel4   = "meshd-in"
	tunnel6   = "meshd-in6"
	tunnelSit = "meshd-sit"

	tunnelMTU = 65000

	// aliasBegin is that of the alias of each device, see alias.
	aliasBegin = "meshd: sockets at port "
)

// tunnelsFor returns the devices that a node needs. IPv6 in IPv4 is for those that have IPv6 themselves.
func tunnelsFor(w dataplane.Wanted) (all []netlink.Link) {
	attributes := func(name string) netlink.LinkAttrs {
		a := netlink.NewLinkAttrs()
		a.Name, a.MTU = name, tunnelMTU
		return a
	}
	var v4 []netip.Addr
	v6 := false
	for _, b := range w.Binds {
		if b.Addr().Is4() {
			v4 = append(v4, b.Addr())
		}
		v6 = v6 || b.Addr().Is6()
	}
	if len(v4) > 0 {
		all = append(all, &netlink.Iptun{LinkAttrs: attributes(tunnel4), FlowBased: true})
	}
	if v6 {
		all = append(all, &netlink.Ip6tnl{LinkAttrs: attributes(tunnel6), FlowBased: true})
	}
	if hasIPv6(w) {
		for i, a := range v4 {
			all = append(all, &netlink.Sittun{LinkAttrs: attributes(tunnelSit + strconv.Itoa(i)),
				Local: a.AsSlice(), Proto: unix.IPPROTO_IPV6, PMtuDisc: 1})
		}
	}
	return all
}

// hasIPv6 tells whether this node has IPv6 prefixes: nothing else comes for it by IPv6.
func hasIPv6(w dataplane.Wanted) bool {
	own, _ := w.Mesh.Peer(w.Mesh.Self)
	of6 := func(p netip.Prefix) bool { return p.Addr().Is6() }
	return slices.ContainsFunc(own.Subnets, of6) || slices.ContainsFunc(own.Routes, of6)
}

// isTunnel tells whether an interface is one of ours, by its name and kind.
func isTunnel(l netlink.Link) bool {
	switch name := l.Attrs().Name; l.Type() {
	case "ipip":
		return name == tunnel4
	case "ip6tnl":
		return name == tunnel6
	case "sit":
		return strings.HasPrefix(name, tunnelSit)
	}
	return false
}

// isTunnelName tells whether one of our devices has a name.
func isTunnelName(name string) bool {
	return name == tunnel4 || name == tunnel6 || strings.HasPrefix(name, tunnelSit)
}

// foreignTunnel returns the name of an interface of somebody else's to which IP in IP may go instead of to
// ours, or whose packets might come to ours; empty: there is none. Interfaces that are down take nothing.
func foreignTunnel(links []netlink.Link) string {
	kinds := []string{"ipip", "sit", "ip6tnl", "vti", "vti6"}
	for _, l := range links {
		if slices.Contains(kinds, l.Type()) && l.Attrs().RawFlags&unix.IFF_UP != 0 && !isTunnel(l) {
			return l.Attrs().Name
		}
	}
	return ""
}

// setTunnels makes the devices, brings those that exist to the wanted state, and deletes others of ours. It
// returns their indices in order. New ones are down: first of all they need their program. Those of a name
// that somebody else has taken are an error.
func setTunnels(w dataplane.Wanted, sockets uint16) (indices []int, err error) {
	links, err := retry(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	if name := foreignTunnel(links); name != "" {
		return nil, noFOU("the interface %s is up: packets in IP belong to it", name)
	}
	tool, err := ethtool.NewEthtool()
	if err != nil {
		return nil, fmt.Errorf("set features of %s: %w", tunnel4, err)
	}
	defer tool.Close()
	wanted := tunnelsFor(w)
	for _, l := range links {
		fits := func(want netlink.Link) bool { return sameTunnel(want, l) }
		if isTunnel(l) && !slices.ContainsFunc(wanted, fits) {
			if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
				return nil, fmt.Errorf("delete %s: %w", l.Attrs().Name, err)
			}
		}
	}
	for _, want := range wanted {
		index, err := setTunnel(want, links, tool, alias{sockets, portsOf(w.Binds)}.String())
		if err != nil {
			return nil, noFOU("set %s: %w", want.Attrs().Name, err)
		}
		indices = append(indices, index)
	}
	return indices, nil
}

// sameTunnel tells whether a device is as it was made. FlowBased and Local are fixed from then on.
func sameTunnel(want, is netlink.Link) bool {
	if want.Attrs().Name != is.Attrs().Name || want.Type() != is.Type() {
		return false
	}
	switch want := want.(type) {
	case *netlink.Iptun:
		return is.(*netlink.Iptun).FlowBased
	case *netlink.Ip6tnl:
		return is.(*netlink.Ip6tnl).FlowBased
	case *netlink.Sittun:
		return want.Local.Equal(is.(*netlink.Sittun).Local)
	}
	return false
}

// setTunnel makes a device if it is not among links, and sets what it needs.
func setTunnel(
	want netlink.Link, links []netlink.Link, tool *ethtool.Ethtool, alias string,
) (index int, err error) {
	name := want.Attrs().Name
	at := slices.IndexFunc(links, func(l netlink.Link) bool { return sameTunnel(want, l) })
	if at < 0 {
		err := netlink.LinkAdd(want)
		if errors.Is(err, unix.EOPNOTSUPP) {
			return 0, fmt.Errorf("the kernel has no interfaces of the kind %q", want.Type())
		}
		if err != nil {
			return 0, fmt.Errorf("make it: %w", err)
		}
	}
	is, err := netlink.LinkByName(name)
	if err != nil {
		return 0, err
	}
	if is.Attrs().Alias != alias {
		if err := netlink.LinkSetAlias(is, alias); err != nil {
			return 0, fmt.Errorf("set its alias: %w", err)
		}
	}
	if features, err := tool.Features(name); err != nil {
		return 0, fmt.Errorf("read its features: %w", err)
	} else if features["rx-gro"] {
		if err := tool.Change(name, map[string]bool{"rx-gro": false}); err != nil {
			return 0, fmt.Errorf("turn its GRO off: %w", err)
		}
	}
	if is.Attrs().MTU < tunnelMTU {
		if err := netlink.LinkSetMTU(is, tunnelMTU); err != nil {
			return 0, fmt.Errorf("set its MTU: %w", err)
		}
	}
	const none = 1 // as of the merger
	if mode := addressMode(name); mode != "" && mode != strconv.Itoa(none) {
		if err := netlink.LinkSetIP6AddrGenMode(is, none); err != nil {
			return 0, fmt.Errorf("set addr_gen_mode: %w", err)
		}
	}
	return is.Attrs().Index, nil
}

// raiseTunnels brings devices up, by their indices, and leaves them no addresses.
func raiseTunnels(indices []int) error {
	for _, i := range indices {
		l, err := netlink.LinkByIndex(i)
		if err == nil && l.Attrs().RawFlags&unix.IFF_UP == 0 {
			err = netlink.LinkSetUp(l)
		}
		if err == nil {
			err = dropAddresses(l)
		}
		if err != nil {
			return fmt.Errorf("bring %s up: %w", nameOf(i), err)
		}
	}
	return nil
}

// dropAddresses takes the addresses that the kernel gives a sit device by itself, whatever its addr_gen_mode
// is: one like ::192.0.2.1/96, with a route (add_v4_addrs in net/ipv6/addrconf.c).
func dropAddresses(l netlink.Link) error {
	all, err := retry(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_V6) })
	if err != nil {
		return fmt.Errorf("list its addresses: %w", err)
	}
	for _, a := range all {
		if err := netlink.AddrDel(l, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("delete its address %s: %w", a.IPNet, err)
		}
	}
	return nil
}

// An alias is what a device tells about itself to the next meshd, and to `meshd cleanup`.
type alias struct {
	sockets uint16 // the port of meshd's
	ports   []port // that FOU has
}

// String returns the text of the alias.
func (a alias) String() string {
	text := fmt.Sprintf("%s%d for", aliasBegin, a.sockets)
	for _, p := range a.ports {
		text += fmt.Sprintf(" %d/%d", p.family, p.number)
	}
	return text
}

// aliasIn returns what the text of an alias says; the zero value if it is none of ours.
func aliasIn(text string) (a alias) {
	words, ours := strings.CutPrefix(text, aliasBegin)
	sockets, ports, complete := strings.Cut(words, " for ")
	if _, err := fmt.Sscan(sockets, &a.sockets); !ours || !complete || err != nil {
		return alias{}
	}
	for word := range strings.FieldsSeq(ports) {
		var p port
		if _, err := fmt.Sscanf(word, "%d/%d", &p.family, &p.number); err == nil {
			a.ports = append(a.ports, p)
		}
	}
	return a
}

// deleteTunnels deletes the devices, and has FOU give back the ports that they are for.
func deleteTunnels() (found bool, err error) {
	links, err := retry(netlink.LinkList)
	if err != nil {
		return false, fmt.Errorf("list interfaces: %w", err)
	}
	var errs []error
	for _, l := range links {
		if !isTunnel(l) {
			continue
		}
		found = true
		_, err := dropPorts(aliasIn(l.Attrs().Alias).ports) // first: FOU would go on without a device to deliver to
		errs = append(errs, err)
		if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("delete %s: %w", l.Attrs().Name, err))
		}
	}
	return found, errors.Join(errs...)
}

// tunnelDrops returns how many packets the kernel dropped at devices since the CPU's backlog was full.
func tunnelDrops() (sum uint64) {
	links, err := retry(netlink.LinkList)
	if err != nil {
		return 0
	}
	for _, l := range links {
		if isTunnel(l) && l.Attrs().Statistics != nil {
			sum += l.Attrs().Statistics.RxDropped
		}
	}
	return sum
}
