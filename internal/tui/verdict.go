package tui

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/tui/cell"
)

// A judgement is how the mesh is, as this node sees it: a badge and a word.
type judgement struct {
	glyph, word string
	role        cell.Role // of the badge
}

// Glyphs are fuller the worse it is: an empty one would be the least to be seen.
var (
	isOK       = judgement{"●", "OK", cell.GoodBadge}
	isDegraded = judgement{"◐", "DEGRADED", cell.WarnBadge}
	isFailed   = judgement{"■", "FAILED", cell.BadBadge}
	isStarting = judgement{"◐", "STARTING", cell.WarnBadge}
	isUnknown  = judgement{"?", "UNKNOWN", cell.Selected}
)

// badge is a judgement as it is shown: loud, and a word.
func (j judgement) badge() cell.Line { return cell.Styled(j.role, " "+j.glyph+" "+j.word+" ") }

// judge is how the mesh is as the daemon judges, so that the dashboard and `meshd status` never disagree. A
// daemon without health is judged here, by its problems; a peer of which nothing is known may be up or down.
func judge(s *control.Status) judgement {
	if s.Node == "" {
		return isStarting
	}
	worst := cell.Good
	if tellsHealth(s) {
		worst = levelRole(s.Health.Level)
	} else {
		if countStates(s.Peers).unknown > 0 {
			worst = cell.Warn
		}
		for _, p := range problems(s) {
			if p.role == cell.Bad || p.role == cell.Warn && worst == cell.Good {
				worst = p.role
			}
		}
	}
	switch worst {
	case cell.Good, cell.Dim:
		return isOK
	case cell.Bad:
		return isFailed
	}
	return isDegraded
}

// judged is how the mesh is now; of old data nothing is known.
func (v view) judged() judgement {
	if !v.live {
		return isUnknown
	}
	return judge(v.status)
}

// verdict says in one line how the mesh is and why. It is the first thing on the screen.
func verdict(s *control.Status) cell.Line {
	j := judge(s)
	switch j {
	case isStarting:
		return j.badge().Add(cell.Plain, " nothing is forwarded yet")
	case isOK:
		return j.badge().Add(cell.Plain, " "+wellText(s))
	}
	return j.badge().Add(cell.Strong, " "+reasonsFor(s, countStates(s.Peers)))
}

// wellText says what is well.
func wellText(s *control.Status) string {
	n := countStates(s.Peers)
	if len(s.Peers) == 0 {
		return "the file lists no other node"
	}
	up := fmt.Sprintf("%d of %s up, ", n.up, words.Count(len(s.Peers), "peer"))
	for _, more := range n.quiet() {
		up += more + ", "
	}
	if n.unknown > 0 {
		up += fmt.Sprintf("%d unknown, ", n.unknown)
	}
	return up + "the file is in force"
}

// oldVerdict stands in the place of a verdict while there is no data: what the daemon last said of itself is
// not how it is now.
func oldVerdict(v view) cell.Line {
	was := judge(v.status)
	return isUnknown.badge().Add(cell.Bad, " no data for "+words.Span(v.sinceHeard())).
		Add(cell.Plain, fmt.Sprintf(" (was %s at %s)", was.word, words.Clock(v.status.Now)))
}

// phrases name problems of one word in a verdict, by their number; those without a phrase are counted
// together.
var phrases = map[string]string{"down": "DOWN", "oneway": "ONE-WAY", "stale": "stale", "silent": "silent",
	"port": "without meshd", "loss": "with loss", "drift": "with another file"}

// reasonsFor counts what a verdict is for, in one line and in the order of what to look at
// first. What is only worth knowing is no reason.
func reasonsFor(s *control.Status, n states) string {
	count, group, others := map[string]int{}, map[string]bool{}, 0
	var all, order []string
	for _, p := range problems(s) {
		word := strings.ToLower(p.word)
		switch {
		case p.role == cell.Dim:
			continue
		case word == "file":
			all = append(all, "file rejected")
			continue
		case phrases[word] == "":
			others++
			continue
		case count[word] == 0:
			order = append(order, word)
		}
		count[word]++
		group[word] = group[word] || p.subject == ""
	}
	for _, word := range order {
		switch {
		case word == "down" && group[word]: // one problem stands for many peers
			all = append(all, fmt.Sprintf("%d DOWN", max(n.down, 1)))
		case group[word]:
			all = append(all, "many "+phrases[word])
		default:
			all = append(all, fmt.Sprintf("%d %s", count[word], phrases[word]))
		}
	}
	if others > 0 {
		all = append(all, words.Count(others, "problem"))
	}
	if n.unknown > 0 {
		all = append(all, fmt.Sprintf("%d unknown", n.unknown))
	}
	return strings.Join(all, " · ")
}

// badSince is since when the oldest of the problems lasts that the verdict is for; zero if there is none.
func badSince(s *control.Status) (since time.Time) {
	for _, p := range s.Health.Problems {
		if p.Level == s.Health.Level && !p.Since.IsZero() && (since.IsZero() || p.Since.Before(since)) {
			since = p.Since
		}
	}
	return since
}

// states counts peers; each is in one of them, and some drift besides. maintained are those that are not up
// in a maintenance that was announced.
type states struct{ up, draining, stale, silent, oneWay, down, maintained, unknown, drift int }

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

// A stateCount is how many peers are in a state that is not well.
type stateCount struct {
	n    int
	word string
	role cell.Role
}

// troubled counts the peers in each state that is not well, the worst last. Not one of them may be called by
// the name of another: a silent peer is a dead meshd on a host that works.
func (n states) troubled() []stateCount {
	all := []stateCount{{n.stale, "stale", cell.Warn}, {n.silent, "silent", cell.Warn},
		{n.oneWay, "ONE-WAY", cell.Bad}, {n.down, "DOWN", cell.Bad}}
	return slices.DeleteFunc(all, func(c stateCount) bool { return c.n == 0 })
}

// countStates counts peers by state, and those that run another file.
func countStates(peers []control.Peer) (n states) {
	for i := range peers { // a peer is 70 words: a copy of each would cost more than all else here
		p := &peers[i]
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
			case p.State == control.OneWay:
				n.oneWay++
			case p.State == control.Silent:
				n.silent++
			default:
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
