package nft

import (
	"errors"
	"reflect"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// This file compares the kernel's tables with the wanted ones.

// compare returns what makes the kernel's tables the wanted ones, element by element; ok is false if more
// than elements differs.
func (k *Keeper) compare(conn *nftables.Conn, tables []Table) (edits []edit, ok bool, err error) {
	before := k.have()
	for _, id := range k.ids {
		have, err := find(conn, id)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, false, err
		}
		is := func(t Table) bool { return t.ID == id }
		i := slices.IndexFunc(tables, is)
		switch {
		case i < 0 && (err != nil || !slices.ContainsFunc(before, is)):
			// Not wanted, and either missing or never made by this Keeper: the next change removes it.
			// Rules of meshd's do not depend on it.
			continue
		case i < 0, err != nil:
			return nil, false, nil
		case flagsOf(have) != k.flags(): // a dormant table has no effect
			return nil, false, nil
		}
		more, ok, err := tables[i].compare(conn)
		if err != nil || !ok {
			return nil, false, err
		}
		edits = append(edits, more...)
	}
	return edits, true, nil
}

// flags returns those of the Keeper's tables.
func (k *Keeper) flags() uint32 {
	if k.owns {
		return tableOwner | tablePersist
	}
	return 0
}

// compare reports whether the kernel's table has the wanted sets and chains, and no other chains, and
// returns what differs in elements. A further set has no effect, so it does not count.
func (t Table) compare(conn *nftables.Conn) (edits []edit, ok bool, err error) {
	table := t.ID.table()
	all, err := conn.ListChainsOfTableFamily(t.ID.family)
	if err != nil {
		return nil, false, err
	}
	chains := map[string]*nftables.Chain{}
	for _, c := range all {
		if c.Table.Name == t.ID.name {
			chains[c.Name] = c
		}
	}
	if len(chains) != len(t.Chains) {
		return nil, false, nil
	}
	for _, c := range t.Chains {
		if !c.sameAs(chains[c.Name]) {
			return nil, false, nil
		}
		rules, err := listRules(conn, c.in(table))
		if err != nil || !slices.EqualFunc(rules, c.Rules, sameRule) {
			return nil, false, err
		}
	}
	for _, b := range t.Boxes {
		if same, err := b.compare(t.ID); err != nil || !same {
			return nil, false, err
		}
	}
	for _, s := range t.Sets {
		e, ok, err := s.compare(t.ID)
		if err != nil || !ok {
			return nil, false, err
		}
		if e != nil {
			edits = append(edits, *e)
		}
	}
	return edits, true, nil
}

// sameAs reports whether a chain of the kernel has the wanted type, hook, priority and policy;
// nil has not.
func (c Chain) sameAs(have *nftables.Chain) bool {
	if have == nil || c.Hook == nil || have.Hooknum == nil {
		return have != nil && c.Hook == nil && have.Hooknum == nil
	}
	return have.Type == c.Type && *have.Hooknum == *c.Hook &&
		have.Priority != nil && *have.Priority == c.Priority &&
		(have.Policy == nil || *have.Policy == nftables.ChainPolicyAccept)
}

// sameRule reports whether a rule of the kernel is the wanted one, whatever it has counted.
func sameRule(have *nftables.Rule, want Rule) bool {
	if commentOf(have) != want.Name || len(have.Exprs) != len(want.Exprs) {
		return false
	}
	for i := range have.Exprs {
		if !reflect.DeepEqual(plain(have.Exprs[i]), plain(want.Exprs[i])) {
			return false
		}
	}
	return true
}

// plain returns an expression in a form that can be compared: without what the kernel adds when
// it lists a rule. That are counts, the number of a set, and the upper end of a range of one
// address (nft_nat_dump).
func plain(e expr.Any) any {
	switch e := e.(type) {
	case *expr.Counter:
		return &expr.Counter{}
	case *expr.Lookup:
		l := *e
		l.SetID = 0
		return &l
	case *expr.NAT:
		n := *e
		if n.RegAddrMax == n.RegAddrMin {
			n.RegAddrMax = 0
		}
		return &n
	case *expr.Match: // compared as bytes: equal ones can be parsed into different Go values
		info, err := xt.Marshal(xt.TableFamily(unix.NFPROTO_IPV4), e.Rev, e.Info)
		return struct {
			name string
			info string
			ok   bool
		}{e.Name, string(info), err == nil}
	}
	return e
}

// commentOf returns a rule's comment; empty if it has none. iptables-nft keeps comments in a match
// of xtables. Any program may have written the bytes: damaged ones have no comment.
func commentOf(r *nftables.Rule) string {
	for data := r.UserData; len(data) >= 2; {
		kind, length := data[0], int(data[1])
		if len(data) < 2+length {
			break
		}
		if userdata.Type(kind) == userdata.TypeComment {
			return strings.TrimRight(string(data[2:2+length]), "\x00")
		}
		data = data[2+length:]
	}
	for _, e := range r.Exprs {
		if m, ok := e.(*expr.Match); ok && m.Name == "comment" {
			if text, ok := m.Info.(*xt.Comment); ok {
				return string(*text)
			}
		}
	}
	return ""
}

// again repeats a reading until it succeeds, at most five times. A chain that one message has
// listed may be gone when the next one asks for its rules, and the library hides the kernel's
// error, so all errors are retried.
func again(read func() error) (err error) {
	for range 5 {
		if err = read(); err == nil {
			return nil
		}
	}
	return err
}

// listRules returns the rules of a chain in their order; none if the chain does not exist.
func listRules(conn *nftables.Conn, c *nftables.Chain) ([]*nftables.Rule, error) {
	rules, err := conn.GetRules(c.Table, c)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return rules, err
}
