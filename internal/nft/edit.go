package nft

import (
	"reflect"
	"slices"
)

// Edit turns the tables of the last Set or Edit into others by the elements that differ between the two,
// in one transaction. It reads nothing of the kernel's: a node that changes among 10,000 costs its own
// elements, while reading 20,000 back costs 50 ms. So what another program has changed besides stays as
// it is, and whoever calls Edit calls Set some time later.
//
// ok is false if nothing was changed: more than elements differs, or another program has removed
// what was to go, so that the kernel refuses. Then Set has to be called at once, which tells why.
func (k *Keeper) Edit(tables []Table) (ok bool) {
	if !k.began {
		return false
	}
	tables = inGeneration(tables, k.names)
	edits, ok := differing(k.have(), tables)
	if !ok || len(edits) == 0 {
		return ok
	}
	conn, err := k.connect()
	return err == nil && k.amend(conn, tables, edits) == nil
}

// differing returns which elements make tables others; ok is false if elements are not enough for that.
func differing(before, after []Table) (edits []edit, ok bool) {
	if len(before) != len(after) {
		return nil, false
	}
	for i, t := range after {
		was := before[i]
		if was.ID != t.ID || len(was.Sets) != len(t.Sets) || !reflect.DeepEqual(was.Chains, t.Chains) ||
			!slices.EqualFunc(was.Boxes, t.Boxes, Boxes.equal) {
			return nil, false
		}
		for j, s := range t.Sets {
			e, ok := s.since(was.Sets[j])
			if !ok {
				return nil, false
			}
			e.in = t.ID
			if len(e.gone)+len(e.fresh) > 0 {
				edits = append(edits, e)
			}
		}
	}
	return edits, true
}

// since returns what makes a set of before the wanted one. ok is false if elements are not enough: the
// set is another one, or has the ends of intervals, which depend on each other.
func (s Set) since(before Set) (e edit, ok bool) {
	if s.name != before.name || s.key != before.key || s.interval != before.interval ||
		s.concat != before.concat {
		return e, false
	}
	if s.interval {
		return e, slices.Equal(s.elements, before.elements)
	}
	e.of = s
	old, now := before.elements, s.elements
	for len(old) > 0 && len(now) > 0 { // both are in the order of their keys, each once
		switch order := byKey(old[0], now[0]); {
		case order < 0:
			e.gone, old = append(e.gone, old[0]), old[1:]
		case order > 0:
			e.fresh, now = append(e.fresh, now[0]), now[1:]
		default:
			old, now = old[1:], now[1:]
		}
	}
	e.gone, e.fresh = append(e.gone, old...), append(e.fresh, now...)
	return e, true
}
