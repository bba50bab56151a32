// Package forwarding tells whether this host forwards packets of pods, and turns that on where
// --sysctl asks for it.
//
//	IPv4   the switches of the mesh's interfaces, each once in a run: ip_forward stays as it was
//	IPv6   the global switch, once in a run: the kernel asks no other
//	closed what must stay apart, though forwarding is on: a rule drops packets that are forwarded
//	       from one of these interfaces to another. They are all interfaces but the TUN and those
//	       of pods, as long as no other program has turned forwarding on for them
//	note   what is on only because of meshd, kept in the state folder, so that `meshd cleanup`
//	       puts it back
//
// A switch that somebody turns off later stays off until the next start, and is a condition.
package forwarding

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/link"
	"example.org/meshd/internal/mesh"
)

// Node is what of the mesh and of this node matters here.
type Node struct {
	TUN      string         // its name
	Beside   []string       // further interfaces of meshd's own, which need not exist
	Networks []netip.Prefix // all of the mesh
	Subnets  []netip.Prefix // of this node
	Routes   []netip.Prefix // networks behind this node
	Underlay []int          // indices of interfaces that lead to the peers
}

// carries tells whether the mesh has a network of a family.
func (n Node) carries(v6 bool) bool {
	return slices.ContainsFunc(n.Networks, func(p netip.Prefix) bool { return p.Addr().Is6() == v6 })
}

// families returns those that the mesh carries (true: IPv6), IPv4 first.
func (n Node) families() (carried []bool) {
	for _, v6 := range []bool{false, true} {
		if n.carries(v6) {
			carried = append(carried, v6)
		}
	}
	return carried
}

// Host is how this host forwards, with a node in mind.
type Host struct {
	Node     Node
	Crossing link.Crossing
	switches map[bool]link.Switches // true: IPv6
	found    found
	asked    bool // --sysctl
}

// Look returns how this host forwards. folder is that of the note; asked is --sysctl.
func Look(n Node, folder string, asked bool) (h Host, err error) {
	h = Host{Node: n, asked: asked}
	if h.Crossing, err = link.FindCrossing(n.TUN, n.Networks, n.Subnets, n.Routes, n.Underlay); err != nil {
		return h, err
	}
	if h.switches, err = bothSwitches(); err != nil {
		return h, err
	}
	note, _ := readFound(folder) // an unreadable note is told where it is written
	h.found = note.still(h.switches)
	return h, nil
}

// bothSwitches returns the switches of both families, by family (true: IPv6), as they are now.
func bothSwitches() (map[bool]link.Switches, error) {
	v4, err4 := link.ForwardingSwitches(false)
	v6, err6 := link.ForwardingSwitches(true)
	return map[bool]link.Switches{false: v4, true: v6}, errors.Join(err4, err6)
}

// Closed returns, by family (true: IPv6), the names of the interfaces between which packets are not
// forwarded: where the family is forwarded because of meshd, or is about to be.
func (h Host) Closed() map[bool][]string {
	closed := map[bool][]string{}
	for _, v6 := range []bool{false, true} {
		if names := h.closed(v6); len(names) > 0 {
			closed[v6] = names
		}
	}
	return closed
}

// closed returns those of one family, sorted. Where somebody else forwards the family for the whole
// host, nothing is closed: that host is a router by its owner's will.
func (h Host) closed(v6 bool) (names []string) {
	// meshd opens IPv4 by interface, so its global switch is somebody else's. IPv6 has one switch that
	// counts: it is theirs if the note does not have it, or if `default` is on, which `sysctl` turns
	// along with `all` and meshd does not.
	s := h.switches[v6]
	ours, theirs := len(h.found.IPv4) > 0, s.All
	if v6 {
		ours, theirs = h.found.IPv6, s.Default || s.All && !h.found.IPv6
	}
	if theirs || !ours && !(h.asked && h.Node.carries(v6)) {
		return nil
	}
	for _, one := range slices.Concat(h.Crossing.Sides, h.Crossing.Rest) {
		if !s.Devices[one.Index] || !v6 && slices.Contains(h.found.IPv4, one.Index) {
			names = append(names, one.Name)
		}
	}
	slices.Sort(names)
	return names
}

// Conditions returns what this host does not forward of the families that the mesh carries. It
// looks at the host anew, so that a condition is gone when somebody has mended it.
//
// ForwardingOff is Failed: pods cannot reach other hosts. OutsideOff is Degraded: packets of the mesh
// pass, since datagrams of peers are for the host itself and not forwarded, but answers to pods from
// outside the mesh are dropped, and packets of networks behind this node.
func (h Host) Conditions() (all []mesh.Condition) {
	switches, err := bothSwitches()
	if err != nil {
		return []mesh.Condition{{Kind: mesh.ForwardingOff, Severity: mesh.Degraded, Cause: err.Error()}}
	}
	otherwise := ", or meshd with --sysctl"
	if h.asked {
		otherwise = ", or `systemctl restart meshd`: meshd turns forwarding on once, when it starts"
	}
	for _, v6 := range h.Node.families() {
		found := h.off4(switches[false])
		if v6 {
			found = off6(switches[true])
		}
		for _, c := range found {
			c.Remedy += otherwise
			all = append(all, c)
		}
	}
	return all
}

