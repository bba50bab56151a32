package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"example.org/meshd/internal/masq"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/rules"
)

// Changes lists what turns one plan into another: what goes before what comes. It is empty if
// nothing does.
func Changes(old, next *Plan) []mesh.Change {
	d := &differences{}
	value(d, mesh.ChangedIdentity, "", old.Self.Name, next.Self.Name)
	d.peers(old.Engine.Mesh, next.Engine.Mesh)
	value(d, mesh.ChangedPort, "", list(old.Engine.Binds), list(next.Engine.Binds))
	value(d, mesh.ChangedInterface, "", old.Link.Interface, next.Link.Interface)
	value(d, mesh.ChangedMTU, "", old.Link.MTU, next.Link.MTU)
	set(d, mesh.ChangedAddress, "", old.Link.Addresses, next.Link.Addresses)
	set(d, mesh.ChangedRoute, "", old.Link.Routes, next.Link.Routes)
	d.rules(old.Rules, next.Rules)
	d.settings(old, next)
	return d.list
}

// Ways lists the routes to peers that one plan was made with and another is not. They are the
// host's, so they stand in no file.
func Ways(old, next *Plan) []mesh.Change {
	d := &differences{}
	set(d, mesh.ChangedUnderlay, "", old.ways, next.ways)
	return d.list
}

type differences struct{ list []mesh.Change }

// value compares two values of one thing. A value whose text is empty is called none.
func value[T comparable](d *differences, kind mesh.ChangeKind, subject string, old, next T) {
	if old == next {
		return
	}
	d.list = append(d.list, mesh.Change{Op: mesh.Replaced, Kind: kind, Subject: subject,
		Old: cmp.Or(fmt.Sprint(old), "none"), New: cmp.Or(fmt.Sprint(next), "none")})
}

// set compares two lists whose order says nothing.
func set[T comparable](d *differences, kind mesh.ChangeKind, field string, old, next []T) {
	for _, v := range without(old, next) {
		d.list = append(d.list, mesh.Change{Op: mesh.Removed, Kind: kind, Field: field, Old: fmt.Sprint(v)})
	}
	for _, v := range without(next, old) {
		d.list = append(d.list, mesh.Change{Op: mesh.Added, Kind: kind, Field: field, New: fmt.Sprint(v)})
	}
}

// without returns those of all that are not among others, in its order.
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
		d.list = append(d.list, mesh.Change{
			Op: mesh.Removed, Kind: mesh.ChangedPeer, Subject: p.Name, Old: list(p.Subnets)})
	}
	for _, p := range sorted(next, func(p *mesh.Peer) bool { return !same(before[p.Name], p) }) {
		was := before[p.Name]
		if was == nil {
			d.list = append(d.list, mesh.Change{Op: mesh.Added, Kind: mesh.ChangedPeer, Subject: p.Name,
				New: list(slices.Concat(p.Subnets, p.Routes))})
			continue
		}
		if p.Name != next.Self || p.Name != old.Self { // our own address shows as the port's
			d.field(p.Name, "address", was.Underlay().String(), p.Underlay().String())
		}
		d.field(p.Name, "subnets", list(was.Subnets), list(p.Subnets))
		d.field(p.Name, "routes", list(was.Routes), list(p.Routes))
	}
}

func (d *differences) field(peer, name, old, next string) {
	if old != next {
		d.list = append(d.list, mesh.Change{
			Op: mesh.Replaced, Kind: mesh.ChangedPeer, Subject: peer, Field: name, Old: old, New: next})
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

// same tells whether a peer stays as it is. A mesh has thousands of them, so it makes no text.
func same(a, b *mesh.Peer) bool {
	return a != nil && slices.Equal(a.Addresses, b.Addresses) &&
		slices.Equal(a.Subnets, b.Subnets) && slices.Equal(a.Routes, b.Routes)
}

// list writes values for people.
func list[T fmt.Stringer](ps []T) string {
	words := make([]string, len(ps))
	for i, p := range ps {
		words[i] = p.String()
	}
	return cmp.Or(strings.Join(words, " "), "none")
}

// rules compares what nftables is to do. The guard follows from the nodes and is no change of its own.
func (d *differences) rules(old, next rules.Wanted) {
	whole := func(kind mesh.ChangeKind, field string, had, has bool) (both bool) {
		if had && !has {
			d.list = append(d.list, mesh.Change{Op: mesh.Removed, Kind: kind, Field: field})
		}
		if has && !had {
			d.list = append(d.list, mesh.Change{Op: mesh.Added, Kind: kind, Field: field})
		}
		return had && has
	}
	if whole(mesh.ChangedMasquerade, "rules", old.Masquerade != nil, next.Masquerade != nil) {
		d.masquerade(*old.Masquerade, *next.Masquerade)
	}
	if whole(mesh.ChangedAccept, "rules for forwarded packets", old.Accept != nil, next.Accept != nil) {
		set(d, mesh.ChangedAccept, "rule for", old.Accept.Networks, next.Accept.Networks)
		set(d, mesh.ChangedAccept, "rule for pods", old.Accept.Pods, next.Accept.Pods)
		set(d, mesh.ChangedAccept, "rule for the network", old.Accept.LANs, next.Accept.LANs)
		value(d, mesh.ChangedAccept, "rules for packets from outside the mesh", old.Accept.All, next.Accept.All)
	}
}

func (d *differences) masquerade(old, next masq.Settings) {
	set(d, mesh.ChangedMasquerade, "set mesh", old.Mesh, next.Mesh)
	set(d, mesh.ChangedMasquerade, "set local", old.Local, next.Local)
	set(d, mesh.ChangedMasquerade, "set pods", old.Pods, next.Pods)
	set(d, mesh.ChangedMasquerade, "set exclude", old.Exclude, next.Exclude)
	value(d, mesh.ChangedMasquerade, "fully_random", old.FullyRandom, next.FullyRandom)
}

// settings compares the keys that have no kernel state of their own.
func (d *differences) settings(old, next *Plan) {
	a, b := old.Config, next.Config
	value(d, mesh.ChangedSetting, "network.name", a.Network.Name, b.Network.Name)
	value(d, mesh.ChangedSetting, "dataplane.engine", a.Dataplane.Engine, b.Dataplane.Engine)
	value(d, mesh.ChangedSetting, "dataplane.receive", a.Dataplane.Receive, b.Dataplane.Receive)
	value(d, mesh.ChangedSetting, "dataplane.offload", a.Dataplane.Offload, b.Dataplane.Offload)
	value(d, mesh.ChangedSetting, "queues", old.Engine.Queues, next.Engine.Queues)
	value(d, mesh.ChangedSetting, "dataplane.spread", a.Dataplane.Spread, b.Dataplane.Spread)
	value(d, mesh.ChangedSetting, "probe.interval", a.Probe.Interval, b.Probe.Interval)
	value(d, mesh.ChangedSetting, "metrics.listen", a.Metrics.Listen, b.Metrics.Listen)
	value(d, mesh.ChangedSetting, "container.subnet_env", a.Container.SubnetEnv, b.Container.SubnetEnv)
	value(d, mesh.ChangedSetting, "container.cni_conf", a.Container.CNIConf, b.Container.CNIConf)
}
