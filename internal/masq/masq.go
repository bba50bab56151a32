// Package masq keeps the masquerade rules: which packets keep their source address, and which
// get an address of this host. The rules are in nftables tables called "meshd", one for each
// family. Set brings them into the wanted state; StandBy keeps a copy that other programs cannot
// change; CleanUp removes everything and needs no state.
package masq

import (
	"fmt"
	"net/netip"
	"slices"

	"example.org/meshd/internal/nft"
)

// Settings is what the rules need to know of the mesh. Prefixes are of both families.
type Settings struct {
	Mesh        []netip.Prefix // everything that the mesh carries; a family without any gets no table
	Local       []netip.Prefix // the part of Mesh behind this node: clients keep their address towards it
	Pods        []netip.Prefix // the part of Local that reaches the outside with the host's address
	PodLinks    []string       // interfaces by which pods of this host send: their peers are not outside
	Links       []string       // meshd's interfaces: packets leave to other nodes by them
	Sources     []netip.Addr   // the address of Links, of each family that has one
	Exclude     []netip.Prefix // outside destinations that see the pods' own addresses
	FullyRandom bool           // choose source ports at random
}

// A Counter is what the rules of one name have matched, in both families, since New. Only the
// first packet of a connection is counted: the kernel asks NAT rules once for each.
type Counter struct {
	Rule           string
	Packets, Bytes uint64
}

// Masq owns the tables. Its methods may be called from any goroutine.
type Masq struct {
	rules   *nft.Keeper
	standby nft.Standby
}

// tables are the ordinary tables; the standby table is not among them.
var tables = []nft.ID{nft.IPv4.Table(TableName), nft.IPv6.Table(TableName)}

// New returns a Masq. It does not touch the kernel.
func New() *Masq { return &Masq{rules: nft.NewKeeper(tables...)} }

// Set makes the rules match s, in one transaction. If they match already, Set changes nothing
// and changed is false. It needs CAP_NET_ADMIN.
func (m *Masq) Set(s Settings) (changed bool, err error) {
	changed, err = m.rules.Set(s.tables())
	if err != nil {
		return false, fmt.Errorf("set masquerade rules: %w", err)
	}
	return changed, nil
}

// Remove removes the rules and keeps the counters. If there were rules, a chain takes their place
// that does nothing but keep running connections alive. Without it the last NAT chain and the
// last rule that needs connection tracking might go; the kernel would then stop both
// (nf_nat_unregister_fn, nf_ct_netns_put), and masqueraded connections would break.
func (m *Masq) Remove() error {
	if err := m.rules.Idle(runningConnections); err != nil {
		return fmt.Errorf("remove masquerade rules: %w", err)
	}
	return m.standby.Close()
}

// StandBy makes the standby rules match s. They decide only while another program has removed the
// ordinary ones, until the next Set, and for the moment of a Set itself: sets of intervals are empty for new
// rules until the kernel has done with their transaction (nft/lengths.go), and a connection that begins then
// would keep the pod's address for good. So StandBy comes first. Without them the kernel would stop
// translating together with its last NAT chain: the next segment of a busy connection would leave with the
// pod's address, or an answer would find no connection on the host, which resets it.
//
// The ordinary tables remain in charge of counting and repair: they survive a restart of the
// daemon, and exist on kernels before 5.12.
func (m *Masq) StandBy(s Settings) error {
	if err := m.standby.Set(s.standbyTable()); err != nil {
		return fmt.Errorf("set standby rules: %w", err)
	}
	return nil
}

// Close removes the standby rules, which would end with the process in any case. The ordinary
// rules stay in force.
func (m *Masq) Close() error { return m.standby.Close() }

// Counters returns what the rules of each name have matched since New, in the order of RuleNames.
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

// CleanUp removes meshd's masquerade tables, also those of earlier runs, and reports whether it
// found any.
func CleanUp() (removed bool, err error) {
	removed, err = nft.Remove(append(slices.Clone(tables), nft.Both(TableName))...)
	if err != nil {
		return removed, fmt.Errorf("remove masquerade rules: %w", err)
	}
	return removed, nil
}