// off6 tells whether IPv6 is not forwarded: the switch of the whole host decides.
func off6(s link.Switches) []mesh.Condition {
	if s.All {
		return nil
	}
	return []mesh.Condition{{Kind: mesh.ForwardingOff, Severity: mesh.Failed, Subject: "IPv6",
		Cause: "net.ipv6.conf.all.forwarding is 0",
		Remedy: "run `sysctl -w net.ipv6.conf.all.forwarding=1` (first net.ipv6.conf.IFACE.accept_ra=2 " +
			"where an interface gets its routes from router advertisements)"}}
}

// off4 tells by which interfaces of the mesh packets of IPv4 come in and are not forwarded: the switch
// of that interface decides.
func (h Host) off4(s link.Switches) (all []mesh.Condition) {
	inner, sides := h.inner(), h.Crossing.Sides
	noInner, noSides := closedOnes(inner, s), closedOnes(sides, s)
	if n := len(noInner) + len(noSides); n > 0 && n == len(inner)+len(sides) && !s.All {
		return []mesh.Condition{{Kind: mesh.ForwardingOff, Severity: mesh.Failed, Subject: "IPv4",
			Cause: "net.ipv4.ip_forward is 0", Remedy: "run `sysctl -w net.ipv4.ip_forward=1`"}}
	}
	if len(noInner) > 0 {
		all = append(all, offOn(noInner, mesh.ForwardingOff, mesh.Failed))
	}
	if len(noSides) > 0 {
		all = append(all, offOn(noSides, mesh.OutsideOff, mesh.Degraded))
	}
	return all
}

// closedOnes returns the names of the interfaces that do not forward.
func closedOnes(some []link.Interface, s link.Switches) (names []string) {
	for _, one := range some {
		if on, known := s.Devices[one.Index]; known && !on {
			names = append(names, one.Name)
		}
	}
	return names
}

// offOn is the condition about interfaces whose own switch is off.
func offOn(names []string, kind mesh.Kind, severity mesh.Severity) mesh.Condition {
	var settings []string
	for _, name := range names {
		settings = append(settings, link.SysctlName("ipv4", name, "forwarding")+"=1")
	}
	return mesh.Condition{Kind: kind, Severity: severity, Subject: strings.Join(names, ", "),
		Cause:  "net.ipv4.conf.*.forwarding is 0 there",
		Remedy: "run `sysctl -w " + strings.Join(settings, " ") + "`"}
}

// inner returns the interfaces by which packets between pods and the mesh come in: those of pods, and
// those of meshd that are there.
func (h Host) inner() []link.Interface {
	all := slices.Clone(h.Crossing.Pods)
	for _, name := range append([]string{h.Node.TUN}, h.Node.Beside...) {
		if index := link.Index(name); index > 0 {
			all = append(all, link.Interface{Index: index, Name: name})
		}
	}
	return all
}

// interfaces returns all interfaces by which packets of the mesh cross this host.
func (h Host) interfaces() []link.Interface { return append(h.inner(), h.Crossing.Sides...) }

// Restore turns off what a meshd that keeps its state in a folder has turned on, and
// nobody else wants by now. It returns in words what it did. It needs to run as root.
func Restore(folder string) (did []string, err error) {
	have, err := readFound(folder)
	if err != nil {
		return nil, err
	}
	switches, err := bothSwitches()
	if err != nil {
		return nil, err
	}
	have = have.still(switches)
	var errs []error
	for _, index := range have.IPv4 {
		switch err := link.SetForwarding4(link.Interface{Index: index}, false); {
		case err == nil:
			did = append(did, "turned forwarding of IPv4 off on "+nameOf(index)+", as it was before")
		case !errors.Is(err, unix.ENODEV):
			errs = append(errs, err)
		}
	}
	if have.IPv6 {
		changed, err := link.CloseForwarding6()
		errs = append(errs, err)
		if changed && err == nil {
			did = append(did, "turned forwarding of IPv6 off, as it was before")
		}
	}
	if err := errors.Join(errs...); err != nil {
		return did, err
	}
	// The note goes last, and only if all was turned off: a second `meshd cleanup` can mend the rest.
	err = found{}.save(folder)
	_ = os.Remove(folder) // if nothing else is in it
	return did, err
}

// nameOf returns an interface's name for people.
func nameOf(index int) string {
	if one, err := net.InterfaceByIndex(index); err == nil {
		return one.Name
	}
	return fmt.Sprintf("interface %d", index)
}
