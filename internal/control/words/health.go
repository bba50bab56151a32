package words

import (
	"fmt"
	"strings"

	"example.org/meshd/internal/control"
)

// Health lists what an operator has to know, a line for each: the level of the node, then each
// problem with what to do about it, in the daemon's order, which is the worst first. A daemon
// older than Health has only sentences, and these have no level.
func Health(h control.Health, warnings []string) []string {
	if h.Level == "" {
		lines := make([]string, 0, len(warnings))
		for _, w := range warnings {
			lines = append(lines, "! "+indent(w))
		}
		return lines
	}
	lines := []string{"health   " + strings.ToUpper(h.Level)}
	for _, p := range h.Problems {
		lines = append(lines, problem(p)...)
	}
	return lines
}

// problem writes a problem as "! LEVEL KIND PEER: TEXT", and its remedy on a line of its own, since
// it often is a command to copy.
func problem(p control.Problem) []string {
	about := p.Kind
	if p.Peer != "" {
		about += " " + p.Peer
	}
	// A text may have several lines, such as the faults of a file. Indented, none of them looks
	// like the next problem.
	lines := []string{fmt.Sprintf("! %s %s: %s", p.Level, about, indent(p.Text))}
	if p.Remedy != "" {
		lines = append(lines, "  remedy: "+p.Remedy)
	}
	return lines
}

// indent puts the lines after the first below it.
func indent(text string) string { return strings.ReplaceAll(text, "\n", "\n  ") }
