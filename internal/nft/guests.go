package nft

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Guests are rules of ours in base chains of others, at one hook. A comment tells them from the rules
// of others, so they are found again without any state.
//
// They are put in front of a chain's rules when they are made. What another program inserts later
// stays where it is: ours are only ever replaced in place, or come back behind what stood in front of
// them. Methods may be called from any goroutine.
type Guests struct {
	comment string
	hook    Hook

	mu     sync.Mutex
	chains map[chainKey]*hosted
}

// hosted is what is known of a chain in which rules of ours stand.
type hosted struct {
	ahead  []uint64 // handles of others' rules in front of ours, when they were seen last
	native bool     // the kernel has no xtables matches, though the chain is one of iptables
}

// chainKey names a chain among all tables.
type chainKey struct {
	family       nftables.TableFamily
	table, chain string
}

// A Place is a base chain of others.
type Place struct {
	Families []Family // whose packets it sees, as rules in it have to be spelled
	Drops    bool     // its policy
	IPTables bool     // rules must be such as iptables-nft can read, or it refuses the whole table
}

// NewGuests returns Guests for chains of filters at a hook, which have not touched the kernel.
func NewGuests(comment string, hook *Hook) *Guests {
	return &Guests{comment: comment, hook: *hook, chains: map[chainKey]*hosted{}}
}

// Set puts rules into every chain, as want asks for, in its order; none takes ours out. It changes
// nothing where all is well. repaired tells that rules that it had made were gone or changed. It
// needs CAP_NET_ADMIN.
func (g *Guests) Set(want func(Place) []Exprs) (repaired bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	conn, err := open()
	if err != nil {
		return false, err
	}
	err = again(func() error {
		some, err := g.visitAll(conn, want)
		repaired = repaired || some
		return err
	})
	return repaired, err
}

// visitAll makes every chain have what is wanted there.
func (g *Guests) visitAll(conn *nftables.Conn, want func(Place) []Exprs) (repaired bool, err error) {
	chains, err := g.list(conn)
	if err != nil {
		return false, err
	}
	seen := map[chainKey]bool{}
	for _, c := range chains {
		seen[keyOf(c)] = true
		again, err := g.visit(conn, c, want)
		if err != nil {
			return repaired, fmt.Errorf("chain %s %s: %w", c.Table.Name, c.Name, err)
		}
		repaired = repaired || again
	}
	for key := range g.chains {
		if !seen[key] {
			delete(g.chains, key)
		}
	}
	return repaired, nil
}

// Stand tells whether rules of ours are in a chain of that name.
func (g *Guests) Stand(table, chain string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for key := range g.chains {
		if key.table == table && key.chain == chain {
			return true
		}
	}
	return false
}

// Remove takes our rules out of all chains, whoever made them, and tells whether there were any.
func (g *Guests) Remove() (removed bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.chains)
	conn, err := open()
	if err != nil {
		return false, err
	}
	chains, err := g.list(conn)
	if err != nil {
		return false, err
	}
	for _, c := range chains {
		rules, err := listRules(conn, c)
		if err != nil {
			return removed, fmt.Errorf("chain %s %s: %w", c.Table.Name, c.Name, err)
		}
		some, err := g.replace(conn, c, g.ours(rules), nil, 0)
		if err != nil {
			return removed, fmt.Errorf("chain %s %s: %w", c.Table.Name, c.Name, err)
		}
		removed = removed || some
	}
	return removed, nil
}

// visit makes one chain have what is wanted there.
func (g *Guests) visit(conn *nftables.Conn, c *nftables.Chain, want func(Place) []Exprs) (repaired bool, err error) {
	rules, err := listRules(conn, c)
	if err != nil {
		return false, err
	}
	state := g.chains[keyOf(c)]
	made := state != nil
	if !made {
		state = &hosted{}
	}
	wanted := want(placeOf(c, state.native))
	ours := g.ours(rules)
	if slices.EqualFunc(ours, wanted, func(have *nftables.Rule, exprs Exprs) bool {
		return sameRule(have, Rule{Name: g.comment, Exprs: exprs})
	}) {
		state.ahead = ahead(rules, ours)
		g.note(c, state, len(wanted) > 0)
		return false, nil
	}
	behind := lastOfThese(rules, state.ahead)
	_, err = g.replace(conn, c, ours, wanted, behind)
	if compat := placeOf(c, false).IPTables && !state.native; compat && unknown(err) {
		state.native = true
		_, err = g.replace(conn, c, ours, want(placeOf(c, true)), behind)
	}
	if err != nil {
		return false, err
	}
	g.note(c, state, len(wanted) > 0)
	return made && len(wanted) > 0, nil
}

