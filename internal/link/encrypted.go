package link

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/genl"
)

// This file makes and removes the encrypted interface. The kernel makes it where it has WireGuard. Where it
// has not, the user-space helper makes a TUN of the same name, and has it open as long as it runs.

// A Kind is what an interface of meshd's can be.
type Kind uint8

// Kinds.
const (
	TUN       Kind = iota
	Encrypted      // the kernel's WireGuard, or a TUN of the user-space helper
)

// is tells whether an interface can be one of a kind. Each TUN of meshd's has several queues, which is fixed
// when it is made; those of `ip tuntap` have one. A name alone proves nothing: another program may have
// exchanged the TUN a moment ago.
func (k Kind) is(dev netlink.Link) bool {
	tun, ok := dev.(*netlink.Tuntap)
	return ok && tun.Flags&netlink.TUNTAP_MULTI_QUEUE != 0 || k == Encrypted && isKernels(dev)
}

// isKernels tells whether the kernel's WireGuard is behind an interface.
func isKernels(dev netlink.Link) bool { return dev.Type() == "wireguard" }

// ErrNoWireGuard tells that the kernel has no WireGuard; test with errors.Is.
var ErrNoWireGuard = errors.New("the kernel has no WireGuard")

// ownByName returns the interface called name; the error is ErrNotTUN if it cannot be of a kind.
func ownByName(name string, kind Kind) (netlink.Link, error) {
	dev, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find %q: %w", name, err)
	}
	if !kind.is(dev) {
		return nil, fmt.Errorf("%q is a %s interface, %w of meshd's", name, dev.Type(), ErrNotTUN)
	}
	return dev, nil
}

// MakeEncrypted makes the kernel's interface of WireGuard called name, and marks it as meshd's. The kernel
// loads its module for that, which needs CAP_NET_ADMIN alone (rtnl_newlink asks for "rtnl-link-wireguard").
// made is false for one that is there and is meshd's, of either kind: it stays as it is. The error is
// ErrForeign if another program made it, and ErrNoWireGuard if the kernel has no WireGuard.
func MakeEncrypted(name string) (made bool, err error) {
	if dev, err := netlink.LinkByName(name); err == nil {
		return false, usableAsEncrypted(dev)
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name = name
	switch err := netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: attributes}); {
	// "Unknown device type" is EOPNOTSUPP. A module that does not load, for want of its algorithms or
	// because it is denied, leads there as well.
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENODEV), errors.Is(err, unix.EAFNOSUPPORT):
		return false, fmt.Errorf("make interface %q: %w: %w", name, ErrNoWireGuard, err)
	case errors.Is(err, unix.EEXIST): // the helper, or another program, was faster
		dev, err := netlink.LinkByName(name)
		if err != nil {
			return false, fmt.Errorf("make interface %q: %w", name, err)
		}
		return false, usableAsEncrypted(dev)
	case err != nil:
		return false, fmt.Errorf("make interface %q: %w", name, err)
	}
	if err := Claim(name); err != nil { // without a mark, the next start would take it for another program's
		return false, errors.Join(err, netlink.LinkDel(&netlink.Wireguard{LinkAttrs: attributes}))
	}
	return true, nil
}

// usableAsEncrypted returns ErrForeign for an interface that another program made.
func usableAsEncrypted(dev netlink.Link) error {
	if marked(dev) {
		return nil
	}
	return fmt.Errorf("%s interface %q exists, and %w: remove it with `ip link del %[2]s`, or rename it with "+
		"`ip link set %[2]s down name OTHER`", dev.Type(), dev.Attrs().Name, ErrForeign)
}

// RemoveEncrypted removes the encrypted interface called name, for a mesh that is not encrypted any more.
// The kernel's is deleted, and so is a TUN that no helper has open. One that a helper uses is the helper's:
// it loses its addresses and meshd's routes and is set down, so that no packet leaves by it. One of another
// program, or none, is no error, and removed is false then; so it is if a helper's TUN was quiet already.
func RemoveEncrypted(name string) (removed bool, err error) {
	dev, err := netlink.LinkByName(name)
	if err != nil || !marked(dev) {
		return false, nil
	}
	if !inUse(dev) {
		return true, deleteLink(dev)
	}
	routes, err := mainTable()
	if err != nil {
		return false, err
	}
	changed, err := setRoutes(routes, dev.Attrs().Index, nil, nil)
	if err == nil {
		var gone []string
		gone, err = setAddresses(dev, Settings{})
		changed = append(changed, gone...)
	}
	if err == nil && dev.Attrs().RawFlags&unix.IFF_UP != 0 {
		changed, err = append(changed, "was up"), netlink.LinkSetDown(dev)
	}
	if err != nil {
		return len(changed) > 0, fmt.Errorf("quiet interface %q: %w", name, err)
	}
	return len(changed) > 0, nil
}

// removePeers removes all peers of a kernel's interface. When the kernel does that for an interface that is
// deleted (wg_destruct in drivers/net/wireguard/device.c), it waits for all CPUs, once for each peer and
// without rtnl: 25 s for a thousand peers. Asked to replace the peers by none it holds rtnl, with which
// synchronize_net does not wait for the next tick: all peers are gone in a fraction of a second.
func removePeers(dev netlink.Link) error {
	family, err := genl.Family(unix.WG_GENL_NAME)
	if err != nil {
		return err
	}
	_, err = genl.Ask(family, unix.NLM_F_ACK, unix.WG_CMD_SET_DEVICE, unix.WG_GENL_VERSION,
		nl.NewRtAttr(unix.WGDEVICE_A_IFINDEX, nl.Uint32Attr(uint32(dev.Attrs().Index))),
		nl.NewRtAttr(unix.WGDEVICE_A_FLAGS, nl.Uint32Attr(unix.WGDEVICE_F_REPLACE_PEERS)))
	return err
}

// A Face is what the kernel shows of the encrypted interface besides its peers.
type Face struct {
	Index int // negative: there is none
	Up    bool
	// Foreign counts packets that WireGuard has decrypted and dropped since the interface was made, because
	// their inner source is not one of the sending peer's, or they are no IP packets (rx_frame_errors, see
	// wg_packet_consume_data_done in drivers/net/wireguard/receive.c). Malformed counts those shorter than
	// their own headers say (rx_length_errors). Both stay 0 in user space, which counts neither.
	Foreign, Malformed uint64
}

// FaceOf returns what the kernel shows of the encrypted interface called name. It costs one message.
func FaceOf(name string) Face {
	dev, err := netlink.LinkByName(name)
	if err != nil {
		return Face{Index: -1}
	}
	f := Face{Index: dev.Attrs().Index, Up: dev.Attrs().RawFlags&unix.IFF_UP != 0}
	if s := dev.Attrs().Statistics; s != nil && isKernels(dev) {
		f.Foreign, f.Malformed = s.RxFrameErrors, s.RxLengthErrors
	}
	return f
}
