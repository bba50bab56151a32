package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/masq"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/rules"
	"example.org/meshd/internal/typed"
)

// Changes lists what turns one plan into another: what goes before what comes. It is empty if
// nothing does.
func Changes(old, next *Plan) []mesh.Change {
	d := &differences{}
	value(d, mesh.ChangedIdentity, "", old.Self.Name, next.Self.Name)
	d.peers(old, next)
	value(d, mesh.ChangedPort, "", list(old.Engine.Binds), list(next.Engine.Binds))
	value(d, mesh.ChangedInterface, "", old.Link.Interface, next.Link.Interface)
	value(d, mesh.ChangedMTU, "", old.Link.MTU, next.Link.MTU)
	set(d, mesh.ChangedAddress, "", old.Link.Addresses, next.Link.Addresses)
	set(d, mesh.ChangedRoute, "", old.Link.Routes, next.Link.Routes)
	d.rules(old.Rules, next.Rules)
	d.allow(old.Config.Allow, next.Config.Allow)
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

// Moves tells that a change is one of where a peer listens: without a new file that follows from DNS.
func Moves(c mesh.Change) bool { return c.Kind == mesh.ChangedPeer && c.Field == mesh.FieldAddress }

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
func (d *differences) peers(old, next *Plan) {
	left, come := outOfPlace(old, next)
	before, after := byName(left), byName(come)
	for _, n := range sorted(left, func(n node) bool { return after[n.Name].plan == nil }) {
		d.list = append(d.list, mesh.Change{
			Op: mesh.Removed, Kind: mesh.ChangedPeer, Subject: n.Name, Old: list(n.Subnets)})
	}
	for _, n := range sorted(come, func(n node) bool { return !same(before[n.Name], n) }) {
		was := before[n.Name]
		if was.plan == nil {
			d.list = append(d.list, mesh.Change{Op: mesh.Added, Kind: mesh.ChangedPeer, Subject: n.Name,
				New: list(slices.Concat(n.Subnets, n.Routes))})
			continue
		}
		if n.Name != next.Self.Name || n.Name != old.Self.Name { // our own address shows as the port's
			d.field(n.Name, mesh.FieldAddress, was.addresses(), n.addresses())
		}
		d.field(n.Name, "subnets", list(was.Subnets), list(n.Subnets))
		d.field(n.Name, "routes", was.routes(), n.routes())
		for _, of := range []struct{ key, old, next string }{
			{"public_key", was.Key.String(), n.Key.String()},
			{"next_public_key", was.Next.String(), n.Next.String()}, {"endpoint", was.called(), n.called()},
			{"via", was.listed().Via, n.listed().Via},
		} {
			d.field(n.Name, of.key, cmp.Or(of.old, "none"), cmp.Or(of.next, "none"))
		}
	}
}

func (d *differences) field(peer, name, old, next string) {
	if old != next {
		d.list = append(d.list, mesh.Change{
			Op: mesh.Replaced, Kind: mesh.ChangedPeer, Subject: peer, Field: name, Old: old, New: next})
	}
}

// A node is one of a plan; its plan is nil if the plan has none of that name.
type node struct {
	mesh.Peer
	plan  *Plan
	index int // in the file
}

// outOfPlace returns those nodes of two plans that are not the same at the same place of the other one. Of
// thousands of nodes an edit changes few, so only these are looked up by name.
func outOfPlace(old, next *Plan) (left, come []node) {
	a, b := old.Engine.Mesh.Peers, next.Engine.Mesh.Peers
	for i := range max(len(a), len(b)) {
		if i < len(a) && i < len(b) && a[i].Name == b[i].Name &&
			same(node{a[i], old, i}, node{b[i], next, i}) {
			continue
		}
		if i < len(a) {
			left = append(left, node{a[i], old, i})
		}
		if i < len(b) {
			come = append(come, node{b[i], next, i})
		}
	}
	return left, come
}

func byName(nodes []node) map[string]node {
	all := make(map[string]node, len(nodes))
	for _, n := range nodes {
		all[n.Name] = n
	}
	return all
}

// sorted returns those nodes that are of interest, by name.
func sorted(nodes []node, interesting func(node) bool) (some []node) {
	for _, n := range nodes {
		if interesting(n) {
			some = append(some, n)
		}
	}
	slices.SortFunc(some, func(a, b node) int { return cmp.Compare(a.Name, b.Name) })
	return some
}

// same tells whether a peer stays as it is. A mesh has thousands of them, so it makes no text.
func same(a, b node) bool {
	return a.plan != nil && slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.Subnets, b.Subnets) &&
		slices.Equal(a.Routes, b.Routes) && slices.Equal(a.listed().Addresses, b.listed().Addresses) &&
		slices.Equal(a.listed().Routes, b.listed().Routes) && a.Key == b.Key && a.Next == b.Next &&
		a.called() == b.called() && a.listed().Via == b.listed().Via
}

