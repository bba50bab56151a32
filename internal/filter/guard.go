// Package filter decides which packets of the mesh may pass this host:
//
//	Guard      who may send to the mesh port: rules in a table of meshd's (inet meshd-filter)
//	Inner      what may come in by the encrypted interface, at that interface (netdev meshd-inner)
//	Forward    which forwarded packets pass although the host drops them: rules in its own chains
//	Legacy     the same for hosts that filter with the old iptables
//	Last       which probes end behind all filters, so that the filters' verdict is known; and how large TCP
//	           segments are, so that they fit the path of their peer
//	Allow      who may reach whom: rules of the file, in tables of meshd's (meshd-allow)
//
// Masquerade rules are in package masq.
package filter

import (
	"fmt"
	"net/netip"
	"slices"

	"example.org/meshd/internal/nft"
)

// Peers identify a node by its address. Masqueraded pods and local users send with this host's
// address, too, and the receiver cannot tell the difference. So this host must drop datagrams to
// the mesh port that meshd did not send.
//
//	nodes   sets: address and port of every node, this one included
//	hosts   sets: the nodes' addresses alone
//	inside  set: loopback, meshd's interfaces, and those that lead to this node's own pods
//	closed  sets: interfaces without a part in the mesh, if the host forwards only because of it
//	bridged sets: each closed interface with itself. With br_netfilter these chains see packets
//	        that a bridge forwards between its own ports
//	sealed  sets: the subnets of other nodes while packets must be encrypted, one for each length; few of
//	        them are compared one by one
//
//	forward, output  to a subnet of another node, not by own, encrypted   drop
//	all      TCP that opens no connection; output: all TCP                pass
//	all      UDP to a port that no node has                               pass
//	forward  TCP from the mesh                                            lower its segments, see clamp.go
//	input    the same
//	output   an ICMP redirect into an interface of meshd's                drop
//	output   to a node's port, without the mark of meshd's sockets        drop
//	output   to a node's port, from another port than this node's         from this node's
//	forward  to a node's port, from inside                                drop
//	forward  to a node's port, from anything that is not a node           drop
//	forward  from one closed interface to another                         drop
//	input    to our own port, from inside                                 drop
//
// The kernel sends redirects when it forwards a packet back to where it came from, such as one to a pod's
// address that is not there, or from one peer to another. Such an interface has no neighbours, so none is
// ever right. Its own send_redirects cannot turn them off: that of "all" counts as well
// (IN_DEV_TX_REDIRECTS), and is the host's.
//
// Sockets have another port than this node's where the kernel itself has that (dataplane.Wanted.Apart). What
// they send leaves from this node's nevertheless, and before connection tracking: firewalls of this host,
// of others and on the way see the same as without, and let answers in.
//
// No rule needs connection tracking. The chains run at priority raw, before connection tracking
// and before rules that change marks, so a mark is the one that the socket has set. Fragments:
// where connection tracking or the host's own stack needs them whole, the kernel has reassembled
// them before; elsewhere the first fragment carries the port, and the others are worthless
// without it.

// TableName is the name of the table, which is of both families.
const TableName = "meshd-filter"

// Drop reasons of rules, which are the names of these.
const (
	NotFromMeshd     = "not_from_meshd"
	NotEncrypted     = "not_encrypted"
	WrongDestination = "wrong_destination" // see inner.go
)

// GuardSettings is who may send to the mesh port, and what may come in by the encrypted interface.
type GuardSettings struct {
	Nodes    []netip.AddrPort // where the nodes listen, this one included
	Binds    []netip.AddrPort // where this node listens; an unspecified address means all of its family
	TUN      string           // name of the interface
	PodLinks []string         // interfaces that lead to this node's own pods

	// Encrypted is the encrypted interface; empty: there is none. What comes in by it passes if it is for one
	// of Inner: the prefixes behind this node, and those that it forwards to. See Inner.
	Encrypted string
	Inner     []netip.Prefix

	// Sealed are the subnets of other nodes, while packets to them must leave encrypted.
	Sealed []netip.Prefix

	Clamp ClampSettings // of segments from the mesh

	Mark uint32 // the packet mark of meshd's own sockets
	// OnePort has what meshd's sockets send leave from this node's port, whichever they have.
	OnePort bool

	// Closed are the interfaces, by family (true: IPv6), between which nothing is forwarded. If the
	// host forwards only because of the mesh, its other networks must stay apart.
	Closed map[bool][]string
}

