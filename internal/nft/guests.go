package nft

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Guests are rules of meshd's in base chains of other programs, at one hook. A comment marks
// them, so that a later run finds them without any state.
//
// New rules go in front of a chain's rules. Rules that another program inserts in front of them
// later keep their place: Guests replaces its rules where they are, or, if another program has
// removed them, puts them back behind the rules that were in front of them. Set and Remove belong
// to one goroutine; Stand may be called from any, and never waits for them.
type Guests struct {
	comment string
	hook    Hook

	chains map[chainKey]*hosted       // the chains that have rules of meshd's
	stands atomic.Pointer[[]chainKey] // the same, as the last Set left them
}

// hosted is the state of a chain that has rules of meshd's.
type hosted struct {
	ahead  []uint64 // handles of the rules in front of meshd's, when they were last seen
	native bool     // a chain of iptables, but the kernel has no xtables matches: use nftables' own
}

// chainKey identifies a chain among all tables.
type chainKey struct {
	family       nftables.TableFamily
	table, chain string
}

// A Place is a base chain of another program.
type Place struct {
	Families []Family // the families whose packets the chain sees, for use in its rules
	Drops    bool     // what no rule accepts is dropped: by its policy, or by its last rule
	IPTables bool     // rules must be in the form of iptables-nft, or that refuses the whole table
}

// NewGuests returns Guests for filter chains at a hook. It does not touch the kernel.
func NewGuests(comment string, hook *Hook) *Guests {
	return &Guests{comment: comment, hook: *hook, chains: map[chainKey]*hosted{}}
}

