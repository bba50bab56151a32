package masq

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// Forwarding. An accept in a chain of our own cannot beat a chain that drops:
// every base chain at a hook must let a packet pass. So the accept has to stand
// in the very chain whose policy is drop, and before its other rules. These are
// the only rules of ours in tables of others. They carry a comment, by which
// they are found again without any state:
//
//	chain FORWARD { type filter hook forward priority filter; policy drop;
//		iifname "mesh0" counter accept comment "meshd"
//		oifname "mesh0" counter accept comment "meshd"
//		ip saddr 10.244.0.0/16 counter accept comment "meshd"
//		ip daddr 10.244.0.0/16 counter accept comment "meshd"
//		... rules of others

// forwardComment marks our rules in chains of others.
const forwardComment = "meshd"

// ForwardSettings is which forwarded packets must pass: all that go through the
// interface, and all from and to the prefixes.
type ForwardSettings struct {
	Interface string
	Prefixes  []netip.Prefix
}

// Forward keeps accept rules in chains that drop. Its methods may be called from
// any goroutine.
type Forward struct {
	mu     sync.Mutex
	chains map[chainKey][]uint64 // handles of our rules by the chain they stand in
}

// chainKey names a chain among all tables.
type chainKey struct {
	family       nftables.TableFamily
	table, chain string
}

func (k chainKey) String() string { return k.table + " " + k.chain }

// NewForward returns a Forward that has not touched the kernel.
func NewForward() *Forward { return &Forward{chains: map[chainKey][]uint64{}} }

// Set puts our rules first into every chain that drops forwarded packets by its
// policy, and takes them out of chains that do not any more. It changes nothing
// where all is well. repaired tells that rules it had made were gone or moved.
func (f *Forward) Set(s ForwardSettings) (repaired bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	conn, err := open()
	if err != nil {
		return false, fmt.Errorf("set forward rules: %w", err)
	}
	dropping, others, err := forwardChains(conn)
	if err != nil {
		return false, fmt.Errorf("find chains that drop: %w", err)
	}
	for _, c := range dropping {
		again, err := f.ensure(conn, c, s)
		if err != nil {
			return repaired, fmt.Errorf("accept pod traffic in chain %s: %w", keyOf(c), err)
		}
		repaired = repaired || again
	}
	for _, c := range others {
		if _, err := removeAccepts(conn, c); err != nil {
			return repaired, err
		}
		delete(f.chains, keyOf(c))
	}
	return repaired, nil
}

// standsIn tells whether rules of ours are in a chain of that name.
func (f *Forward) standsIn(table, chain string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k := range f.chains {
		if k.table == table && k.chain == chain {
			return true
		}
	}
	return false
}

// ensure puts our rules first into one chain, if they are not there already.
func (f *Forward) ensure(conn *nftables.Conn, c *nftables.Chain, s ForwardSettings) (repaired bool, err error) {
	rules, err := conn.GetRules(c.Table, c)
	if err != nil {
		return false, err
	}
	wanted := acceptRules(c.Table.Family, s)
	var handles []uint64
	for _, r := range rules[:min(len(wanted), len(rules))] {
		handles = append(handles, r.Handle)
	}
	known, made := f.chains[keyOf(c)]
	if made && slices.Equal(handles, known) {
		return false, nil
	}
	// One transaction: ours out, wherever they are, and in again in front. Each
	// goes before all others, so the last comes first.
	for _, r := range ours(rules) {
		if err := conn.DelRule(r); err != nil {
			return false, err
		}
	}
	for _, exprs := range slices.Backward(wanted) {
		conn.InsertRule(&nftables.Rule{Table: c.Table, Chain: c, Exprs: exprs,
			UserData: userdata.AppendString(nil, userdata.TypeComment, forwardComment)})
	}
	if err := conn.Flush(); err != nil {
		return false, err
	}
	if rules, err = conn.GetRules(c.Table, c); err != nil {
		return false, err
	}
	handles = nil
	for _, r := range ours(rules) {
		handles = append(handles, r.Handle)
	}
	f.chains[keyOf(c)] = handles
	return made, nil
}

// Remove takes our rules out of all chains.
func (f *Forward) Remove() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.chains)
	_, err := CleanUpForward()
	return err
}