// called writes where the node's WireGuard is called, if that is not its address; empty if it is.
func (n node) called() string {
	if e := n.listed().Endpoint; e != (config.Address{}) {
		return e.String()
	}
	return ""
}

// listed returns the node as the file has it: the mesh lists nodes in the order of the file.
func (n node) listed() (is config.Node) {
	if all := n.plan.Config.Nodes; n.index < len(all) && all[n.index].Name == n.Name {
		is = all[n.index]
	}
	return is
}

// addresses writes the node's addresses for people, with the names that they come from.
func (n node) addresses() string {
	var words []string
	resolved := map[string]bool{}
	for _, a := range n.Addresses {
		word := a.String()
		if name, _ := n.plan.Origin(a.Addr()); name != "" {
			word, resolved[name] = name+" ("+word+")", true
		}
		words = append(words, word)
	}
	for _, a := range n.listed().Addresses {
		if a.Name != "" && !resolved[a.Name] {
			words = append(words, a.Name+" (no address)")
		}
	}
	return cmp.Or(strings.Join(words, " "), "none")
}

// routes writes the node's routes for people, with metrics that are not the usual one.
func (n node) routes() string {
	metrics := map[netip.Prefix]int{}
	for _, r := range n.listed().Routes {
		metrics[r.Prefix] = r.Metric
	}
	var words []string
	for _, p := range n.Routes {
		word := p.String()
		if metric, ok := metrics[p]; ok && metric != config.DefaultMetric {
			word += fmt.Sprintf(" metric %d", metric)
		}
		words = append(words, word)
	}
	return cmp.Or(strings.Join(words, " "), "none")
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
	value(d, mesh.ChangedSetting, "network.transport", a.Transport, b.Transport)
	value(d, mesh.ChangedSetting, "wireguard.port", a.WireGuard.Port, b.WireGuard.Port)
	value(d, mesh.ChangedSetting, "wireguard.private_key", a.WireGuard.PrivateKey, b.WireGuard.PrivateKey)
	value(d, mesh.ChangedSetting, "dataplane.engine", a.Dataplane.Engine, b.Dataplane.Engine)
	value(d, mesh.ChangedSetting, "dataplane.receive", a.Dataplane.Receive, b.Dataplane.Receive)
	value(d, mesh.ChangedSetting, "dataplane.offload", a.Dataplane.Offload, b.Dataplane.Offload)
	value(d, mesh.ChangedSetting, "queues", old.Engine.Queues, next.Engine.Queues)
	value(d, mesh.ChangedSetting, "dataplane.spread", a.Dataplane.Spread, b.Dataplane.Spread)
	value(d, mesh.ChangedSetting, "probe.interval", typed.Brief(a.Probe.Interval),
		typed.Brief(b.Probe.Interval))
	value(d, mesh.ChangedSetting, "probe.speed", a.Probe.Speed, b.Probe.Speed)
	value(d, mesh.ChangedSetting, "metrics.listen", a.Metrics.Listen, b.Metrics.Listen)
	value(d, mesh.ChangedSetting, "container.subnet_env", a.Container.SubnetEnv, b.Container.SubnetEnv)
	value(d, mesh.ChangedSetting, "container.cni_conf", a.Container.CNIConf, b.Container.CNIConf)
}
