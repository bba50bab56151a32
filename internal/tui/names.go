package tui

import (
	"strings"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/tui/cell"
)

// names is how the names of a mesh's peers are shown in a table: without the suffix that all of them share,
// such as the domain of a cloud. The title of the table has it, once.
type names struct {
	suffix string // begins with a dot; empty: they share none
	widest int    // cells of the widest name without it
}

// widestName is how many cells a name has at most: a figure beside it is worth more than its middle.
const widestName = 32

// namesOf looks at all names of a mesh, also at those that a filter hides: columns must not move with it.
func namesOf(peers []control.Peer) names {
	n := names{}
	if len(peers) > 1 {
		n.suffix = peers[0].Name
	}
	for _, p := range peers {
		for n.suffix != "" && (!strings.HasSuffix(p.Name, n.suffix) || len(p.Name) == len(n.suffix)) {
			n.suffix = parent(n.suffix)
		}
	}
	for _, p := range peers {
		n.widest = max(n.widest, cell.Width(n.short(p.Name)))
	}
	return n
}

// parent is a name from its second dot on, or from its first one if it begins with another letter; empty if
// there is none.
func parent(name string) string {
	if name == "" {
		return ""
	}
	if i := strings.IndexByte(name[1:], '.'); i >= 0 {
		return name[1+i:]
	}
	return ""
}

// short is a name as the table shows it.
func (n names) short(name string) string { return strings.TrimSuffix(name, n.suffix) }

// width is how many cells the names need, and one that sets them apart from what follows.
func (n names) width() int { return max(4, min(n.widest, widestName)) + 1 }

// title is what the title of a table says of the names: " · *.example.org"; empty if they share nothing.
func (n names) title() string {
	if n.suffix == "" {
		return ""
	}
	return " · *" + n.suffix
}
