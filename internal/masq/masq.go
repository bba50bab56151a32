// Package masq keeps the masquerade rules: nftables tables named "meshd", one
// for each family, and nothing else. Set says what is wanted and replaces the
// tables in one transaction, so that there is no moment without rules; StandBy
// keeps a copy that others cannot touch; CleanUp removes all of it without
// knowing anything.
package masq

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Settings is what the rules should do.
type Settings struct {
	Mesh        []netip.Prefix // all that the mesh carries; a family without any gets no table
	Local       []netip.Prefix // the part of it behind this node: clients keep their address towards it
	Pods        []netip.Prefix // the part of Local that reaches the outside with the host's address
	Exclude     []netip.Prefix // outside destinations that see the pods' own addresses
	FullyRandom bool
}

func (s Settings) equal(o Settings) bool {
	return slices.Equal(s.Mesh, o.Mesh) && slices.Equal(s.Local, o.Local) && slices.Equal(s.Pods, o.Pods) &&
		slices.Equal(s.Exclude, o.Exclude) && s.FullyRandom == o.FullyRandom
}

// sets yields the prefix sets in a fixed order.
func (s Settings) sets() iter.Seq2[string, []netip.Prefix] {
	return func(yield func(string, []netip.Prefix) bool) {
		_ = yield(setMesh, s.Mesh) && yield(setLocal, s.Local) && yield(setPods, s.Pods) && yield(setExclude, s.Exclude)
	}
}

// A Counter is what one rule has matched, in both families, since New.
type Counter struct {
	Rule           string
	Packets, Bytes uint64
}

// Masq owns the tables. Its methods may be called from any goroutine.
type Masq struct {
	mu      sync.Mutex
	set     *Settings
	handles map[bool][]uint64 // of the rules in their order, by family (true: IPv6)
	past    map[string]Counter
	standby standby
}

// open returns a connection whose buffers hold a whole transaction: with 10,000
// prefixes it has megabytes, and half of one must never be sent.
func open(options ...nftables.ConnOption) (*nftables.Conn, error) {
	const size = 16 << 20
	return nftables.New(append(options, nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetWriteBuffer(size), c.SetReadBuffer(size))
	}))...)
}

// New returns a Masq that has not touched the kernel.
func New() *Masq { return &Masq{handles: map[bool][]uint64{}, past: map[string]Counter{}} }

// Set makes the rules match s. It changes nothing when they do already, so it
// may be called as often as one likes; changed tells. It needs CAP_NET_ADMIN.
func (m *Masq) Set(s Settings) (changed bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	conn, err := open()
	if err != nil {
		return false, fmt.Errorf("set masquerade rules: %w", err)
	}
	if m.set != nil && m.set.equal(s) {
		intact, err := m.intact(conn)
		if err != nil {
			return false, fmt.Errorf("check masquerade rules: %w", err)
		}
		if intact {
			return false, nil
		}
	}
	m.keepCounters(conn)
	if err := replace(conn, s); err != nil {
		return false, fmt.Errorf("set masquerade rules: %w", err)
	}
	m.set = &s
	return true, m.remember(conn)
}

// Remove takes the rules away and keeps the counters. If there were any, a chain
// stays in their place that only lets running connections be: with the last NAT
// chain and the last rule that needs connection tracking, the kernel would stop
// both (nf_nat_unregister_fn, nf_ct_netns_put), and what is masqueraded already
// would die.
func (m *Masq) Remove() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	conn, err := open()
	if err != nil {
		return fmt.Errorf("remove masquerade rules: %w", err)
	}
	m.keepCounters(conn)
	m.set, m.handles = nil, map[bool][]uint64{}
	for _, f := range families {
		table, err := conn.ListTableOfFamily(tableName, f.table)
		switch {
		case errors.Is(err, unix.ENOENT):
			continue
		case err != nil:
			return fmt.Errorf("remove masquerade rules: %w", err)
		}
		conn.DelTable(table)
		fresh := conn.AddTable(&nftables.Table{Family: f.table, Name: tableName})
		chain := conn.AddChain(f.chain(fresh))
		conn.AddRule(&nftables.Rule{Table: fresh, Chain: chain, Exprs: runningConnections(),
			UserData: userdata.AppendString(nil, userdata.TypeComment, "running-connections")})
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("remove masquerade rules: %w", err)
	}
	return m.standby.close()
}

// replace sends one transaction that puts new tables in place of whatever has
// their names.
func replace(conn *nftables.Conn, s Settings) error {
	for _, f := range families {
		table := &nftables.Table{Family: f.table, Name: tableName}
		// Adding before deleting makes deleting safe when there is none; all of
		// it happens at once.
		conn.AddTable(table)
		conn.DelTable(table)
		if len(f.prefixesOf(s.Mesh)) == 0 {
			continue
		}
		conn.AddTable(table)
		if err := f.fill(conn, f.chain(table), s); err != nil {
			return err
		}
	}
	return conn.Flush()
}

// fill adds a chain with the rules of one family, and the sets they use.
func (f family) fill(conn *nftables.Conn, chain *nftables.Chain, s Settings) error {
	for name, prefixes := range s.sets() {
		set := &nftables.Set{Table: chain.Table, Name: name + f.suffix, KeyType: f.key, Interval: true}
		if err := addSet(conn, set, f.prefixesOf(prefixes)); err != nil {
			return fmt.Errorf("set %s: %w", set.Name, err)
		}
	}
	conn.AddChain(chain)
	for _, r := range f.rules(s.FullyRandom) {
		conn.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: r.exprs, UserData: userdata.AppendString(nil, userdata.TypeComment, r.name)})
	}
	return nil
}