// Set asks want for the rules of every chain at the hook and makes each chain have them, in
// that order; no rules removes meshd's from a chain. A chain that is right is not touched.
// repaired is true if rules that Set had made earlier were missing or changed. Set needs
// CAP_NET_ADMIN. want may be called several times for a chain.
func (g *Guests) Set(want func(Place) []Exprs) (repaired bool, err error) {
	defer g.publish()
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

// visitAll makes every chain have its wanted rules, and forgets chains that are gone.
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

// Stand reports whether the last Set left rules of meshd's in a chain of that name.
func (g *Guests) Stand(table, chain string) bool {
	chains := g.stands.Load()
	return chains != nil && slices.ContainsFunc(*chains, func(key chainKey) bool {
		return key.table == table && key.chain == chain
	})
}

// publish lets Stand know which chains have rules of meshd's.
func (g *Guests) publish() {
	chains := slices.Collect(maps.Keys(g.chains))
	g.stands.Store(&chains)
}

// Remove removes the marked rules from all chains, also those of earlier runs, and reports
// whether it found any.
func (g *Guests) Remove() (removed bool, err error) {
	defer g.publish()
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

// visit makes one chain have its wanted rules. A kernel without xtables matches refuses the form
// of iptables-nft; then visit uses the form of nftables.
func (g *Guests) visit(conn *nftables.Conn, c *nftables.Chain, want func(Place) []Exprs) (bool, error) {
	rules, err := listRules(conn, c)
	if err != nil {
		return false, err
	}
	state := g.chains[keyOf(c)]
	made := state != nil
	if !made {
		state = &hosted{}
	}
	ours := g.ours(rules)
	ends, err := endsInDrop(conn, c, rules, maxJumps)
	if err != nil {
		return false, err
	}
	wanted := want(placeOf(c, ends, state.native))
	if slices.EqualFunc(ours, wanted, func(have *nftables.Rule, exprs Exprs) bool {
		return sameRule(have, Rule{Name: g.comment, Exprs: exprs})
	}) {
		state.ahead = ahead(rules, ours)
		g.note(c, state, len(wanted) > 0)
		return false, nil
	}
	behind := lastOfThese(rules, state.ahead)
	_, err = g.replace(conn, c, ours, wanted, behind)
	compat := placeOf(c, ends, false).IPTables && !state.native
	if compat && unknown(err) && !takes(conn, c.Table.Family, wanted) {
		state.native = true
		_, err = g.replace(conn, c, ours, want(placeOf(c, ends, true)), behind)
	}
	if errors.Is(err, unix.EPERM) && owned(conn, c.Table) {
		g.note(c, state, false)
		return false, nil
	}
	if err != nil {
		return false, err
	}
	g.note(c, state, len(wanted) > 0)
	return made && len(wanted) > 0, nil
}

// owned reports whether only the program that made a table can change it, such as firewalld with
// NftablesTableOwner=yes. What such a table drops is for that program's own settings.
func owned(conn *nftables.Conn, t *nftables.Table) bool {
	have, err := find(conn, ID{t.Family, t.Name})
	return err == nil && have.Flags&tableOwner != 0
}

// unknown reports whether the kernel refused a rule because it does not know an expression.
func unknown(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) }

// takes reports whether the kernel knows all that rules ask for: it takes them in a table of meshd's own,
// which
// is gone then. A rule of another program that was deleted a moment ago is ENOENT as well where meshd's are
// to
// go behind it, and then iptables-nft must find its own form in the chain.
func takes(conn *nftables.Conn, family nftables.TableFamily, rules []Exprs) bool {
	table := conn.AddTable(&nftables.Table{Family: family, Name: "meshd-try"})
	chain := conn.AddChain(&nftables.Chain{Table: table, Name: "try"})
	for _, exprs := range rules {
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
	}
	conn.DelTable(table) // in the same transaction: nothing of it is ever seen
	return conn.Flush() == nil
}

// note remembers a chain if it has rules of meshd's, and forgets it otherwise.
func (g *Guests) note(c *nftables.Chain, state *hosted, there bool) {
	if there {
		g.chains[keyOf(c)] = state
	} else {
		delete(g.chains, keyOf(c))
	}
}

// replace replaces ours, meshd's rules in a chain, by the wanted ones in one transaction. These
// go where the first of ours is. If there are none, they go behind the rule with the handle
// behind or, if that is 0, in front of all rules.
func (g *Guests) replace(conn *nftables.Conn, c *nftables.Chain, ours []*nftables.Rule, wanted []Exprs,
	behind uint64) (changed bool, err error) {
	rule := func(exprs Exprs, at uint64) *nftables.Rule {
		return &nftables.Rule{Table: c.Table, Chain: c, Exprs: exprs, UserData: comment(g.comment), Position: at}
	}
	switch {
	case len(ours) > 0:
		for _, exprs := range wanted {
			conn.InsertRule(rule(exprs, ours[0].Handle))
		}
	case behind != 0: // each rule goes right behind that one, so the last is added first
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

// ours returns the rules that have the comment and accept. What stores rules and puts them back, such as
// iptables-save, spells their conditions and their comment in another way, and may leave each rule twice.
// A rule that an administrator gave the same comment, but another verdict, is not meshd's.
func (g *Guests) ours(rules []*nftables.Rule) (marked []*nftables.Rule) {
	for _, r := range rules {
		if commentOf(r) == g.comment && accepts(r) {
			marked = append(marked, r)
		}
	}
	return marked
}

// accepts reports whether a rule ends in an accept.
func accepts(r *nftables.Rule) bool {
	if len(r.Exprs) == 0 {
		return false
	}
	verdict, ok := r.Exprs[len(r.Exprs)-1].(*expr.Verdict)
	return ok && verdict.Kind == expr.VerdictAccept
}

// ahead returns the handles of the rules in front of the first of ours.
func ahead(rules, ours []*nftables.Rule) (handles []uint64) {
	for _, r := range rules {
		if len(ours) == 0 || r.Handle == ours[0].Handle {
			break
		}
		handles = append(handles, r.Handle)
	}
	return handles
}

// lastOfThese returns the handle of the last rule whose handle is in the list; 0 if none is.
func lastOfThese(rules []*nftables.Rule, handles []uint64) (last uint64) {
	for _, r := range rules {
		if slices.Contains(handles, r.Handle) {
			last = r.Handle
		}
	}
	return last
}

// list returns the base chains of other programs at the hook.
func (g *Guests) list(conn *nftables.Conn) (found []*nftables.Chain, err error) {
	for _, family := range []nftables.TableFamily{
		nftables.TableFamilyIPv4, nftables.TableFamilyIPv6, nftables.TableFamilyINet,
	} {
		chains, err := conn.ListChainsOfTableFamily(family)
		if err != nil {
			return nil, err
		}
		for _, c := range chains {
			atHook := c.Hooknum != nil && *c.Hooknum == g.hook
			if atHook && c.Type == nftables.ChainTypeFilter && !Ours(c.Table.Name) {
				found = append(found, c)
			}
		}
	}
	return found, nil
}

// keyOf returns the key of a chain.
func keyOf(c *nftables.Chain) chainKey { return chainKey{c.Table.Family, c.Table.Name, c.Name} }

// placeOf describes a chain to the caller of Set. ends tells that its last rule drops the rest; native
// leaves out that iptables owns it.
func placeOf(c *nftables.Chain, ends, native bool) Place {
	p := Place{Drops: ends || c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop}
	switch c.Table.Family {
	case nftables.TableFamilyIPv4:
		p.Families = []Family{IPv4}
	case nftables.TableFamilyIPv6:
		p.Families = []Family{IPv6}
	default:
		p.Families = []Family{IPv4.InBoth(), IPv6.InBoth()}
	}
	// iptables-nft takes every chain of these names for its own (xtables_ipv4 in iptables/nft.c).
	name := c.Table.Name == "filter" && c.Name == "FORWARD"
	p.IPTables = name && c.Table.Family != nftables.TableFamilyINet && !native
	return p
}
