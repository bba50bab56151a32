package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Switches are the kernel's forwarding switches of one family.
//
// For IPv4 the switch of the interface by which a packet comes in decides, and writing
// net.ipv4.ip_forward turns all of them (IN_DEV_FORWARD in ip_route_input_slow of
// net/ipv4/route.c). For IPv6 the global switch alone decides (ip6_forward in
// net/ipv6/ip6_output.c); the switch of an interface decides whether the host behaves as a
// router towards its neighbours there.
type Switches struct {
	All     bool         // net.ipv4.ip_forward or net.ipv6.conf.all.forwarding
	Default bool         // the first value of new interfaces; turning All turns it, too
	Devices map[int]bool // by interface index; interfaces without the family are missing
}

// Numbers of include/uapi/linux/netconf.h and, for IPv4, of linux/ip.h.
const (
	netconfIfindex       = 1  // NETCONFA_IFINDEX
	netconfForwarding    = 2  // NETCONFA_FORWARDING
	netconfAll           = -1 // NETCONFA_IFINDEX_ALL
	netconfDefault       = -2 // NETCONFA_IFINDEX_DEFAULT
	devconfForwarding    = 1  // IPV4_DEVCONF_FORWARDING
	sizeOfNetconfMessage = 4  // struct netconfmsg, padded
)

// ForwardingSwitches reads the switches of a family by netlink (RTM_GETNETCONF). That needs no
// privilege, and no path with the name of an interface in it.
func ForwardingSwitches(v6 bool) (s Switches, err error) {
	request := nl.NewNetlinkRequest(unix.RTM_GETNETCONF, unix.NLM_F_DUMP)
	family := nl.NewRtGenMsg()
	family.Family = unix.AF_INET
	if v6 {
		family.Family = unix.AF_INET6
	}
	request.AddData(family)
	messages, err := retry(func() ([][]byte, error) {
		return request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNETCONF)
	})
	if err != nil {
		return s, fmt.Errorf("read forwarding switches: %w", err)
	}
	s.Devices = map[int]bool{}
	for _, m := range messages {
		if err := s.note(m); err != nil {
			return s, fmt.Errorf("read forwarding switches: %w", err)
		}
	}
	return s, nil
}

// errShort says that a message of the kernel lacks its header.
var errShort = errors.New("the kernel's message is too short")

// note reads one message of the kernel's answer: the switch of one interface, or of all.
func (s *Switches) note(message []byte) error {
	if len(message) < sizeOfNetconfMessage {
		return errShort
	}
	attributes, err := nl.ParseRouteAttr(message[sizeOfNetconfMessage:])
	if err != nil {
		return err
	}
	index, on := 0, false
	for _, a := range attributes {
		if len(a.Value) < 4 {
			continue
		}
		switch value := int32(binary.NativeEndian.Uint32(a.Value)); a.Attr.Type {
		case netconfIfindex:
			index = int(value)
		case netconfForwarding:
			on = value != 0
		}
	}
	switch index {
	case netconfAll:
		s.All = on
	case netconfDefault:
		s.Default = on
	default:
		s.Devices[index] = on
	}
	return nil
}

// SetForwarding4 turns the IPv4 switch of one interface, and no other. It needs CAP_NET_ADMIN,
// but not a writable /proc/sys. The error is ENODEV if the interface does not exist. Turning
// a switch off needs the index only.
func SetForwarding4(one Interface, on bool) error {
	value := uint32(0)
	if on {
		if err := disableLRO(one.Name); err != nil {
			return err
		}
		value = 1
	}
	if err := setDevconf4(one.Index, devconfForwarding, value); err != nil {
		return fmt.Errorf("set forwarding of IPv4 on interface %d to %d: %w", one.Index, value, err)
	}
	return nil
}

// disableLRO turns off large receive offload. ip_forward drops packets that a network card has
// merged this way (skb_warn_if_lro). The kernel turns LRO off by itself if the switch is
// turned in /proc/sys (dev_disable_lro in devinet_sysctl_forward of net/ipv4/devinet.c), but
// not if it is turned by netlink.
func disableLRO(name string) error {
	const lro = "rx-lro"
	tool, err := ethtool.NewEthtool()
	if err != nil {
		return fmt.Errorf("read features of %q: %w", name, err)
	}
	defer tool.Close()
	features, err := tool.Features(name)
	if err != nil || !features[lro] { // a device without features does not merge
		return nil
	}
	if err := tool.Change(name, map[string]bool{lro: false}); err != nil {
		return fmt.Errorf("turn %s of %q off: %w", lro, name, err)
	}
	return nil
}

// WatchForwarding calls changed a moment after any program has changed forwarding switches in
// /proc/sys. Lost messages count as a change. It blocks until ctx ends, and then returns nil;
// it returns an error if the kernel's messages cannot be read. For a switch that is turned by
// netlink, the kernel reports a change of the interface instead, see Watch.
func WatchForwarding(ctx context.Context, changed func()) error {
	err := listen(ctx, changed, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF)
	if err != nil {
		return fmt.Errorf("watch forwarding: %w", err)
	}
	return nil
}

// SysctlName returns the name of an interface's setting as sysctl(8) accepts it. Between the
// parts it has slashes instead of dots if the name of the interface contains a dot.
func SysctlName(family, device, key string) string {
	separator := "."
	if strings.Contains(device, ".") {
		separator = "/"
	}
	return strings.Join([]string{"net", family, "conf", device, key}, separator)
}
