package nft

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Where rules of a table that stays are replaced, the kernel publishes sets of ranges later than the rules of
// the same transaction: for a moment such a set is empty (nft_set_commit_update). Tables of an owner stay. So
// a transaction of their own makes these sets before, under names that the table does not have: the old rules
// look into the old sets, until others replace them all at once. The names of one generation of sets have one
// number in common, and those with number 0 have none.

// late tells whether the kernel publishes the set late.
func (s Set) late() bool { return s.interval }

// late tells whether the kernel publishes the set late.
func (b Boxes) late() bool { return b.shape.Ranges }

// lateNames returns the names of the table's sets that are published late.
func (t Table) lateNames() (names []string) {
	for _, s := range t.Sets {
		if s.late() {
			names = append(names, s.name)
		}
	}
	for _, b := range t.Boxes {
		if b.late() {
			names = append(names, b.name)
		}
	}
	return names
}

// numbered returns the table with another generation of sets of ranges. It shares what is the same.
func (t Table) numbered(n int) Table {
	late := t.lateNames()
	if n == 0 || len(late) == 0 {
		return t
	}
	rename := func(name string) string {
		if slices.Contains(late, name) {
			return fmt.Sprintf("%s.%d", name, n)
		}
		return name
	}
	t.Sets, t.Boxes, t.Chains = slices.Clone(t.Sets), slices.Clone(t.Boxes), slices.Clone(t.Chains)
	for i := range t.Sets {
		t.Sets[i].name = rename(t.Sets[i].name)
	}
	for i := range t.Boxes {
		t.Boxes[i].name = rename(t.Boxes[i].name)
	}
	for i := range t.Chains {
		t.Chains[i].Rules = slices.Clone(t.Chains[i].Rules)
		for j := range t.Chains[i].Rules {
			r := &t.Chains[i].Rules[j]
			r.Exprs = lookingInto(r.Exprs, rename)
		}
	}
	return t
}

// lookingInto returns expressions that look into sets of other names.
func lookingInto(e Exprs, rename func(string) string) Exprs {
	is := func(one expr.Any) bool { _, ok := one.(*expr.Lookup); return ok }
	if !slices.ContainsFunc(e, is) {
		return e
	}
	e = slices.Clone(e)
	for i, one := range e {
		if l, ok := one.(*expr.Lookup); ok {
			other := *l
			other.SetName = rename(l.SetName)
			e[i] = &other
		}
	}
	return e
}

// inGeneration returns tables with a generation of sets of ranges; never nil.
func inGeneration(tables []Table, n int) []Table {
	all := make([]Table, len(tables))
	for i, t := range tables {
		all[i] = t.numbered(n)
	}
	return all
}

// ahead makes the sets of ranges of tables that the owner has claimed, in a transaction of their own, and
// returns their generation.
func (o *owner) ahead(tables []Table) (n int, err error) {
	taken := map[ID][]*nftables.Set{}
	for _, t := range tables {
		if taken[t.ID], err = o.conn.GetSets(t.ID.table()); err != nil {
			return 0, err
		}
	}
	conflicts := func(t Table) bool {
		names := t.numbered(n).lateNames()
		is := func(s *nftables.Set) bool { return slices.Contains(names, s.Name) }
		return slices.ContainsFunc(taken[t.ID], is)
	}
	for slices.ContainsFunc(tables, conflicts) {
		n++
	}
	for _, t := range inGeneration(tables, n) {
		if err := t.addSets(o.conn, true); err != nil {
			return 0, err
		}
	}
	return n, o.conn.Flush()
}

// addSets adds to a transaction the sets that the kernel publishes late, or the others.
func (t Table) addSets(conn *nftables.Conn, late bool) error {
	for _, s := range t.Sets {
		if s.late() != late {
			continue
		}
		if err := s.add(conn, t.ID.table()); err != nil {
			return err
		}
	}
	for _, b := range t.Boxes {
		if b.late() != late {
			continue
		}
		if err := b.add(conn, t.ID.table()); err != nil {
			return err
		}
	}
	return nil
}