// CleanUpForward removes our accept rules from all chains, whoever made them, and
// tells whether there were any.
func CleanUpForward() (removed bool, err error) {
	conn, err := open()
	if err != nil {
		return false, fmt.Errorf("remove forward rules: %w", err)
	}
	dropping, others, err := forwardChains(conn)
	if err != nil {
		return false, fmt.Errorf("remove forward rules: %w", err)
	}
	for _, c := range slices.Concat(dropping, others) {
		some, err := removeAccepts(conn, c)
		if err != nil {
			return removed, err
		}
		removed = removed || some
	}
	return removed, nil
}

func removeAccepts(conn *nftables.Conn, c *nftables.Chain) (removed bool, err error) {
	rules, err := conn.GetRules(c.Table, c)
	if errors.Is(err, unix.ENOENT) { // deleted since it was listed
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read chain %s: %w", keyOf(c), err)
	}
	for _, r := range ours(rules) {
		if err := conn.DelRule(r); err != nil {
			return false, err
		}
		removed = true
	}
	if err := conn.Flush(); err != nil {
		return false, fmt.Errorf("remove forward rules from %s: %w", keyOf(c), err)
	}
	return removed, nil
}

// ours returns the rules that carry our comment.
func ours(rules []*nftables.Rule) (marked []*nftables.Rule) {
	for _, r := range rules {
		if comment, ok := userdata.GetString(r.UserData, userdata.TypeComment); ok && comment == forwardComment {
			marked = append(marked, r)
		}
	}
	return marked
}

// forwardChains returns the filter chains at the forward hook: those that drop
// by policy and the others.
func forwardChains(conn *nftables.Conn) (dropping, others []*nftables.Chain, err error) {
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6, nftables.TableFamilyINet} {
		chains, err := conn.ListChainsOfTableFamily(family)
		if err != nil {
			return nil, nil, err
		}
		for _, c := range chains {
			if c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookForward || c.Type != nftables.ChainTypeFilter || c.Table.Name == tableName {
				continue
			}
			if c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
				dropping = append(dropping, c)
			} else {
				others = append(others, c)
			}
		}
	}
	return dropping, others, nil
}

func keyOf(c *nftables.Chain) chainKey { return chainKey{c.Table.Family, c.Table.Name, c.Name} }

// acceptRules returns the expressions of our rules for a chain of one family.
// They are those that iptables-nft writes for -i, -o, -s and -d, so that it can
// still read a chain of its own.
func acceptRules(table nftables.TableFamily, s ForwardSettings) (rules [][]expr.Any) {
	rules = append(rules, accept(interfaceIs(expr.MetaKeyIIFNAME, s.Interface)), accept(interfaceIs(expr.MetaKeyOIFNAME, s.Interface)))
	for _, f := range families {
		if table != nftables.TableFamilyINet && table != f.table {
			continue
		}
		for _, p := range f.prefixesOf(s.Prefixes) {
			for _, offset := range []uint32{f.saddr, f.daddr} {
				match := f.inside(offset, p)
				if table == nftables.TableFamilyINet {
					match = join(f.isFamily(), match)
				}
				rules = append(rules, accept(match))
			}
		}
	}
	return rules
}

func accept(match []expr.Any) []expr.Any { return join(match, verdict(expr.VerdictAccept)) }

func interfaceIs(key expr.MetaKey, name string) []expr.Any {
	return []expr.Any{
		// [ meta load iifname => reg 1 ]
		&expr.Meta{Key: key, Register: 1},
		// [ cmp eq reg 1 "mesh0" ], compared up to the terminating zero
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte(name), 0)},
	}
}

// inside matches packets whose address at an offset is in one prefix.
func (f family) inside(offset uint32, p netip.Prefix) []expr.Any {
	mask := bytes.Repeat([]byte{0xff}, int(f.length))
	for bit := p.Bits(); bit < len(mask)*8; bit++ {
		mask[bit/8] &^= 0x80 >> (bit % 8)
	}
	return []expr.Any{
		// [ payload load 4b @ network header + 12 => reg 1 ]
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.length},
		// [ bitwise reg 1 = ( reg 1 & 0x0000ffff ) ^ 0x00000000 ]
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: f.length, Mask: mask, Xor: make([]byte, f.length)},
		// [ cmp eq reg 1 0x0000f40a ]
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Addr().AsSlice()},
	}
}

// isFamily matches packets of one family in a table of both.
func (f family) isFamily() []expr.Any {
	number := byte(unix.NFPROTO_IPV4)
	if f.v6 {
		number = unix.NFPROTO_IPV6
	}
	return []expr.Any{
		// [ meta load nfproto => reg 1 ]
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		// [ cmp eq reg 1 0x00000002 ]
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{number}},
	}
}
