package link

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// This file changes settings of interfaces that other programs reach through /proc/sys. It
// uses netlink, because the hardened unit (ProtectKernelTunables=) cannot write /proc/sys.

// Numbers of include/uapi/linux/ip.h.
const (
	devconfRPFilter    = 8  // IPV4_DEVCONF_RP_FILTER
	devconfAcceptLocal = 23 // IPV4_DEVCONF_ACCEPT_LOCAL
)

// setDevice lets meshd's ICMP errors in and keeps the kernel's own packets out. The errors
// come by the TUN, with its own address as their source; without accept_local the kernel drops
// such packets as martians (fib_validate_source in net/ipv4/fib_frontend.c). By the encrypted
// interface no packet of this host's comes in.
func setDevice(dev netlink.Link, s Settings) (changed []string, err error) {
	// The kernel notifies all netlink listeners when a setting is set, even to the same value.
	if s.Kind == TUN && setting("ipv4", s.Interface, "accept_local") != "1" {
		if err := setAcceptLocal(dev.Attrs().Index); err != nil {
			return nil, fmt.Errorf("set accept_local: %w", err)
		}
		changed = append(changed, "accept_local was off")
	}
	for _, set := range []func(netlink.Link, Settings) ([]string, error){setLoose, setSilent} {
		what, err := set(dev, s)
		if changed = append(changed, what...); err != nil {
			return changed, err
		}
	}
	return changed, nil
}

// wasStrict has the rp_filter that interfaces had before setLoose, by their index. It is for the way back of
// a mesh that goes over to encryption: what an earlier process found is not known, and stays loose.
var wasStrict sync.Map

// setLoose accepts packets whose answers leave by another interface, or ends that. The larger value of this
// interface and of all counts, so 2 wins whatever the host has for all (IN_DEV_RPFILTER in
// include/linux/inetdevice.h).
func setLoose(dev netlink.Link, s Settings) (changed []string, err error) {
	const loose = 2
	index, was := dev.Attrs().Index, setting("ipv4", s.Interface, "rp_filter")
	before, known := wasStrict.Load(index)
	value := uint32(loose)
	switch isLoose := was == strconv.Itoa(loose); {
	case s.Loose && !isLoose:
		if n, err := strconv.ParseUint(was, 10, 32); err == nil {
			wasStrict.Store(index, uint32(n))
		}
	case !s.Loose && known && isLoose:
		value = before.(uint32)
		wasStrict.Delete(index)
	default:
		return nil, nil
	}
	if err := setDevconf4(index, devconfRPFilter, value); err != nil {
		return nil, fmt.Errorf("set rp_filter: %w", err)
	}
	return []string{"rp_filter was " + was}, nil
}

// setSilent keeps the kernel from making a link-local IPv6 address on an interface: with one
// it would send router solicitations into the mesh.
func setSilent(dev netlink.Link, s Settings) (changed []string, err error) {
	const none = 1 // IN6_ADDR_GEN_MODE_NONE
	mode := setting("ipv6", s.Interface, "addr_gen_mode")
	if mode != "" && mode != "1" { // empty: the kernel has no IPv6
		if err := netlink.LinkSetIP6AddrGenMode(dev, none); err != nil {
			return nil, fmt.Errorf("set addr_gen_mode: %w", err)
		}
		changed = append(changed, "addr_gen_mode was "+mode)
	}
	return changed, nil
}

// setting reads /proc/sys/net/FAMILY/conf/NAME/KEY; empty if it does not exist.
func setting(family, name, key string) string {
	path, err := confPath(family, name, key)
	if err != nil {
		return ""
	}
	value, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(value))
}

// confPath returns the path of a setting of one interface. Interfaces can have names that
// are not folders of their own there: the settings of "all" and "default" are the host's
// (sysctl_dev_name_is_allowed in net/ipv4/devinet.c).
func confPath(family, name, key string) (string, error) {
	switch {
	case name == "", name == ".", name == "..", name == "all", name == confDefault, strings.Contains(name, "/"):
		return "", fmt.Errorf("the interface %q has no settings of its own", name)
	}
	return filepath.Join("/proc/sys/net", family, "conf", name, key), nil
}

// setAcceptLocal accepts packets on an interface whose source is an address of this host.
func setAcceptLocal(index int) error { return setDevconf4(index, devconfAcceptLocal, 1) }

// setDevconf4 sets one IPv4 setting of an interface. It sends RTM_SETLINK with
//
//	IFLA_AF_SPEC { AF_INET { IFLA_INET_CONF { key = value } } }
//
// which inet_set_link_af in net/ipv4/devinet.c handles. The library has no call for it.
func setDevconf4(index, key int, value uint32) error {
	request := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	message := nl.NewIfInfomsg(unix.AF_UNSPEC)
	message.Index = int32(index)
	request.AddData(message)
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	conf := spec.AddRtAttr(unix.AF_INET, nil).AddRtAttr(unix.IFLA_INET_CONF, nil)
	conf.AddRtAttr(key, nl.Uint32Attr(value))
	request.AddData(spec)
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
