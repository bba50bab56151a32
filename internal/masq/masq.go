// Package masq keeps the masquerade rules: which packets keep their source address, and which get
// this host's. They stand in nftables tables called "meshd", one for each family. Set says what is
// wanted; StandBy keeps a copy that others cannot touch; CleanUp removes all of it without knowing
// anything.
package masq

import (
	"fmt"
	"net/netip"
	"slices"

	"example.org/meshd/internal/nft"
)

// Settings is what the rules should do.
type Settings struct {
	Mesh        []netip.Prefix // all that the mesh carries; a family without any gets no table
	Local       []netip.Prefix // the part of it behind this node: clients keep their address towards it
	Pods        []netip.Prefix // the part of Local that reaches the outside with the host's address
	PodLinks    []string       // interfaces that pods of this host send by: nobody behind them is outside
	Exclude     []netip.Prefix // outside destinations that see the pods' own addresses
	FullyRandom bool
}

// A Counter is what the rules of one name have matched, in both families, since New.
type Counter struct {
	Rule           string
	Packets, Bytes uint64
}

// Masq owns the tables. Its methods may be called from any goroutine.
type Masq struct {
	rules   *nft.Keeper
	standby nft.Standby
}

var tables = []nft.ID{nft.IPv4.Table(TableName), nft.IPv6.Table(TableName)}

// New returns a Masq that has not touched the kernel.
func New() *Masq { return &Masq{rules: nft.NewKeeper(tables...)} }

// Set makes the rules match s. It changes nothing when they do already, so it may be called as often
// as one likes; changed tells. It needs CAP_NET_ADMIN.
func (m *Masq) Set(s Settings) (changed bool, err error) {
	var wanted []nft.Table
	for _, f := range nft.Families {
		if len(f.PrefixesOf(s.Mesh)) > 0 {
			wanted = append(wanted, nft.Table{ID: f.Table(TableName), Sets: s.sets(f), Chains: []nft.Chain{chain(rules(f, s))}})
		}
	}
	changed, err = m.rules.Set(wanted)
	if err != nil {
		return false, fmt.Errorf("set masquerade rules: %w", err)
	}
	return changed, nil
}

// Remove takes the rules away and keeps the counters. If there were any, a chain stays in their place
// that only lets running connections be: with the last NAT chain and the last rule that needs
// connection tracking, the kernel would stop both (nf_nat_unregister_fn, nf_ct_netns_put), and what is
// masqueraded already would die.
func (m *Masq) Remove() error {
	if err := m.rules.Idle(runningConnections); err != nil {
		return fmt.Errorf("remove masquerade rules: %w", err)
	}
	return m.standby.Close()
}

// StandBy makes the standby rules match s, so that damage to the others is not felt until Set is
// called again. They decide only meanwhile: without them the kernel would stop translating with its
// last NAT chain, and the next segment of a busy connection would reach the outside with the pod's
// address, or the host without a connection to belong to, which answers with a reset.
//
// The ordinary tables remain the ones that count, are seen and are repaired: they last while the
// daemon is restarted, and exist on older kernels.
func (m *Masq) StandBy(s Settings) error {
	table := nft.Table{ID: nft.Both(TableName)}
	c := chain(nil)
	c.Priority = nft.SourceNAT + 1
	for _, f := range nft.Families {
		if f = f.InBoth(); len(f.PrefixesOf(s.Mesh)) > 0 {
			table.Sets = append(table.Sets, s.prefixSets(f)...)
			c.Rules = append(c.Rules, rules(f, s)...)
		}
	}
	table.Sets = append(table.Sets, nft.Interfaces(setPodLinks, s.PodLinks))
	table.Chains = []nft.Chain{c}
	if err := m.standby.Set(table); err != nil {
		return fmt.Errorf("set standby rules: %w", err)
	}
	return nil
}

// Close gives up what only lasts as long as the process: the standby rules. The others stay in force.
func (m *Masq) Close() error { return m.standby.Close() }

// Counters returns what each rule has matched since New, in the rules' order.
func (m *Masq) Counters() ([]Counter, error) {
	now, err := m.rules.Counters()
	if err != nil {
		return nil, fmt.Errorf("read masquerade counters: %w", err)
	}
	all := make([]Counter, 0, len(now))
	for _, name := range RuleNames() {
		all = append(all, Counter{Rule: name, Packets: now[name].Packets, Bytes: now[name].Bytes})
	}
	return all, nil
}

// CleanUp removes our tables, whoever made them, and tells whether there were any.
func CleanUp() (removed bool, err error) {
	removed, err = nft.Remove(append(slices.Clone(tables), nft.Both(TableName))...)
	if err != nil {
		return removed, fmt.Errorf("remove masquerade rules: %w", err)
	}
	return removed, nil
}
