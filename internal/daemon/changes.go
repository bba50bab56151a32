package daemon

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"example.org/meshd/internal/masq"
	"example.org/meshd/internal/mesh"
)

// changes lists what turns one plan into another, for people: "+" what comes, "-"
// what goes, "~" what becomes something else. It is empty if nothing does.
func changes(old, next *plan) []string {
	d := &differences{}
	value(d, "this node", old.self.Name, next.self.Name)
	d.peers(old.mesh, next.mesh)
	value(d, "listening on", old.bind, next.bind)
	value(d, "interface", old.link.Interface, next.link.Interface)
	value(d, "mtu", old.link.MTU, next.link.MTU)
	set(d, "address", old.link.Addresses, next.link.Addresses)
	set(d, "route", old.link.Routes, next.link.Routes)
	d.rules(old, next)
	d.settings(old, next)
	return d.list
}

// ways lists the routes to peers that one plan was made with and another is not.
// They are the host's, so they stand in no file and in no plan of one.
func ways(old, next *plan) []string {
	d := &differences{}
	set(d, "underlay", old.ways, next.ways)
	return d.list
}

// first returns the first n of a list, and a line that counts the others.
func first(n int, list []string) []string {
	if len(list) <= n {
		return list
	}
	return append(slices.Clone(list[:n]), fmt.Sprintf("and %d more", len(list)-n))
}

type differences struct{ list []string }

func (d *differences) add(format string, args ...any) {
	d.list = append(d.list, fmt.Sprintf(format, args...))
}

func value[T comparable](d *differences, name string, old, next T) {
	if old != next {
		d.add("~ %s %v -> %v", name, old, next)
	}
}

// set compares two lists whose order says nothing.
func set[T comparable](d *differences, name string, old, next []T) {
	for _, v := range without(old, next) {
		d.add("- %s %v", name, v)
	}
	for _, v := range without(next, old) {
		d.add("+ %s %v", name, v)
	}
}

// without returns what of all is not among others, in its order.
func without[T comparable](all, others []T) (rest []T) {
	known := make(map[T]bool, len(others))
	for _, v := range others {
		known[v] = true
	}
	for _, v := range all {
		if !known[v] {
			rest = append(rest, v)
		}
	}
	return rest
}

// peers compares the nodes, this one included, by name.
func (d *differences) peers(old, next mesh.Mesh) {
	before, after := byName(old), byName(next)
	for _, p := range sorted(old, func(p *mesh.Peer) bool { return after[p.Name] == nil }) {
		d.add("- peer %s %s", p.Name, list(p.Subnets))
	}
	for _, p := range sorted(next, func(p *mesh.Peer) bool { return !same(before[p.Name], p) }) {
		was := before[p.Name]
		switch {
		case was == nil:
			d.add("+ peer %s %s", p.Name, list(slices.Concat(p.Subnets, p.Routes)))
		case p.Name == next.Self && p.Name == old.Self:
			field(d, p.Name, "subnets", list(was.Subnets), list(p.Subnets))
			field(d, p.Name, "routes", list(was.Routes), list(p.Routes))
		default:
			field(d, p.Name, "address", was.Underlay.String(), p.Underlay.String())
			field(d, p.Name, "subnets", list(was.Subnets), list(p.Subnets))
			field(d, p.Name, "routes", list(was.Routes), list(p.Routes))
		}
	}
}

func field(d *differences, peer, name, old, next string) {
	if old != next {
		d.add("~ peer %s %s %s -> %s", peer, name, old, next)
	}
}

func byName(m mesh.Mesh) map[string]*mesh.Peer {
	all := make(map[string]*mesh.Peer, len(m.Peers))
	for i := range m.Peers {
		all[m.Peers[i].Name] = &m.Peers[i]
	}
	return all
}

// sorted returns those peers of m that are of interest, by name.
func sorted(m mesh.Mesh, interesting func(*mesh.Peer) bool) (some []*mesh.Peer) {
	for i := range m.Peers {
		if p := &m.Peers[i]; interesting(p) {
			some = append(some, p)
		}
	}
	slices.SortFunc(some, func(a, b *mesh.Peer) int { return cmp.Compare(a.Name, b.Name) })
	return some
}

// same tells whether there is nothing to say of a peer, in a mesh of thousands.
func same(a, b *mesh.Peer) bool {
	return a != nil && a.Underlay == b.Underlay && slices.Equal(a.Subnets, b.Subnets) && slices.Equal(a.Routes, b.Routes)
}

// list writes prefixes for people.
func list(ps []netip.Prefix) string {
	if len(ps) == 0 {
		return "none"
	}
	return strings.Join(texts(ps), " ")
}

// rules compares what nftables is to do.
func (d *differences) rules(old, next *plan) {
	switch {
	case old.masq == nil && next.masq != nil:
		d.add("+ masquerade rules")
	case old.masq != nil && next.masq == nil:
		d.add("- masquerade rules")
	case old.masq != nil:
		d.masquerade(*old.masq, *next.masq)
	}
	switch {
	case old.forward == nil && next.forward != nil:
		d.add("+ accept rules for forwarded packets")
	case old.forward != nil && next.forward == nil:
		d.add("- accept rules for forwarded packets")
	case old.forward != nil:
		set(d, "accept rule for", old.forward.Networks, next.forward.Networks)
		set(d, "accept rule for pods", old.forward.Pods, next.forward.Pods)
		set(d, "accept rule for the network", old.forward.LANs, next.forward.LANs)
		value(d, "accept rules for packets from outside the mesh", old.forward.All, next.forward.All)
	}
}

func (d *differences) masquerade(old, next masq.Settings) {
	set(d, "masquerade set mesh", old.Mesh, next.Mesh)
	set(d, "masquerade set local", old.Local, next.Local)
	set(d, "masquerade set pods", old.Pods, next.Pods)
	set(d, "masquerade set exclude", old.Exclude, next.Exclude)
	value(d, "masquerade.fully_random", old.FullyRandom, next.FullyRandom)
}

// settings compares the keys that have no kernel state of their own.
func (d *differences) settings(old, next *plan) {
	a, b := old.config, next.config
	value(d, "network.name", a.Network.Name, b.Network.Name)
	value(d, "dataplane.engine", a.Dataplane.Engine, b.Dataplane.Engine)
	value(d, "dataplane.receive", a.Dataplane.Receive, b.Dataplane.Receive)
	value(d, "dataplane.offload", a.Dataplane.Offload, b.Dataplane.Offload)
	value(d, "queues", old.queues.count, next.queues.count)
	value(d, "dataplane.spread", a.Dataplane.Spread, b.Dataplane.Spread)
	value(d, "probe.interval", a.Probe.Interval, b.Probe.Interval)
	value(d, "metrics.listen", orNone(a.Metrics.Listen), orNone(b.Metrics.Listen))
	value(d, "container.subnet_env", orNone(a.Container.SubnetEnv), orNone(b.Container.SubnetEnv))
	value(d, "container.cni_conf", orNone(a.Container.CNIConf), orNone(b.Container.CNIConf))
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