func addSet(conn *nftables.Conn, set *nftables.Set, prefixes []netip.Prefix) error {
	all := elements(prefixes)
	if err := conn.AddSet(set, nil); err != nil {
		return err
	}
	for chunk := range slices.Chunk(all, maxElements) {
		if err := conn.SetAddElements(set, chunk); err != nil {
			return err
		}
	}
	return nil
}

// remember notes the rules' handles. The kernel never changes a rule: whoever
// edits, moves or replaces one makes a new handle.
func (m *Masq) remember(conn *nftables.Conn) error {
	m.handles = map[bool][]uint64{}
	for _, f := range families {
		rules, err := listRules(conn, f)
		if err != nil {
			return fmt.Errorf("read masquerade rules: %w", err)
		}
		for _, r := range rules {
			m.handles[f.v6] = append(m.handles[f.v6], r.Handle)
		}
	}
	return nil
}

// intact tells whether rules and sets are as Set left them.
func (m *Masq) intact(conn *nftables.Conn) (bool, error) {
	for _, f := range families {
		rules, err := listRules(conn, f)
		if err != nil {
			return false, err
		}
		handles := make([]uint64, len(rules))
		for i, r := range rules {
			handles[i] = r.Handle
		}
		if !slices.Equal(handles, m.handles[f.v6]) {
			return false, nil
		}
		if len(handles) == 0 {
			continue
		}
		table, err := conn.ListTableOfFamily(tableName, f.table)
		if err != nil || table.Flags != 0 { // dormant: there, but without effect
			return false, err
		}
		same, err := sameSets(conn, f, *m.set)
		if err != nil || !same {
			return false, err
		}
	}
	return true, nil
}

func sameSets(conn *nftables.Conn, f family, s Settings) (bool, error) {
	table := &nftables.Table{Family: f.table, Name: tableName}
	for name, prefixes := range s.sets() {
		have, err := conn.GetSetElements(&nftables.Set{Table: table, Name: name, KeyType: f.key})
		if errors.Is(err, unix.ENOENT) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		// The kernel's list may begin with an end element at the zero address,
		// which means nothing.
		have = slices.DeleteFunc(have, func(e nftables.SetElement) bool {
			return e.IntervalEnd && !slices.ContainsFunc(e.Key, func(b byte) bool { return b != 0 })
		})
		byKey := func(a, b nftables.SetElement) int { return bytes.Compare(a.Key, b.Key) }
		slices.SortStableFunc(have, byKey)
		want := elements(f.prefixesOf(prefixes))
		if !slices.EqualFunc(have, want, func(a, b nftables.SetElement) bool {
			return bytes.Equal(a.Key, b.Key) && a.IntervalEnd == b.IntervalEnd
		}) {
			return false, nil
		}
	}
	return true, nil
}

// listRules returns the rules of our chain in their order; none if the table or
// the chain is gone, or is not a chain of ours any more.
func listRules(conn *nftables.Conn, f family) ([]*nftables.Rule, error) {
	table := &nftables.Table{Family: f.table, Name: tableName}
	rules, err := conn.GetRules(table, f.chain(table))
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return rules, err
}

// Counters returns what each rule has matched since New, in the rules' order.
func (m *Masq) Counters() ([]Counter, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	conn, err := open()
	if err != nil {
		return nil, fmt.Errorf("read masquerade counters: %w", err)
	}
	now, err := m.current(conn)
	if err != nil {
		return nil, fmt.Errorf("read masquerade counters: %w", err)
	}
	var all []Counter
	for _, name := range RuleNames() {
		all = append(all, Counter{Rule: name, Packets: m.past[name].Packets + now[name].Packets, Bytes: m.past[name].Bytes + now[name].Bytes})
	}
	return all, nil
}

// current reads the counters of the rules that are ours, by name.
func (m *Masq) current(conn *nftables.Conn) (map[string]Counter, error) {
	now := map[string]Counter{}
	for _, f := range families {
		rules, err := listRules(conn, f)
		if err != nil {
			return nil, err
		}
		for _, r := range rules {
			name, ok := userdata.GetString(r.UserData, userdata.TypeComment)
			if !ok || !slices.Contains(m.handles[f.v6], r.Handle) {
				continue
			}
			for _, e := range r.Exprs {
				if c, ok := e.(*expr.Counter); ok {
					now[name] = Counter{Packets: now[name].Packets + c.Packets, Bytes: now[name].Bytes + c.Bytes}
				}
			}
		}
	}
	return now, nil
}

// keepCounters saves the counters of rules that are about to go. What cannot be
// read, because somebody has deleted it, is lost with its rule.
func (m *Masq) keepCounters(conn *nftables.Conn) {
	now, err := m.current(conn)
	if err != nil {
		return
	}
	for name, c := range now {
		m.past[name] = Counter{Packets: m.past[name].Packets + c.Packets, Bytes: m.past[name].Bytes + c.Bytes}
	}
}

// CleanUp removes our tables, whoever made them, and tells whether there were
// any.
func CleanUp() (removed bool, err error) {
	conn, err := open()
	if err != nil {
		return false, fmt.Errorf("remove masquerade rules: %w", err)
	}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6, nftables.TableFamilyINet} {
		table, err := conn.ListTableOfFamily(tableName, family)
		switch {
		case errors.Is(err, unix.ENOENT):
			continue
		case err != nil:
			return false, fmt.Errorf("remove masquerade rules: %w", err)
		}
		removed = true
		conn.DelTable(table)
	}
	if err := conn.Flush(); err != nil {
		return false, fmt.Errorf("remove masquerade rules: %w", err)
	}
	return removed, nil
}