// Names of the sets.
const (
	setNodes  = "nodes"
	setHosts  = "hosts"
	setInside = "inside"
	setClosed = "closed"
	setBridge = "bridged"
	setSealed = "sealed"

	otherNetworks = "other-networks" // name of the rules about closed interfaces
	redirect      = "redirect"       // name of the rule about ICMP redirects
	fromOwnPort   = "from-own-port"  // name of the rules about datagrams of sockets that have another port
)

// A Guard keeps the rules. Set and Edit belong to one goroutine; Drops may be called from any.
type Guard struct{ rules *nft.Keeper }

// NewGuard returns a Guard. It does not touch the kernel.
func NewGuard() *Guard { return &Guard{rules: nft.NewKeeper(nft.Both(TableName))} }

// Set makes the rules match s, in one transaction. If they match already, Set changes nothing and
// changed is false. It needs CAP_NET_ADMIN.
func (g *Guard) Set(s GuardSettings) (changed bool, err error) {
	changed, err = g.rules.Set([]nft.Table{s.table()})
	if err != nil {
		return false, fmt.Errorf("guard the mesh port: %w", err)
	}
	return changed, nil
}

// Edit is Set for a mesh whose nodes have changed since the last one, and whose rules are believed to be in
// force: it writes what differs, and looks at nothing else. ok is false if nothing was changed, and Set
// has to do it. Whoever calls Edit calls Set soon after, to see whether another program has changed more.
func (g *Guard) Edit(s GuardSettings) (ok bool) { return g.rules.Edit([]nft.Table{s.table()}) }

// Drops returns how many packets the guard has dropped since NewGuard, as NotFromMeshd and as NotEncrypted.
func (g *Guard) Drops() (notFromMeshd, notEncrypted uint64, err error) {
	counters, err := g.rules.Counters()
	if err != nil {
		return 0, 0, fmt.Errorf("read drops of the guard: %w", err)
	}
	return counters[NotFromMeshd].Packets, counters[NotEncrypted].Packets, nil
}

// table returns the wanted table.
func (s GuardSettings) table() nft.Table {
	t := nft.Table{ID: nft.Both(TableName), Sets: []nft.Set{
		nft.Interfaces(setInside, slices.Concat([]string{"lo"}, s.own(), s.PodLinks)),
	}}
	output := chain("output", nft.Output)
	forward := chain("forward", nft.Forward)
	input := chain("input", nft.Input)
	sealed := s.sealed(&t)
	forward.Rules = slices.Concat(sealed, s.apart(&t))
	fromMesh := s.Clamp.addTo(&t, "from-mesh", nft.Family.SourceIn, nft.FromInterfaceIn(setMesh))
	forward.Rules = append(append(forward.Rules, fromMesh...), otherPort(s.Nodes)...)
	input.Rules = append(fromMesh, otherPort(s.Binds)...)
	tcp := nft.Rule{Name: "other", Exprs: nft.Join(nft.TCP(), nft.Pass())}
	output.Rules = append(append(sealed, tcp), otherPort(s.Nodes)...)
	for _, own := range s.own() {
		output.Rules = append(output.Rules, nft.Rule{Name: redirect, Exprs: nft.Join(nft.IPv4.InBoth().Guard(),
			nft.Redirect4(), nft.ToInterface(own), nft.Drop())})
	}
	for _, c := range []*nft.Chain{&output, &forward, &input} {
		c.Rules = append(c.Rules, nft.Rule{Name: "other", Exprs: nft.Join(nft.NotUDP(), nft.Pass())})
	}
	var hosts []netip.Addr
	for _, n := range s.Nodes {
		hosts = append(hosts, n.Addr())
	}
	for _, f := range nft.Families {
		f = f.InBoth()
		t.Sets = append(t.Sets, f.Endpoints(setNodes, s.Nodes), f.Addresses(setHosts, hosts))
		output.Rules = append(output.Rules, guard(f, f.EndpointIn(setNodes), nft.MarkIsNot(s.Mark)))
		forward.Rules = append(forward.Rules,
			guard(f, f.EndpointIn(setNodes), nft.FromInterfaceIn(setInside)),
			guard(f, f.EndpointIn(setNodes), f.SourceNotIn(setHosts)))
		for _, bind := range s.Binds {
			if f.V6() == bind.Addr().Is6() {
				output.Rules = append(output.Rules, s.fromOwnPort(f, bind)...)
				input.Rules = append(input.Rules, guard(f, ownPort(f, bind), nft.FromInterfaceIn(setInside)))
			}
		}
	}
	t.Chains = append(t.Chains, output, forward, input)
	return t
}

