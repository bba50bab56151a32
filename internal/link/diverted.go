package link

import (
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// This file finds routing rules that take packets of pods before table main, in which the mesh
// has its routes, is looked at. VPNs add such rules: Tailscale looks in table 52 first.

// Pods are the packets whose way is asked.
type Pods struct {
	TUN      string         // packets from other nodes come in by it
	Beside   []string       // or by these, meshd's further interfaces, which need not exist
	Link     Interface      // packets of this node's pods come in by it; zero: there is none yet
	Networks []netip.Prefix // of the mesh
	Own      []netip.Prefix // subnets of this node
	Others   []netip.Prefix // subnets and routes of the other nodes
}

// A Diversion is a routing rule that takes packets of pods away from the mesh.
type Diversion struct {
	Rule     string // as `ip rule` prints it
	Priority int    // of the rule
	Table    int    // in which the kernel finds the route; 0: the rule refuses the packets
	By       string // the interface by which they leave instead; empty: they are dropped
	Inbound  bool   // packets that come from other nodes, to pods of this node
	// Prefixes are the destinations that the rule takes, in the order of Pods; Whole tells that
	// they are all those of a family that the mesh's networks contain.
	Prefixes []netip.Prefix
	Whole    bool
}

// diversionsKept bounds the list of rules, which a status shows.
const diversionsKept = 5

// FindDiversions returns the rules that take packets of pods away: at most five, in the order in
// which packets of the first prefixes find them. Nothing is asked while the TUN does not exist,
// or where table main decides alone; for its routes see Shadows.
func FindDiversions(p Pods) ([]Diversion, error) {
	tun := Index(p.TUN)
	if tun < 0 { // table main has no routes of the mesh yet: any answer would be about others
		return nil, nil
	}
	rules, needless, err := readAllRules()
	if err != nil || needless {
		return nil, err
	}
	routes, err := allTables()
	if err != nil {
		return nil, err
	}
	list, err := addresses()
	if err != nil {
		return nil, err
	}
	kernel, err := openAsker()
	if err != nil {
		return nil, err
	}
	defer kernel.close()
	d := diverter{pods: p, inner: []Interface{{tun, p.TUN}}, local: map[netip.Addr]bool{},
		kernel: newResolver(rules, routes, kernel.ask), name: nameByIndex}
	for _, name := range p.Beside {
		if index := Index(name); index >= 0 {
			d.inner = append(d.inner, Interface{index, name})
		}
	}
	for _, a := range list {
		d.local[toPrefix(a.IPNet).Addr()] = true
	}
	return d.all(), nil
}

// nameByIndex returns the name of an interface; empty if it is gone.
func nameByIndex(index int) string {
	dev, err := netlink.LinkByIndex(index)
	if err != nil {
		return ""
	}
	return dev.Attrs().Name
}

// A diverter is FindDiversions for one snapshot.
type diverter struct {
	pods   Pods
	inner  []Interface // meshd's own, the TUN first
	local  map[netip.Addr]bool
	kernel *resolver
	name   func(index int) string
	found  []Diversion
	taken  []map[netip.Prefix]bool // the Prefixes of each as a set
}

// all asks about packets in both directions.
func (d *diverter) all() []Diversion {
	for _, p := range d.pods.Others {
		d.follow(p, p, nil)
	}
	for _, p := range d.within() {
		d.follow(p.inner, p.outer, nil)
	}
	for i := range d.inner {
		for _, p := range d.pods.Own {
			d.follow(p, p, &d.inner[i])
		}
	}
	for i := range d.found {
		d.found[i].Whole = d.whole(d.found[i], d.taken[i])
	}
	return d.found
}

// nested is a block inside a prefix of another node.
type nested struct{ inner, outer netip.Prefix }

// within returns the blocks that lie inside prefixes of other nodes: a rule or a route for a
// part of one does not show in an answer about the whole.
func (d *diverter) within() (all []nested) {
	wanted := setOf(d.pods.Others)
	for block := range d.kernel.blocks {
		for bits := range block.Bits() {
			if wider, err := block.Addr().Prefix(bits); err == nil && wanted[wider] {
				all = append(all, nested{block, wider})
				break
			}
		}
	}
	slices.SortFunc(all, func(a, b nested) int { return a.inner.Addr().Compare(b.inner.Addr()) })
	return all
}

// follow asks for the way of packets to a prefix and notes the rule that takes them. of is the
// prefix of the node that the packets are for. Packets from other nodes come in by an interface of
// meshd's; nil: pods of this node send them.
func (d *diverter) follow(to, of netip.Prefix, by *Interface) {
	q, inbound := d.question(to, by), by != nil
	a := d.kernel.resolve(q)
	if a.err == nil && (!foreign(a.route.Table) || !inbound && d.intoMesh(a.route)) ||
		a.err != nil && !refused(a.err) {
		return
	}
	found, known := d.kernel.ruleOf(q, a)
	// A refusal can come from table main, as that of a backstop while the TUN is away.
	if a.err != nil && (!known || found.action == actLookup && !foreign(found.table)) {
		return
	}
	one := Diversion{Rule: found.String(), Priority: int(found.priority), Table: found.table, Inbound: inbound}
	if a.err == nil {
		one.Table, one.By = a.route.Table, d.name(devicesOf(a.route)[0])
	}
	if !known {
		one.Rule = "lookup " + tableName(one.Table)
	}
	d.note(one, of)
}

// intoMesh reports whether a route leads through an interface of meshd's.
func (d *diverter) intoMesh(r netlink.Route) bool {
	return slices.ContainsFunc(d.inner, func(i Interface) bool { return slices.Contains(devicesOf(r), i.Index) })
}

// foreign reports whether a table is one in which the mesh has no routes. What table local
// has is an address of this host.
func foreign(table int) bool { return table != unix.RT_TABLE_MAIN && table != unix.RT_TABLE_LOCAL }

// note adds a prefix to the diversion by a rule.
func (d *diverter) note(one Diversion, of netip.Prefix) {
	at := slices.IndexFunc(d.found, func(have Diversion) bool {
		return have.Rule == one.Rule && have.Inbound == one.Inbound &&
			have.Prefixes[0].Addr().Is6() == of.Addr().Is6()
	})
	if at < 0 {
		if len(d.found) == diversionsKept {
			return
		}
		at = len(d.found)
		d.found, d.taken = append(d.found, one), append(d.taken, map[netip.Prefix]bool{})
	}
	if !d.taken[at][of] {
		d.taken[at][of] = true
		d.found[at].Prefixes = append(d.found[at].Prefixes, of)
	}
}

// question is a packet to a prefix: of a pod of this node, or to one, by an interface of meshd's.
func (d *diverter) question(to netip.Prefix, by *Interface) question {
	q := question{to: d.sample(to), in: d.pods.Link.Index, inName: d.pods.Link.Name}
	senders := d.pods.Own
	if by != nil {
		q.in, q.inName, senders = by.Index, by.Name, d.pods.Others
	}
	at := slices.IndexFunc(senders, func(p netip.Prefix) bool { return p.Addr().Is6() == to.Addr().Is6() })
	if at >= 0 && q.in != 0 { // without an interface the kernel takes no source but its own
		q.from = d.sample(senders[at])
	}
	return q
}

// sample returns an address that a pod of a prefix could have: near the end, where gateways are
// seldom, and no address of this host.
func (d *diverter) sample(p netip.Prefix) netip.Addr {
	ip := sample(p)
	for range 8 {
		if before := ip.Prev(); d.local[ip] && p.Contains(before) {
			ip = before
		}
	}
	return ip
}

// sample returns the last address but one of a prefix; the last is its broadcast address.
func sample(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < p.Addr().BitLen(); bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	if before := last.Prev(); p.Bits() < p.Addr().BitLen()-1 {
		return before
	}
	return last
}

// whole reports whether a diversion takes all that the mesh's networks contain of its family.
func (d *diverter) whole(one Diversion, taken map[netip.Prefix]bool) bool {
	all := d.pods.Others
	if one.Inbound {
		all = d.pods.Own
	}
	return !slices.ContainsFunc(all, func(p netip.Prefix) bool {
		same := p.Addr().Is6() == one.Prefixes[0].Addr().Is6()
		return same && d.inNetworks(p) && !taken[p]
	}) && slices.ContainsFunc(one.Prefixes, d.inNetworks)
}

// inNetworks reports whether a prefix is part of the mesh's networks.
func (d *diverter) inNetworks(p netip.Prefix) bool {
	return slices.ContainsFunc(d.pods.Networks, func(n netip.Prefix) bool { return n.Contains(p.Addr()) })
}
