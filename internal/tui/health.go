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
	word    string    // what kind, in six cells: "DOWN", "DRIFT"
	subject string    // whom it is about; empty: this node
	text    string
}

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

// kindWords are kinds that have a word of their own in the place of their level.
var kindWords = map[string]string{peerDown: "DOWN", peerLoss: "LOSS", fileDiffers: "DRIFT",
	peerDrains: "DRAIN", peerMaintained: "MAINT"}

// levels says how a level of the API looks. A level that this program does not know is
// from a newer daemon; it is shown as degraded.
var levels = map[string]struct {
	role cell.Role
	word string
}{
	control.Failed:   {cell.Bad, "FAILED"},
	control.Degraded: {cell.Warn, "WARN"},
	control.Info:     {cell.Dim, "INFO"},
}

// levelOf is how a level looks.
func levelOf(level string) (cell.Role, string) {
	if l, ok := levels[level]; ok {
		return l.role, l.word
	}
	return cell.Warn, "WARN"
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
		return "○", "one-way", cell.Bad
	case control.Down:
		return "○", "DOWN", cell.Bad
	}
	return "?", "unknown", cell.Dim
}

// fileRole colours whether a peer runs the same file as this node.
func fileRole(p control.Peer) cell.Role {
	if drifts(p) {
		return cell.Warn
	}
	return cell.Dim
}

// drifts tells whether a peer is known to run another file.
func drifts(p control.Peer) bool { return p.ConfigMatch != nil && !*p.ConfigMatch }

// silent tells whether a peer does not answer any more.
func silent(p control.Peer) bool { return p.State == control.Down || p.State == control.Stale }

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
			role, _ = levelOf(p.Level)
		}
	}
	running := fmt.Sprintf("still running generation %d", s.Config.Generation)
	if s.Config.Source == control.SourceLastGood {
		running = "running the last good file"
	}
	text := running + ": " + words.OneLine(s.Config.Error)
	return []problem{{role, "FILE", "", text}}
}

// otherProblems are what else the daemon says of itself. A daemon without health has
// warnings, whose sentences are shown as they are: one of them may repeat the fault of
// the file, and nothing in a sentence tells which.
func otherProblems(s *control.Status) (all []problem) {
	if !tellsHealth(s) {
		for _, warning := range s.Warnings {
			all = append(all, problem{cell.Warn, "WARN", "", warning})
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
		role, word := levelOf(p.Level)
		if w := kindWords[p.Kind]; w != "" {
			word = w
		}
		all = append(all, problem{role, word, p.Peer, textOf(s, p)})
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
	for _, p := range s.Peers {
		if silent(p) || drifts(p) {
			some = append(some, p)
		}
	}
	some = words.ByState(some)
	for _, p := range some {
		if silent(p) {
			_, word, role := stateOf(p)
			all = append(all, problem{role, word, p.Name, silentText(p, s.Now)})
		}
	}
	for _, p := range some {
		if drifts(p) {
			all = append(all, problem{cell.Warn, "DRIFT", p.Name, driftText(p, s.Config.SHA256)})
		}
	}
	return all
}

// worstPeer is the peer with the worst problem; empty if none has one.
func worstPeer(s *control.Status) string {
	for _, p := range problems(s) {
		if p.subject != "" {
			return p.subject
		}
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

// verdict says in one line how the mesh is, as this node sees it: OK, DEGRADED or FAILED, and
// why. It is the first thing on the screen.
func verdict(s *control.Status) cell.Line {
	if s.Node == "" {
		return cell.Styled(cell.Warn, "◐ STARTING").Add(cell.Plain, "  nothing is forwarded yet")
	}
	n := countStates(s.Peers)
	worst := worstRole(s, n)
	switch worst {
	case cell.Good:
		up := fmt.Sprintf("  %d of %s up, ", n.up, words.Count(len(s.Peers), "peer"))
		for _, more := range n.quiet() {
			up += more + ", "
		}
		if n.unknown > 0 {
			up += fmt.Sprintf("%d unknown, ", n.unknown)
		}
		return cell.Styled(cell.Good, "● OK").Add(cell.Plain, up+"the file is in force")
	case cell.Bad:
		return cell.Styled(cell.Bad, "○ FAILED").Add(cell.Strong, "  "+reasonsFor(s, n))
	}
	return cell.Styled(cell.Warn, "◐ DEGRADED").Add(cell.Strong, "  "+reasonsFor(s, n))
}

// worstRole is how the mesh is as a colour: as the daemon judges, so that the dashboard and
// `meshd status` never disagree. A daemon without health is judged here, by its problems; a peer of
// which nothing is known may be up or down.
func worstRole(s *control.Status, n states) cell.Role {
	if tellsHealth(s) {
		if s.Health.Level == control.OK {
			return cell.Good
		}
		role, _ := levelOf(s.Health.Level)
		return role
	}
	worst := cell.Good
	if n.unknown > 0 {
		worst = cell.Warn
	}
	for _, p := range problems(s) {
		if p.role == cell.Bad || p.role == cell.Warn && worst == cell.Good {
			worst = p.role
		}
	}
	return worst
}

// reasonsFor counts what a verdict is for, in one line and in the order of what to look at
// first. What is only worth knowing is no reason.
func reasonsFor(s *control.Status, n states) string {
	count := map[string]int{}
	for _, p := range problems(s) {
		if p.role != cell.Dim {
			count[p.word]++
		}
	}
	var all []string
	add := func(n int, text string) {
		if n > 0 {
			all = append(all, text)
		}
	}
	add(count["FILE"], "file rejected")
	add(count["DOWN"], fmt.Sprintf("%d DOWN", count["DOWN"]))
	add(count["stale"], fmt.Sprintf("%d stale", count["stale"]))
	add(count["LOSS"], fmt.Sprintf("%d with loss", count["LOSS"]))
	add(count["DRIFT"], fmt.Sprintf("%d drift", count["DRIFT"]))
	others := count["FAILED"] + count["WARN"]
	add(others, words.Count(others, "problem"))
	add(n.unknown, fmt.Sprintf("%d unknown", n.unknown))
	return strings.Join(all, " · ")
}

// states counts peers; each is in one of them, and some drift besides. maintained are those that are not up
// in a maintenance that was announced.
type states struct{ up, draining, stale, down, maintained, unknown, drift int }

// quiet lists those that are away on purpose.
func (n states) quiet() (all []string) {
	if n.draining > 0 {
		all = append(all, fmt.Sprintf("%d draining", n.draining))
	}
	if n.maintained > 0 {
		all = append(all, fmt.Sprintf("%d in maintenance", n.maintained))
	}
	return all
}

// countStates counts peers by state, and those that run another file.
func countStates(peers []control.Peer) (n states) {
	for _, p := range peers {
		switch p.State {
		case control.Up:
			n.up++
		case control.Draining:
			n.draining++
		case control.Stale, control.Silent, control.OneWay, control.Down:
			switch {
			case p.Drain != nil:
				n.maintained++
			case p.State == control.Down:
				n.down++
			default: // neither up nor down
				n.stale++
			}
		default:
			n.unknown++
		}
		if drifts(p) {
			n.drift++
		}
	}
	return n
}
