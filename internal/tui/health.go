package tui

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/tui/cell"
)

// A problem is one line of what needs attention. The daemon judges; the pictures only show.
type problem struct {
	role    cell.Role // how bad: Bad, Warn, or Dim for what never changes the verdict
	word    string    // what kind, in seven cells: "DOWN", "drift"
	subject string    // whom it is about; empty: this node
	// text is made when it is shown: a mesh of thousands may have hundreds of problems, and a screen few lines.
	text func() string
}

// said is a text that is known already.
func said(text string) func() string { return func() string { return text } }

// Kinds of problems that this program knows more about than their sentence.
const (
	peerDown       = "peer_down"
	peerLoss       = "peer_loss"
	fileDiffers    = "file_differs"
	peerDrains     = "peer_drains"
	peerMaintained = "peer_maintained"
	ourMaintenance = "maintenance"
)

// fileKinds say why the file on disk is not in force.
var fileKinds = []string{"file_rejected", "last_good_file", "reload_pending", "file_unread"}

// levelRoles says how a level of the API looks.
var levelRoles = map[string]cell.Role{control.OK: cell.Good, control.Failed: cell.Bad,
	control.Degraded: cell.Warn, control.Info: cell.Dim}

// levelRole is how a level looks. One that this program does not know is from a newer daemon; it is shown as
// degraded.
func levelRole(level string) cell.Role {
	if role, ok := levelRoles[level]; ok {
		return role
	}
	return cell.Warn
}

// loud is a word as it is written in a role: capitals are for what has failed, and for nothing else.
func loud(role cell.Role, word string) string {
	if role == cell.Bad {
		return strings.ToUpper(word)
	}
	return strings.ToLower(word)
}

// stateOf is the state of a peer with its glyph. It is a word wherever there is room for one. In a
// maintenance that was announced, no state is an alarm.
func stateOf(p control.Peer) (glyph, word string, role cell.Role) {
	glyph, word, role = stateWord(p.State)
	if p.Drain != nil && role != cell.Dim {
		return glyph, strings.ToLower(word), cell.Accent
	}
	return glyph, word, role
}

// stateWord is a state with its glyph.
func stateWord(state string) (glyph, word string, role cell.Role) {
	switch state {
	case control.Up:
		return "●", "up", cell.Good
	case control.Draining:
		return "◇", "draining", cell.Accent
	case control.Stale:
		return "◐", "stale", cell.Warn
	case control.Silent:
		return "◐", "silent", cell.Warn
	case control.OneWay:
		return "■", "ONE-WAY", cell.Bad
	case control.Down:
		return "■", "DOWN", cell.Bad
	}
	return "?", "unknown", cell.Dim
}

// fileRole colours whether a peer runs the same file as this node.
func fileRole(p control.Peer) cell.Role {
	if drifts(&p) {
		return cell.Warn
	}
	return cell.Dim
}

// drifts tells whether a peer is known to run another file.
func drifts(p *control.Peer) bool { return p.ConfigMatch != nil && !*p.ConfigMatch }

// silent tells whether a peer does not answer any more.
func silent(p *control.Peer) bool { return p.State == control.Down || p.State == control.Stale }

// problems lists what is wrong, the worst first. All of it is in the status, so that
// `meshd status --json` has everything that is on the screen.
func problems(s *control.Status) []problem {
	all := slices.Concat(fileProblem(s), otherProblems(s))
	if !tellsHealth(s) {
		all = append(all, peerProblems(s)...)
	}
	urgency := map[cell.Role]int{cell.Bad: 0, cell.Warn: 1, cell.Dim: 2}
	slices.SortStableFunc(all, func(a, b problem) int { return cmp.Compare(urgency[a.role], urgency[b.role]) })
	return all
}

// tellsHealth tells whether the daemon judges itself: one of an older version has no such
// field, and a level is never empty.
func tellsHealth(s *control.Status) bool { return s.Health.Level != "" }

// fileProblem is a file on disk that cannot be applied. How bad that is, the daemon says;
// for one without health it is as bad as can be, since an edit has no effect. The problem has
// words of its own: the place of its first fault matters more than a sentence about it.
func fileProblem(s *control.Status) []problem {
	if s.Config.Error == "" {
		return nil
	}
	role := cell.Bad
	for _, p := range s.Health.Problems {
		if slices.Contains(fileKinds, p.Kind) {
			role = levelRole(p.Level)
		}
	}
	running := fmt.Sprintf("still running generation %d", s.Config.Generation)
	if s.Config.Source == control.SourceLastGood {
		running = "running the last good file"
	}
	return []problem{{role, loud(role, "file"), "", said(running + ": " + words.OneLine(s.Config.Error))}}
}