// unknown tells whether the kernel refused an expression that it does not know.
func unknown(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) }

func (g *Guests) note(c *nftables.Chain, state *hosted, there bool) {
	if there {
		g.chains[keyOf(c)] = state
	} else {
		delete(g.chains, keyOf(c))
	}
}

// replace takes rules of ours out and puts others in, in one transaction: where the first of ours
// stands, else behind a rule with a handle, else, where that is 0, in front of all.
func (g *Guests) replace(conn *nftables.Conn, c *nftables.Chain, ours []*nftables.Rule, wanted []Exprs, behind uint64) (changed bool, err error) {
	rule := func(exprs Exprs, at uint64) *nftables.Rule {
		return &nftables.Rule{Table: c.Table, Chain: c, Exprs: exprs, UserData: comment(g.comment), Position: at}
	}
	switch {
	case len(ours) > 0:
		for _, exprs := range wanted {
			conn.InsertRule(rule(exprs, ours[0].Handle))
		}
	case behind != 0: // each goes right behind it, so the last comes first
		for _, exprs := range slices.Backward(wanted) {
			conn.AddRule(rule(exprs, behind))
		}
	default:
		for _, exprs := range slices.Backward(wanted) {
			conn.InsertRule(rule(exprs, 0))
		}
	}
	for _, r := range ours {
		if err := conn.DelRule(r); err != nil {
			return false, err
		}
	}
	return len(ours)+len(wanted) > 0, conn.Flush()
}

// ours returns the rules that carry our comment.
func (g *Guests) ours(rules []*nftables.Rule) (marked []*nftables.Rule) {
	for _, r := range rules {
		if commentOf(r) == g.comment {
			marked = append(marked, r)
		}
	}
	return marked
}

// ahead returns the handles of the rules in front of ours.
func ahead(rules, ours []*nftables.Rule) (handles []uint64) {
	for _, r := range rules {
		if len(ours) == 0 || r.Handle == ours[0].Handle {
			break
		}
		handles = append(handles, r.Handle)
	}
	return handles
}

// lastOfThese returns the handle of the last rule that has one of the handles; 0 if none has.
func lastOfThese(rules []*nftables.Rule, handles []uint64) (last uint64) {
	for _, r := range rules {
		if slices.Contains(handles, r.Handle) {
			last = r.Handle
		}
	}
	return last
}

// list returns the chains that may host us.
func (g *Guests) list(conn *nftables.Conn) (found []*nftables.Chain, err error) {
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6, nftables.TableFamilyINet} {
		chains, err := conn.ListChainsOfTableFamily(family)
		if err != nil {
			return nil, err
		}
		for _, c := range chains {
			if c.Hooknum != nil && *c.Hooknum == g.hook && c.Type == nftables.ChainTypeFilter && !Ours(c.Table.Name) {
				found = append(found, c)
			}
		}
	}
	return found, nil
}

func keyOf(c *nftables.Chain) chainKey { return chainKey{c.Table.Family, c.Table.Name, c.Name} }

func placeOf(c *nftables.Chain, native bool) Place {
	p := Place{Drops: c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop}
	switch c.Table.Family {
	case nftables.TableFamilyIPv4:
		p.Families = []Family{IPv4}
	case nftables.TableFamilyIPv6:
		p.Families = []Family{IPv6}
	default:
		p.Families = []Family{IPv4.InBoth(), IPv6.InBoth()}
	}
	// iptables-nft knows its chains by these names (xtables_ipv4 in iptables/nft.c).
	p.IPTables = c.Table.Family != nftables.TableFamilyINet && c.Table.Name == "filter" && c.Name == "FORWARD" && !native
	return p
}
