package tui

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/tui/cell"
)

// A problem is one thing that needs attention.
type problem struct {
	role    cell.Role
	word    string // what kind: "DOWN", "stale"
	subject string // whom it is about
	text    string
}

// severity orders problems, and states of peers.
var severity = map[string]int{control.Down: 0, control.Stale: 1, control.Unknown: 2, control.Up: 3}

// stateWord is a state with its glyph. It is a word wherever there is room for one.
func stateWord(state string) (glyph, word string, role cell.Role) {
	switch state {
	case control.Up:
		return "●", "up", cell.Good
	case control.Stale:
		return "◐", "stale", cell.Warn
	case control.Down:
		return "○", "DOWN", cell.Bad
	}
	return "?", "unknown", cell.Dim
}

// problems lists what is wrong, the worst first. All of it is in the status.
func problems(s *control.Status) (all []problem) {
	if s.Config.Error != "" {
		all = append(all, problem{cell.Bad, "FILE", "", fileWords(s)})
	}
	for _, w := range otherWarnings(s) {
		all = append(all, problem{cell.Warn, "WARN", "", w})
	}
	peers := byState(s.Peers)
	for _, p := range peers {
		if p.State == control.Down || p.State == control.Stale {
			_, word, role := stateWord(p.State)
			all = append(all, problem{role, word, p.Name, silence(p, s.Now) + "   " + p.Address + "  " + strings.Join(p.Subnets, " ")})
		}
	}
	for _, p := range peers {
		if p.ConfigMatch != nil && !*p.ConfigMatch {
			all = append(all, problem{cell.Warn, "DRIFT", p.Name, fmt.Sprintf("runs another mesh.toml: %.8s there, %.8s here", p.ConfigSHA256, s.Config.SHA256)})
		}
	}
	slices.SortStableFunc(all, func(a, b problem) int { return cmp.Compare(urgency[a.role], urgency[b.role]) })
	return all
}

// worst is the peer with the worst problem; empty if none has one.
func (m *Model) worst() string {
	if m.data.status != nil {
		for _, p := range problems(m.data.status) {
			if p.subject != "" {
				return p.subject
			}
		}
	}
	return ""
}

// otherWarnings are those that do not only repeat what is wrong with the file.
func otherWarnings(s *control.Status) (others []string) {
	for _, w := range s.Warnings {
		if s.Config.Error == "" || !strings.Contains(w, s.Config.Error) {
			others = append(others, w)
		}
	}
	return others
}

// urgency orders problems by role.
var urgency = map[cell.Role]int{cell.Bad: 0, cell.Warn: 1}

// fileWords tell of a file that cannot be applied.
func fileWords(s *control.Status) string {
	return fmt.Sprintf("still running generation %d: %s", s.Config.Generation, oneLine(s.Config.Error))
}

// oneLine makes one line of the lines of an error.
func oneLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) > 1 {
		return fmt.Sprintf("%s (and %d more)", lines[0], len(lines)-1)
	}
	return lines[0]
}

// silence tells how long a peer has said nothing, and what is lost.
func silence(p control.Peer, now time.Time) string {
	text := "never heard"
	if p.LastSeen != nil {
		text = "last heard " + span(now.Sub(*p.LastSeen)) + " ago"
	} else if p.Since != nil {
		text = "no reply for " + span(now.Sub(*p.Since))
	}
	if p.Loss != nil && p.State != control.Down {
		text += "   loss " + percent(p.Loss)
	}
	return text
}

func byState(peers []control.Peer) []control.Peer {
	sorted := slices.Clone(peers)
	slices.SortFunc(sorted, func(a, b control.Peer) int {
		return cmp.Or(cmp.Compare(severity[a.State], severity[b.State]), strings.Compare(a.Name, b.Name))
	})
	return sorted
}

// verdict says in one line whether the mesh is well.
func verdict(s *control.Status) cell.Line {
	if s.Node == "" {
		return cell.Styled(cell.Warn, "◐ STARTING").Add(cell.Plain, "  nothing is forwarded yet")
	}
	n := countStates(s.Peers)
	worst := cell.Good
	var words []string
	for _, p := range problems(s) {
		if worst == cell.Good || p.role == cell.Bad {
			worst = p.role
		}
		if p.word == "FILE" {
			words = append(words, "file rejected")
		}
	}
	if n.down > 0 {
		words = append(words, fmt.Sprintf("%d DOWN", n.down))
	}
	if n.stale > 0 {
		words = append(words, fmt.Sprintf("%d stale", n.stale))
	}
	if n.drift > 0 {
		words = append(words, fmt.Sprintf("%d drift", n.drift))
	}
	if others := otherWarnings(s); len(others) > 0 {
		words = append(words, count(len(others), "warning"))
	}
	if n.unknown > 0 {
		words = append(words, fmt.Sprintf("%d unknown", n.unknown))
		if worst == cell.Good {
			worst = cell.Warn
		}
	}
	switch worst {
	case cell.Good:
		return cell.Styled(cell.Good, "● WELL").Add(cell.Plain, fmt.Sprintf("  %d of %s up, the file is in force", n.up, count(len(s.Peers), "peer")))
	case cell.Bad:
		return cell.Styled(cell.Bad, "○ NOT WELL").Add(cell.Strong, "  "+strings.Join(words, " · "))
	}
	return cell.Styled(cell.Warn, "◐ LOOK").Add(cell.Strong, "  "+strings.Join(words, " · "))
}

// states counts peers.
type states struct{ up, stale, down, unknown, drift int }

func countStates(peers []control.Peer) (n states) {
	for _, p := range peers {
		switch p.State {
		case control.Up:
			n.up++
		case control.Stale:
			n.stale++
		case control.Down:
			n.down++
		default:
			n.unknown++
		}
		if p.ConfigMatch != nil && !*p.ConfigMatch {
			n.drift++
		}
	}
	return n
}