// otherProblems are what else the daemon says of itself. A daemon without health has
// warnings, whose sentences are shown as they are: one of them may repeat the fault of
// the file, and nothing in a sentence tells which.
func otherProblems(s *control.Status) (all []problem) {
	if !tellsHealth(s) {
		for _, warning := range s.Warnings {
			all = append(all, problem{cell.Warn, "warn", "", said(warning)})
		}
		return all
	}
	for _, p := range s.Health.Problems {
		if slices.Contains(fileKinds, p.Kind) && s.Config.Error != "" { // fileProblem has it
			continue
		}
		if p.Kind == ourMaintenance && s.Drain != nil { // it stands above all problems
			continue
		}
		role := levelRole(p.Level)
		all = append(all, problem{role, loud(role, words.Tag(p)), p.Peer, func() string { return textOf(s, p) }})
	}
	return all
}

// textOf is the text of a problem. Of a peer that the picture knows, figures say more than the
// sentence and its general remedy do.
func textOf(s *control.Status, p control.Problem) string {
	i, known := slices.BinarySearchFunc(s.Peers, p.Peer,
		func(one control.Peer, name string) int { return strings.Compare(one.Name, name) })
	switch {
	case !known:
	case p.Kind == peerDown, p.Kind == peerLoss:
		return silentText(s.Peers[i], s.Now)
	case p.Kind == peerDrains && s.Peers[i].Drain != nil:
		return words.Maintenance(*s.Peers[i].Drain, s.Now)
	case p.Kind == peerMaintained && s.Peers[i].Drain != nil:
		return silence(s.Peers[i], s.Now) + "   " + words.Maintenance(*s.Peers[i].Drain, s.Now)
	case p.Kind == fileDiffers:
		return driftText(s.Peers[i], s.Config.SHA256)
	}
	return words.Problem(p)
}

// silentText tells how long a peer has been silent, and what is behind it.
func silentText(p control.Peer, now time.Time) string {
	return silence(p, now) + "   " + p.Active() + "  " + strings.Join(p.Subnets, " ")
}

// driftText tells which file a peer runs.
func driftText(p control.Peer, ours string) string {
	return fmt.Sprintf("runs another mesh.toml: %.8s there, %.8s here", p.ConfigSHA256, ours)
}

// peerProblems judges peers in the place of a daemon without health: those that do not answer, and
// those that run another file. A peer may be both, and is then listed twice: each has another remedy.
func peerProblems(s *control.Status) (all []problem) {
	var some []control.Peer // mostly few: a mesh of thousands is not sorted for each picture
	for i := range s.Peers {
		if p := &s.Peers[i]; silent(p) || drifts(p) {
			some = append(some, *p)
		}
	}
	some = words.ByState(some)
	for _, p := range some {
		if silent(&p) {
			_, word, role := stateOf(p)
			all = append(all, problem{role, word, p.Name, said(silentText(p, s.Now))})
		}
	}
	for _, p := range some {
		if drifts(&p) {
			all = append(all, problem{cell.Warn, "drift", p.Name, said(driftText(p, s.Config.SHA256))})
		}
	}
	return all
}

// troubled are the peers that have a problem, the worst first: those that problems name, and those whose
// state is bad, since a problem may stand for a whole group.
func troubled(s *control.Status) (names []string) {
	known := map[string]bool{}
	add := func(name string) {
		if name != "" && !known[name] {
			known[name] = true
			names = append(names, name)
		}
	}
	for _, p := range problems(s) {
		if p.role != cell.Dim {
			add(p.subject)
		}
	}
	var some []control.Peer
	for _, p := range s.Peers {
		if _, _, role := stateOf(p); role == cell.Bad || role == cell.Warn {
			some = append(some, p)
		}
	}
	for _, p := range words.ByState(some) {
		add(p.Name)
	}
	return names
}

// worstPeer is the peer with the worst problem; empty if none has one.
func worstPeer(s *control.Status) string {
	if names := troubled(s); len(names) > 0 {
		return names[0]
	}
	return ""
}

// silence tells how long a peer has said nothing, and what is lost. now is the daemon's
// clock at its snapshot, since the peer's times are by it.
func silence(p control.Peer, now time.Time) string {
	text := "never heard"
	if p.LastSeen != nil {
		text = "last heard " + words.Span(now.Sub(*p.LastSeen)) + " ago"
	} else if p.Since != nil {
		text = "no reply for " + words.Span(now.Sub(*p.Since))
	}
	if p.Loss != nil && p.State != control.Down { // of one that is down it is all
		text += "   loss " + words.Percent(p.Loss)
	}
	return text
}
