// Package filter decides which packets may pass this host, as far as the mesh is concerned:
//
//	Guard    who may speak on the mesh port, in a table of our own (inet meshd-filter)
//	Forward  what must pass where the host drops forwarded packets, in the host's own chains
//
// The masquerade rules are masq's.
package filter

import (
	"fmt"
	"net/netip"

	"example.org/meshd/internal/nft"
)

// A node is known by its address, and this host lends its address to everybody behind it: to pods
// that are masqueraded, and to local users. So it is this host that has to see to it that nobody
// else speaks as meshd; the receiver cannot tell.
//
//	nodes   sets: address and port of every node, this one included
//	hosts   sets: their addresses alone
//	inside  set: loopback, the TUN, and the interfaces that lead to this node's own pods
//	closed  sets: interfaces that are not the mesh's, where the host forwards for the mesh alone
//	bridged sets: each of them with itself: what a bridge forwards within itself, where
//	        br_netfilter shows it to these chains
//
//	output   to a node's port, without the mark of meshd's sockets        drop
//	forward  to a node's port, from inside                                drop
//	forward  to a node's port, from anything that is not a node           drop
//	forward  from one closed interface to another                         drop
//	input    to our own port, from inside                                 drop
//
// No rule asks conntrack, which need not be there. The chains come before conntrack and before
// anybody's mangling, so that a mark is still the socket's own; the kernel has put fragments together
// where conntrack or the host's own stack needs them whole, and elsewhere it is the first fragment
// that carries the port, without which the others are worth nothing.

// TableName is the name of the table of both families.
const TableName = "meshd-filter"

// NotFromMeshd is the drop reason of the guard, and the name of its rules.
const NotFromMeshd = "not_from_meshd"

// GuardSettings is who may speak on the mesh port.
type GuardSettings struct {
	Nodes    []netip.AddrPort // where the nodes listen, this one included
	Bind     netip.AddrPort   // where this node listens; an unspecified address is all of them
	TUN      string
	PodLinks []string // interfaces that lead to this node's own pods
	Mark     uint32   // of meshd's own sockets

	// Closed are the interfaces, by family (true: IPv6), between which nothing is forwarded: this host
	// forwards because of the mesh alone, and must not open its other networks to each other by it.
	Closed map[bool][]string
}

// Names of the sets.
const (
	setNodes  = "nodes"
	setHosts  = "hosts"
	setInside = "inside"
	setClosed = "closed"
	setBridge = "bridged"

	otherNetworks = "other-networks" // name of the rules about closed interfaces
)

// A Guard keeps the rules about the mesh port. Its methods may be called from any goroutine.
type Guard struct{ rules *nft.Keeper }

// NewGuard returns a Guard that has not touched the kernel.
func NewGuard() *Guard { return &Guard{nft.NewKeeper(nft.Both(TableName))} }

// Set makes the rules match s. It changes nothing when they do already; changed tells. It needs
// CAP_NET_ADMIN.
func (g *Guard) Set(s GuardSettings) (changed bool, err error) {
	changed, err = g.rules.Set([]nft.Table{s.table()})
	if err != nil {
		return false, fmt.Errorf("guard the mesh port: %w", err)
	}
	return changed, nil
}

// Drops returns how many packets were dropped since NewGuard. The number never falls.
func (g *Guard) Drops() (uint64, error) {
	counters, err := g.rules.Counters()
	if err != nil {
		return 0, fmt.Errorf("read what the guard of the mesh port dropped: %w", err)
	}
	return counters[NotFromMeshd].Packets, nil
}

// CleanUp removes our table and our rules in chains of others, whoever made them, and tells whether
// there were any.
func CleanUp() (removed bool, err error) {
	accepts, err := NewForward().Remove()
	if err != nil {
		return accepts, err
	}
	removed, err = nft.Remove(nft.Both(TableName))
	if err != nil {
		return accepts, fmt.Errorf("remove the guard of the mesh port: %w", err)
	}
	return accepts || removed, nil
}

func (s GuardSettings) table() nft.Table {
	t := nft.Table{ID: nft.Both(TableName), Sets: []nft.Set{
		nft.Interfaces(setInside, append([]string{"lo", s.TUN}, s.PodLinks...)),
	}}
	output := chain("output", nft.Output)
	forward := chain("forward", nft.Forward)
	input := chain("input", nft.Input)
	for _, f := range nft.Families {
		f = f.InBoth()
		names := s.Closed[f.V6()]
		if len(names) == 0 {
			continue
		}
		closed, bridge := setClosed+f.Suffix(), setBridge+f.Suffix()
		t.Sets = append(t.Sets, nft.Interfaces(closed, names), nft.SameInterfaces(bridge, names))
		forward.Rules = append(forward.Rules, nft.Rule{Name: otherNetworks, Exprs: nft.Join(f.Guard(),
			nft.FromInterfaceIn(closed), nft.ToInterfaceIn(closed), nft.NotWithinInterfaceIn(bridge), nft.Drop())})
	}
	for _, c := range []*nft.Chain{&output, &forward, &input} { // nearly all there is ends here
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
		if f.V6() == s.Bind.Addr().Is6() {
			input.Rules = append(input.Rules, guard(f, s.ownPort(f), nft.FromInterfaceIn(setInside)))
		}
	}
	t.Chains = []nft.Chain{output, forward, input}
	return t
}

// ownPort matches packets to where this node listens.
func (s GuardSettings) ownPort(f nft.Family) nft.Exprs {
	if s.Bind.Addr().IsUnspecified() {
		return nft.PortIs(s.Bind.Port())
	}
	own := netip.PrefixFrom(s.Bind.Addr(), s.Bind.Addr().BitLen())
	return nft.Join(f.DestinationInside(own), nft.PortIs(s.Bind.Port()))
}

func guard(f nft.Family, parts ...nft.Exprs) nft.Rule {
	return nft.Rule{Name: NotFromMeshd, Exprs: nft.Join(append([]nft.Exprs{f.Guard()}, append(parts, nft.Drop())...)...)}
}

func chain(name string, hook *nft.Hook) nft.Chain {
	return nft.Chain{Name: name, Type: nft.Filter, Hook: hook, Priority: nft.Raw}
}
