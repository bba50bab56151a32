package words

import (
	"fmt"
	"strings"

	"example.org/meshd/internal/control"
)

// Changes counts changes by what they are about, in the order in which they are listed: "+1
// peer, ~2 peers". A setting goes by its key, "~1 probe.interval". Several fields of one subject
// are one change of it; the elements of a set, which have no subject, count each. more is how many
// changes the daemon did not list.
func Changes(details []control.Change, more int) string {
	type group struct{ op, name string } // what is counted together
	type thing struct {                  // what counts once, whatever number of its fields changed
		group
		subject string
	}
	var order []group // the daemon's, which is that of importance
	counts, seen := map[group]int{}, map[thing]bool{}
	for _, c := range details {
		g := group{c.Op, c.Kind}
		if c.Kind == control.SettingChange {
			g.name = c.Subject
		}
		if c.Field != "" && c.Subject != "" {
			t := thing{g, c.Subject}
			if seen[t] {
				continue
			}
			seen[t] = true
		}
		if counts[g] == 0 {
			order = append(order, g)
		}
		counts[g]++
	}
	var parts []string
	for _, g := range order {
		parts = append(parts, fmt.Sprintf("%s%d %s", g.op, counts[g], plural(g.name, counts[g])))
	}
	if more > 0 {
		parts = append(parts, fmt.Sprintf("%d more", more))
	}
	if len(parts) == 0 {
		return "nothing changed"
	}
	return strings.Join(parts, ", ")
}

// Reloaded says what a reload changed. A daemon older than Details only gives sentences, and
// these have no kinds: then it is their number.
func Reloaded(r control.Reload) string {
	if r.Details != nil || len(r.Changes) == 0 {
		return Changes(r.Details, r.More)
	}
	return Count(len(r.Changes), "change")
}

// plural returns the word for n of what a noun names, also one that only newer daemons know.
func plural(noun string, n int) string {
	switch {
	case n == 1:
		return noun
	case strings.HasSuffix(noun, "s"):
		return noun + "es"
	case strings.HasSuffix(noun, "ty"):
		return strings.TrimSuffix(noun, "y") + "ies"
	}
	return noun + "s"
}
