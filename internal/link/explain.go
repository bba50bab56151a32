package link

import (
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// This file explains to a person what the kernel does with one packet.

// A Way is what the kernel does with a packet.
type Way struct {
	Device  string     // empty if the kernel drops the packet
	Gateway netip.Addr // the next hop; the zero Addr if there is none
	Table   string     // that has the route: "main", "local", a number
	Rule    string     // that chose the table or refuses the packet, as `ip rule` prints it; may be empty
	Source  netip.Addr // that the kernel chooses for packets of this host
	MTU     int        // of the path, in bytes, as far as it is known
	Refusal error      // why the kernel drops the packet; nil if it does not
}

// Ask returns what the kernel does with a packet to an address, now: one of this host, or one
// that comes from a pod of own by the interface in. The error says that the kernel did not
// tell, such as EXDEV where rp_filter refuses an address of own on that interface.
func Ask(to netip.Addr, in Interface, own []netip.Prefix) (w Way, err error) {
	rules, _, err := readAllRules()
	if err != nil {
		return w, err
	}
	routes, err := allTables()
	if err != nil {
		return w, err
	}
	kernel, err := openAsker()
	if err != nil {
		return w, err
	}
	defer kernel.close()
	r := newResolver(rules, routes, kernel.ask)
	d := diverter{pods: Pods{Link: in, Own: own}, kernel: r}
	q := d.question(netip.PrefixFrom(to, to.BitLen()), nil)
	a := r.resolve(q)
	if a.err != nil && !refused(a.err) {
		return w, a.err
	}
	if by, known := r.ruleOf(q, a); known {
		w.Rule, w.Table = by.String(), tableName(by.table)
	}
	if a.err != nil {
		var errno unix.Errno
		errors.As(a.err, &errno)
		w.Refusal = errno // without our own question, which the caller knows
		return w, nil
	}
	w.Table = tableName(a.route.Table)
	return w, w.noteHop(kernel, q)
}

// noteHop adds the hop that the kernel takes.
func (w *Way) noteHop(kernel *asker, q question) error {
	hop, err := kernel.hop(q)
	if err != nil {
		return err
	}
	dev, err := netlink.LinkByIndex(hop.LinkIndex)
	if err != nil {
		return err
	}
	w.Device, w.MTU = dev.Attrs().Name, lower(hop.MTU, dev.Attrs().MTU)
	w.Gateway, _ = netip.AddrFromSlice(hop.Gw)
	w.Source, _ = netip.AddrFromSlice(hop.Src)
	return nil
}
