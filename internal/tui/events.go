package tui

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/tui/cell"
)

// events is the screen of what happened, the newest last, as a log reads.
//
// The cursor stays on its event while others come; on the newest one it follows. It names
// its event by a number and not by its place: places change with each event that comes, with
// the filter, and when old events are forgotten.
type events struct{ at uint64 } // number of the event under the cursor; 0: the newest

// hints implements screen.
func (events) hints() string { return "j/k move  G newest  / filter  y copy  w write  q quit" }

// cursor is the index of the event under the cursor among those that the filter keeps, -1
// if there is none. The event itself may be forgotten: then it is the one before it.
func (s events) cursor(kept []event) int {
	if s.at == 0 || len(kept) == 0 {
		return len(kept) - 1
	}
	after := slices.IndexFunc(kept, func(e event) bool { return e.number > s.at })
	if after < 0 {
		return len(kept) - 1
	}
	return max(0, after-1)
}

// press implements screen. Enter leads to the peer of an event, from where `esc` leads back
// to the same event.
func (s events) press(v view, key string) (request, bool) {
	kept := keptEvents(v)
	at := s.cursor(kept)
	if move, ok := moves[key]; ok {
		return request{become: s.moved(kept, at+move(v.page))}, true
	}
	switch key {
	case "enter":
		if at < 0 || kept[at].Peer == "" {
			return request{}, true
		}
		return openPeer(v, kept[at].Peer), true
	case "y":
		if at < 0 {
			return request{}, true
		}
		e := kept[at]
		return request{copy: clip{"event", e.At.Format(time.RFC3339) + " " + e.Level + " " + eventText(e)}}, true
	}
	return request{}, false
}

// moved is the screen with the cursor on another event.
func (events) moved(kept []event, to int) events {
	if len(kept) == 0 || to >= len(kept)-1 { // the newest one is followed
		return events{}
	}
	return events{kept[max(0, to)].number}
}

// Events are longer than most terminals are wide; the one under the cursor is shown in full.
// wholeLines is how many lines show the whole of the event under the cursor, with the rule.
const wholeLines = 4

// body implements screen: a note, the events around the cursor, and the whole of one.
func (s events) body(v view) []cell.Line {
	kept := keptEvents(v)
	at := s.cursor(kept)
	mode := "follows"
	if s.at != 0 {
		mode = fmt.Sprintf("%d newer", len(kept)-1-at)
	}
	lines := []cell.Line{cell.Styled(cell.Dim, fmt.Sprintf(" %s · filter: %s · %s",
		words.Count(len(kept), "event"), v.filter, mode)).Fit(v.w)}
	whole := 0
	if v.h >= 12 {
		whole = wholeLines
	}
	room := max(1, v.h-1-whole)
	from := max(0, min(at-room/2, len(kept)-room)) // the cursor in the middle, where it can be
	for i := from; i < min(from+room, len(kept)); i++ {
		if i == at {
			lines = append(lines, cell.Text("> ").Join(eventLine(kept[i])).Fit(v.w).As(cell.Selected))
			continue
		}
		lines = append(lines, cell.Text("  ").Join(eventLine(kept[i])))
	}
	if len(kept) == 0 {
		lines = append(lines, cell.Styled(cell.Dim, "  no events"))
	}
	lines = cell.Fill(lines, v.w, 1+room)
	if at >= 0 && whole > 0 {
		lines = append(lines, wholeEvent(kept[at], v.w)...)
	}
	return v.faded(lines)
}

// wholeEvent is all that there is of an event, below a rule.
func wholeEvent(e event, w int) []cell.Line {
	lines := []cell.Line{cell.Rule(w)}
	about := fmt.Sprintf("%s  %s  %s", e.At.UTC().Format("2006-01-02 15:04:05.000"), e.Kind, eventText(e))
	for _, l := range cell.Wrap(about, w-2) {
		lines = append(lines, cell.Text(" "+l))
	}
	return lines
}

// eventText is what an event says in one text, for the clipboard and for filters.
func eventText(e event) string {
	subject, rest := words.Event(e.Event)
	if subject == "" {
		return rest
	}
	return subject + " " + rest
}

// eventLine is an event in one line: when, how bad, whom, what. Levels are words, padded so
// that what follows stands in a column.
func eventLine(e event) cell.Line {
	role := cell.Dim
	switch e.Level {
	case "warn":
		role = cell.Warn
	case "error":
		role = cell.Bad
	}
	line := cell.Styled(cell.Dim, words.Clock(e.At)+" ").
		Add(role, fmt.Sprintf("%-5s ", strings.ToUpper(e.Level)))
	subject, rest := words.Event(e.Event)
	if subject != "" {
		line = line.Add(cell.Strong, subject+" ")
	}
	return line.Add(cell.Plain, rest)
}

// keptEvents are the events that the filter keeps, oldest first. It looks at their level,
// kind and text, so that "error", "peer_down" and a name all find what they should.
func keptEvents(v view) []event {
	if v.filter.match == nil {
		return v.events
	}
	var kept []event
	for _, e := range v.events {
		if v.filter.keeps(e.Level, e.Kind, eventText(e)) {
			kept = append(kept, e)
		}
	}
	return kept
}

// newestEvents are up to n events of a peer, or of all with an empty name, in lines of w
// cells, the newest first.
func newestEvents(v view, peer string, w, n int) (lines []cell.Line) {
	for _, e := range slices.Backward(v.events) {
		if len(lines) == n {
			break
		}
		if peer == "" || e.Peer == peer {
			lines = append(lines, eventLine(e).Fit(w))
		}
	}
	return lines
}