// sealed adds the sets of what must leave encrypted to a table, and returns the rules that stop what would
// leave by another interface: another program may have a route there. What comes to the TUN bare, the engine
// stops.
func (s GuardSettings) sealed(t *nft.Table) (rules []nft.Rule) {
	if len(s.Sealed) == 0 {
		return nil
	}
	for _, f := range nft.Families {
		f = f.InBoth()
		subnets := placesOf(f, setSealed, s.Sealed)
		ways := subnets.has(false)
		if len(subnets.prefixes) > few {
			ways = f.DestinationByLength(setSealed, subnets.prefixes)
			t.Sets = append(t.Sets, f.ByLength(setSealed, subnets.prefixes)...)
		}
		for _, to := range ways {
			rules = append(rules, nft.Rule{Name: NotEncrypted,
				Exprs: nft.Join(f.Guard(), to, nft.ToOtherInterface(s.own()...), nft.Drop())})
		}
	}
	return rules
}

// apart adds the sets of closed interfaces to a table, and returns the rules that keep them apart.
func (s GuardSettings) apart(t *nft.Table) (rules []nft.Rule) {
	for _, f := range nft.Families {
		f = f.InBoth()
		names := s.Closed[f.V6()]
		if len(names) == 0 {
			continue
		}
		closed, bridge := setClosed+f.Suffix(), setBridge+f.Suffix()
		t.Sets = append(t.Sets, nft.Interfaces(closed, names), nft.SameInterfaces(bridge, names))
		rules = append(rules, nft.Rule{Name: otherNetworks, Exprs: nft.Join(f.Guard(),
			nft.FromInterfaceIn(closed), nft.ToInterfaceIn(closed), nft.NotWithinInterfaceIn(bridge), nft.Drop())})
	}
	return rules
}

// otherPort has datagrams to other ports than that of some nodes pass, if it is one: that costs less than a
// look into a set.
func otherPort(nodes []netip.AddrPort) []nft.Rule {
	other := func(n netip.AddrPort) bool { return n.Port() != nodes[0].Port() }
	if len(nodes) == 0 || slices.ContainsFunc(nodes, other) {
		return nil
	}
	return []nft.Rule{{Name: "other port", Exprs: nft.Join(nft.UDPToOtherPort(nodes[0].Port()), nft.Pass())}}
}

// own returns the names of meshd's interfaces.
func (s GuardSettings) own() []string {
	if s.Encrypted == "" {
		return []string{s.TUN}
	}
	return []string{s.TUN, s.Encrypted}
}

// fromOwnPort returns the rules by which datagrams from one of our addresses leave from the port there.
func (s GuardSettings) fromOwnPort(f nft.Family, bind netip.AddrPort) []nft.Rule {
	if !s.OnePort || bind.Addr().IsUnspecified() {
		return nil
	}
	own := netip.PrefixFrom(bind.Addr(), bind.Addr().BitLen())
	apart := nft.Join(f.Guard(), nft.SourcePortIsNot(bind.Port()), f.SourceInside(own), f.EndpointIn(setNodes))
	return []nft.Rule{
		{Name: fromOwnPort, Exprs: nft.Join(apart, nft.Unsummed(), nft.SourcePortBecomes(bind.Port(), false))},
		{Name: fromOwnPort, Exprs: nft.Join(apart, nft.SourcePortBecomes(bind.Port(), true))},
	}
}

// ownPort matches packets to where this node listens.
func ownPort(f nft.Family, bind netip.AddrPort) nft.Exprs {
	if bind.Addr().IsUnspecified() {
		return nft.PortIs(bind.Port())
	}
	own := netip.PrefixFrom(bind.Addr(), bind.Addr().BitLen())
	return nft.Join(f.DestinationInside(own), nft.PortIs(bind.Port()))
}

// guard returns a rule that drops packets of a family that match all parts.
func guard(f nft.Family, parts ...nft.Exprs) nft.Rule {
	return nft.Rule{Name: NotFromMeshd, Exprs: nft.Join(f.Guard(), nft.Join(parts...), nft.Drop())}
}

// chain returns a base chain before connection tracking.
func chain(name string, hook *nft.Hook) nft.Chain {
	return nft.Chain{Name: name, Type: nft.Filter, Hook: hook, Priority: nft.Raw}
}
