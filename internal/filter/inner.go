package filter

import (
	"fmt"

	"example.org/meshd/internal/nft"
)

// WireGuard checks that a peer sends from its own addresses, and does not ask to whom: a node could reach
// the network of this host, the host's other addresses, or a third node through it. So this host drops what
// comes out of the encrypted interface and is for nothing behind this node. The engine does the same with
// what comes bare (mesh.WrongDestination).
//
//	inner       sets: the prefixes behind this node, and those that it forwards to
//
//	prerouting  from the encrypted interface, to nothing in inner         drop
//
// No such prefix has multicast or link-local addresses, so these are dropped as well: a file with one is
// refused. In a family without prefixes everything is dropped.
//
// Rules that encryption rests on must not go with `nft flush ruleset`, so they stand a second time in a
// table that no other program can change while meshd runs. Its chain comes right behind the ordinary one,
// which counts while it is there, outlives the daemon, and exists on kernels before 5.12.

// StandbyName is the name of the standby table, which is of both families.
const StandbyName = "meshd-inner"

// setInner is the name of the sets.
const setInner = "inner"

// StandBy makes the standby rules match s. On kernels that have no owners of tables it does nothing. It
// needs CAP_NET_ADMIN.
func (g *Guard) StandBy(s GuardSettings) error {
	if s.Encrypted == "" {
		return g.Close()
	}
	err := g.standby.Set(nft.Table{ID: nft.Both(StandbyName), Sets: s.innerSets(),
		Chains: []nft.Chain{s.innerChain(nft.Raw + 1)}})
	if err != nil {
		return fmt.Errorf("set standby rules of the encrypted interface: %w", err)
	}
	return nil
}

// Stands reports whether the standby rules of the last StandBy are in force.
func (g *Guard) Stands() bool { return g.standby.Stands() }

// Close removes the standby rules, which would end with the process in any case. The ordinary rules stay
// in force.
func (g *Guard) Close() error { return g.standby.Close() }

// innerSets returns the sets of both families.
func (s GuardSettings) innerSets() (sets []nft.Set) {
	for _, f := range nft.Families {
		sets = append(sets, f.InBoth().Prefixes(setInner, s.Inner))
	}
	return sets
}

// innerChain returns the chain, before connection tracking and before destinations are translated.
func (s GuardSettings) innerChain(priority nft.Priority) nft.Chain {
	c := chain("prerouting", nft.Prerouting)
	c.Priority = priority
	for _, f := range nft.Families {
		f = f.InBoth()
		c.Rules = append(c.Rules, nft.Rule{Name: WrongDestination, Exprs: nft.Join(nft.FromInterface(s.Encrypted),
			f.Guard(), f.DestinationNotIn(setInner), nft.Drop())})
	}
	return c
}
