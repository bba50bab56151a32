package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Switches are the kernel's forwarding switches of one family.
//
// IPv4 asks the switch of the interface by which a packet comes in, and net.ipv4.ip_forward is only
// a way to turn all of them (IN_DEV_FORWARD in ip_route_input_slow of net/ipv4/route.c). IPv6 asks
// the global switch alone (ip6_forward in net/ipv6/ip6_output.c); that of an interface decides
// whether it behaves as a router's towards its neighbours.
type Switches struct {
	All     bool         // net.ipv4.ip_forward or net.ipv6.conf.all.forwarding
	Default bool         // what later interfaces begin with; turning All turns it, too
	Devices map[int]bool // by index; an interface without the family has none
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

// ForwardingSwitches reads the switches of a family by netlink (RTM_GETNETCONF), which needs no
// privilege and no path made of an interface's name.
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
		return s, fmt.Errorf("read which interfaces forward: %w", err)
	}
	s.Devices = map[int]bool{}
	for _, m := range messages {
		if err := s.note(m); err != nil {
			return s, fmt.Errorf("read which interfaces forward: %w", err)
		}
	}
	return s, nil
}

// note takes one message of the kernel's answer.
func (s *Switches) note(message []byte) error {
	if len(message) < sizeOfNetconfMessage {
		return errors.New("the kernel's answer is too short")
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

// SetForwarding4 turns the IPv4 switch of one interface, and nothing else of the host. It needs
// CAP_NET_ADMIN, but no /proc/sys that can be written. An interface that is gone is ENODEV. To turn
// a switch off it is enough to know the index.
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

// disableLRO does what the kernel does for a switch that is turned in /proc/sys, and not for one
// that is turned by netlink (dev_disable_lro in devinet_sysctl_forward of net/ipv4/devinet.c):
// ip_forward drops packets that a network card has merged.
func disableLRO(name string) error {
	const lro = "rx-lro"
	tool, err := ethtool.NewEthtool()
	if err != nil {
		return fmt.Errorf("read features of %q: %w", name, err)
	}
	defer tool.Close()
	features, err := tool.Features(name)
	if err != nil || !features[lro] { // a device that knows no features merges nothing
		return nil
	}
	if err := tool.Change(name, map[string]bool{lro: false}); err != nil {
		return fmt.Errorf("turn %s of %q off: %w", lro, name, err)
	}
	return nil
}

// WatchForwarding calls changed a moment after changes of forwarding switches in /proc/sys, by
// whatever program, until ctx ends (nil) or the kernel's messages cannot be read. Messages that are
// lost count as a change. A switch that is turned by netlink is news of its interface, see Watch.
func WatchForwarding(ctx context.Context, changed func()) error {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF)
	if err != nil {
		return fmt.Errorf("watch forwarding: %w", err)
	}
	defer context.AfterFunc(ctx, socket.Close)() // wakes Receive
	defer socket.Close()
	hear := func(within time.Duration) (err error) {
		timeout := unix.NsecToTimeval(within.Nanoseconds())
		if err = socket.SetReceiveTimeout(&timeout); err == nil {
			_, _, err = socket.Receive()
		}
		if ctx.Err() != nil || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS) {
			return nil
		}
		return err
	}
	for {
		const forever = 0
		err := hear(forever)
		for until := time.Now().Add(settle); err == nil && ctx.Err() == nil && time.Now().Before(until); {
			err = hear(max(time.Until(until), time.Millisecond)) // the global switch has news of each interface
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("watch forwarding: %w", err)
		}
		changed()
	}
}

// SysctlName names a setting of an interface as sysctl(8) takes it: with slashes, where the name
// of the interface has dots.
func SysctlName(family, device, key string) string {
	separator := "."
	if strings.Contains(device, ".") {
		separator = "/"
	}
	return strings.Join([]string{"net", family, "conf", device, key}, separator)
}
