package link

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// This file has packets that meshd writes into the TUN come in by the encrypted interface, as packets of
// peers do while they travel encrypted. WireGuard alone can have a packet come in there. A filter at the
// ingress of the TUN can pass one on (tcf_mirred_act in net/sched/act_mirred.c), with CAP_NET_ADMIN alone.

// redirectPriority is the priority of the filter for IPv4; that for IPv6 has the next one. Other programs are
// unlikely to use them.
const redirectPriority = 0x6d70

// ICMP's protocols, and its echo requests: type and code.
const (
	protocolICMP, protocolICMPv6 = 1, 58
	echoRequest, echoRequestV6   = 8 << 8, 128 << 8
)

// A redirection is which packets a filter passes on, and whereto.
type redirection struct {
	index int // of the interface
	id    uint16
}

// Redirect has echo requests with an ID that come in by one interface come in by another one. If they do
// already, it only looks. The error is unix.EOPNOTSUPP or fs.ErrNotExist where the kernel has no such
// filters.
func Redirect(from, to string, id uint16) error {
	dev, err := netlink.LinkByName(from)
	if err != nil {
		return fmt.Errorf("find %q: %w", from, err)
	}
	wanted := redirection{Index(to), id}
	if wanted.index < 0 {
		return fmt.Errorf("find %q: %w", to, unix.ENODEV)
	}
	there, err := redirections(dev)
	if err == nil && len(there) == 2 && there[0] == wanted && there[1] == wanted {
		return nil
	}
	qdisc := &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: dev.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("add clsact to %q: %w", from, err)
	}
	if err := EndRedirect(from); err != nil {
		return err
	}
	for _, v6 := range []bool{false, true} {
		if err := netlink.FilterAdd(redirecter(dev, v6, wanted)); err != nil {
			return errors.Join(fmt.Errorf("add a filter to %q: %w", from, err), EndRedirect(from))
		}
	}
	return nil
}

// EndRedirect has such packets come in by the first interface again. It is no error if they do already, or if
// there is no such interface.
func EndRedirect(from string) error {
	dev, err := netlink.LinkByName(from)
	if err != nil {
		return nil
	}
	there, err := redirections(dev)
	if err != nil || len(there) == 0 {
		return err
	}
	for _, v6 := range []bool{false, true} {
		f := redirecter(dev, v6, redirection{})
		// Without a handle, all filters of the priority go (tc_del_tfilter in net/sched/cls_api.c).
		if err := netlink.FilterDel(&netlink.U32{FilterAttrs: f.FilterAttrs}); err != nil && !noFilter(err) {
			return fmt.Errorf("delete a filter of %q: %w", from, err)
		}
	}
	return nil
}

// noFilter tells whether an error means that there is no filter, or no clsact (EINVAL).
func noFilter(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EINVAL) }

// redirecter returns the filter of a family.
func redirecter(dev netlink.Link, v6 bool, d redirection) *netlink.U32 {
	f := &netlink.U32{FilterAttrs: netlink.FilterAttrs{LinkIndex: dev.Attrs().Index,
		Parent: netlink.HANDLE_MIN_INGRESS, Priority: redirectPriority, Protocol: unix.ETH_P_IP}}
	// Words of 32 bits from the beginning of the IP header: protocol; type and code; ID. Packets of meshd have
	// no options.
	keys := []netlink.TcU32Key{{Off: 8, Mask: 0x00ff0000, Val: protocolICMP << 16},
		{Off: 20, Mask: 0xffff0000, Val: echoRequest << 16}, {Off: 24, Mask: 0xffff0000, Val: uint32(d.id) << 16}}
	if v6 {
		f.Priority, f.Protocol = redirectPriority+1, unix.ETH_P_IPV6
		keys = []netlink.TcU32Key{{Off: 4, Mask: 0x0000ff00, Val: protocolICMPv6 << 8},
			{Off: 40, Mask: 0xffff0000, Val: echoRequestV6 << 16},
			{Off: 44, Mask: 0xffff0000, Val: uint32(d.id) << 16}}
	}
	f.Sel = &netlink.TcU32Sel{Flags: nl.TC_U32_TERMINAL, Nkeys: uint8(len(keys)), Keys: keys}
	stolen := netlink.ActionAttrs{Action: netlink.TC_ACT_STOLEN}
	f.Actions = []netlink.Action{&netlink.MirredAction{ActionAttrs: stolen,
		MirredAction: netlink.TCA_INGRESS_REDIR, Ifindex: d.index}}
	return f
}

// redirections returns what the filters of an interface pass on.
func redirections(dev netlink.Link) (all []redirection, err error) {
	list := func() ([]netlink.Filter, error) { return netlink.FilterList(dev, netlink.HANDLE_MIN_INGRESS) }
	filters, err := retry(list)
	if err != nil && !noFilter(err) && !errors.Is(err, unix.EOPNOTSUPP) {
		return nil, fmt.Errorf("list the filters of %q: %w", dev.Attrs().Name, err)
	}
	for _, f := range filters {
		u, ok := f.(*netlink.U32)
		if !ok || u.Priority != redirectPriority && u.Priority != redirectPriority+1 || u.Sel == nil {
			continue // of another program, or the table that the kernel made for ours
		}
		d := redirection{index: -1}
		if n := len(u.Sel.Keys); n > 0 {
			d.id = uint16(u.Sel.Keys[n-1].Val >> 16)
		}
		for _, a := range u.Actions {
			if m, ok := a.(*netlink.MirredAction); ok {
				d.index = m.Ifindex
			}
		}
		all = append(all, d)
	}
	return all, nil
}
