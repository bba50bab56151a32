package migrate

import (
	"fmt"
	"strings"
	"unicode"
)

// losses are what could not be carried over, in the order of the input. What many hosts lose for one
// reason is one note, which names some of them: their names are final only when all are known.
type losses struct {
	all   []*loss
	known map[loss]*loss // without hosts
}

// A loss is one thing that is lost, and of whom.
type loss struct {
	what, why string
	hosts     *[]int // numbers of nodes; nil: the loss is of the whole mesh
}

// mesh adds a loss of the whole mesh. The sentence is formatted as by fmt.Sprintf.
func (l *losses) mesh(format string, args ...any) { l.add(loss{what: fmt.Sprintf(format, args...)}) }

// of adds what one host loses; why may be empty. host is the node's place in the draft's list before
// the draft is finished.
func (l *losses) of(host int, what, why string) {
	lost := l.add(loss{what: what, why: why})
	if lost.hosts == nil {
		lost.hosts = &[]int{}
	}
	if n := len(*lost.hosts); n == 0 || (*lost.hosts)[n-1] != host {
		*lost.hosts = append(*lost.hosts, host)
	}
}

// add returns the loss that is equal to one, which is added unless it is there.
func (l *losses) add(lost loss) *loss {
	if l.known == nil {
		l.known = map[loss]*loss{}
	}
	if known := l.known[lost]; known != nil {
		return known
	}
	fresh := lost
	l.known[lost] = &fresh
	l.all = append(l.all, &fresh)
	return &fresh
}

// notes returns a sentence for each loss. Each becomes one line of comment, so control characters
// from the input become blanks.
func (l *losses) notes(nodes []Node) (notes []string) {
	for i, lost := range l.all {
		if i == maxNotes {
			return append(notes, fmt.Sprintf("%d more things", len(l.all)-i))
		}
		sentence := lost.what
		if lost.hosts != nil {
			sentence += " of " + names(*lost.hosts, nodes)
		}
		if lost.why != "" {
			sentence += ": " + lost.why
		}
		notes = append(notes, strings.Map(func(r rune) rune {
			if unicode.IsControl(r) {
				return ' '
			}
			return r
		}, sentence))
	}
	return notes
}

// names lists the names of hosts, at most three of them.
func names(hosts []int, nodes []Node) string {
	const most = 3
	var all []string
	for i, host := range hosts {
		if i == most && len(hosts) > most+1 {
			return fmt.Sprintf("%s and %d more", strings.Join(all, ", "), len(hosts)-most)
		}
		all = append(all, nodes[host].Name)
	}
	if last := len(all) - 1; last > 0 {
		return strings.Join(all[:last], ", ") + " and " + all[last]
	}
	return all[0]
}
