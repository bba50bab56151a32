package link

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Settings of the interface that other programs reach through /proc/sys. They
// go through netlink here, since a hardened unit cannot write /proc/sys.

// devconfAcceptLocal is IPV4_DEVCONF_ACCEPT_LOCAL of include/uapi/linux/ip.h.
const devconfAcceptLocal = 23

// setDevice lets our ICMP errors in: their source is the TUN's own address, and
// without accept_local the kernel drops such packets as martians
// (fib_validate_source in net/ipv4/fib_frontend.c). It also keeps the kernel
// from talking to itself over the TUN: no link-local IPv6 address, and so no
// router solicitations.
func setDevice(dev netlink.Link, s Settings) (changed []string, err error) {
	// The kernel tells everybody of a setting that is set again.
	if setting("ipv4", s.Interface, "accept_local") != "1" {
		if err := setAcceptLocal(dev.Attrs().Index); err != nil {
			return nil, fmt.Errorf("set accept_local: %w", err)
		}
		changed = append(changed, "accept_local was off")
	}
	what, err := setSilent(dev, s)
	return append(changed, what...), err
}

// setSilent keeps the kernel from having an address of its own on an interface.
func setSilent(dev netlink.Link, s Settings) (changed []string, err error) {
	const none = 1                                                                        // IN6_ADDR_GEN_MODE_NONE
	if mode := setting("ipv6", s.Interface, "addr_gen_mode"); mode != "" && mode != "1" { // none at all without IPv6 in the kernel
		if err := netlink.LinkSetIP6AddrGenMode(dev, none); err != nil {
			return nil, fmt.Errorf("set addr_gen_mode: %w", err)
		}
		changed = append(changed, "addr_gen_mode was "+mode)
	}
	return changed, nil
}

// setting reads /proc/sys/net/FAMILY/conf/NAME/KEY; empty if it is not there.
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

// confPath returns the path of a setting of one interface. The kernel takes names of which some are
// no folder of their own there: "all" and "default" would be the host's (sysctl_dev_name_is_allowed
// in net/ipv4/devinet.c).
func confPath(family, name, key string) (string, error) {
	switch {
	case name == "", name == ".", name == "..", name == "all", name == confDefault, strings.Contains(name, "/"):
		return "", fmt.Errorf("the interface %q has no settings of its own", name)
	}
	return filepath.Join("/proc/sys/net", family, "conf", name, key), nil
}

// setAcceptLocal lets packets with a source of this host in by an interface.
func setAcceptLocal(index int) error { return setDevconf4(index, devconfAcceptLocal, 1) }

// setDevconf4 sets one of the IPv4 settings of an interface. It sends RTM_SETLINK with
//
//	IFLA_AF_SPEC { AF_INET { IFLA_INET_CONF { key = value } } }
//
// which inet_set_link_af in net/ipv4/devinet.c takes.
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
