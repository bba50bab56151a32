package tui

import (
	"fmt"
	"slices"
	"time"

	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/tui/cell"
)

// events is the screen of what happened, the newest last, as a log reads. Repeats of one event are folded
// into its newest one, since a peer that goes up and down would fill the screen.
//
// The cursor stays on its event while others come; on the newest one it follows. It names
// its event by a number and not by its place: places change with each event that comes, with
// the filter, and when old events are forgotten.
type events struct {
	at     uint64 // number of the event under the cursor, the first of its repeats; 0: the newest
	least  string // level; events below it are hidden; empty: all are shown
	single bool   // repeats are not folded
}

// hints implements screen.
func (events) hints() []hint {
	return []hint{{"j k", "move"}, {"enter", "peer"}, {"/", "filter"}, {"W E", "warnings errors"},
		{"G", "newest"}, {"n", "next problem"}, {"f", "fold"}, {"y", "copy"}, {"w", "write file"}}
}

// cursor is the index of the event under the cursor among those that are shown, -1
// if there is none. The event itself may be forgotten: then it is the one before it.
func (s events) cursor(shown []folded) int {
	if s.at == 0 || len(shown) == 0 {
		return len(shown) - 1
	}
	before := -1
	for i, e := range shown {
		if e.first == s.at {
			return i
		}
		if e.number < s.at {
			before = i
		}
	}
	return max(0, before)
}

// press implements screen. Enter leads to the peer of an event, from where `esc` leads back
// to the same event.
func (s events) press(v view, key string) (request, bool) {
	shown := s.shown(v)
	at := s.cursor(shown)
	if move, ok := moves[key]; ok {
		return request{become: s.moved(shown, at+move(v.page))}, true
	}
	switch key {
	case "W", "E":
		level := map[string]string{"W": "warn", "E": "error"}[key]
		if s.least == level { // the key that hid them shows them again
			level = ""
		}
		return request{become: events{least: level, single: s.single}}, true
	case "f":
		return request{become: events{least: s.least, single: !s.single}}, true
	case "n", "N":
		return s.alarm(shown, at, map[string]int{"n": 1, "N": -1}[key]), true
	}
	if at < 0 {
		return request{}, key == "enter" || key == "y"
	}
	e := shown[at]
	switch key {
	case "enter":
		if e.Peer == "" {
			return request{say: "this event is about no peer"}, true
		}
		return openPeer(v, e.Peer), true
	case "y":
		text := e.At.Format(time.RFC3339) + " " + e.Level + " " + eventText(e.event)
		return request{copy: clip{"event", text}}, true
	}
	return request{}, false
}

// moved is the screen with the cursor on another event.
func (s events) moved(shown []folded, to int) events {
	if s.at = 0; len(shown) > 0 && to < len(shown)-1 { // the newest one is followed
		s.at = shown[max(0, to)].first
	}
	return s
}

// alarm goes to the next event that is a warning or an error.
func (s events) alarm(shown []folded, at, by int) request {
	for i := at + by; i >= 0 && i < len(shown); i += by {
		if alarming(shown[i].Level) {
			return request{become: s.moved(shown, i)}
		}
	}
	return request{say: "no more warnings and errors in this direction"}
}

// alarming tells whether a level is more than mere information.
func alarming(level string) bool { return level == "warn" || level == "error" }

// Events are longer than most terminals are wide; the one under the cursor is shown in full.
// wholeLines is how many lines show the whole of the event under the cursor, with the rule.
const wholeLines = 4

// body implements screen: a note, the events around the cursor, and the whole of one.
func (s events) body(v view) []cell.Line {
	shown := s.shown(v)
	at := s.cursor(shown)
	lines := []cell.Line{s.note(v, shown, at).Fit(v.w)}
	whole := 0
	if v.h >= 12 {
		whole = wholeLines
	}
	room := max(1, v.h-1-whole)
	from := max(0, min(at-room/2, len(shown)-room)) // the cursor in the middle, where it can be
	some := shown[from:min(from+room, len(shown))]
	stamp := stampFor(v, some)
	for i, e := range some {
		if from+i == at {
			lines = append(lines, cell.Text("> ").Join(eventLine(v, e, stamp, v.w-2)).As(cell.Selected))
			continue
		}
		lines = append(lines, cell.Text("  ").Join(eventLine(v, e, stamp, v.w-2)))
	}
	if len(shown) == 0 {
		lines = append(lines, cell.Styled(cell.Dim, "  no events"))
	}
	lines = cell.Fill(lines, v.w, 1+room)
	if at >= 0 && whole > 0 {
		lines = append(lines, wholeEvent(shown[at], v.w)...)
	}
	return v.faded(lines)
}

// note is the line above the events: which of them are shown, and whether new ones are followed.
func (s events) note(v view, shown []folded, at int) cell.Line {
	mode := "follows"
	if s.at != 0 {
		mode = fmt.Sprintf("%d newer", len(shown)-1-at)
	}
	some := ""
	if s.least != "" {
		some = " · only " + map[string]string{"warn": "warnings and errors", "error": "errors"}[s.least]
	}
	if s.single {
		some += " · not folded"
	}
	return cell.Styled(cell.Dim, fmt.Sprintf(" %s · filter: %s%s · %s",
		words.Count(len(shown), "event"), v.filter, some, mode))
}

// shown are the events that are listed, oldest first.
func (s events) shown(v view) []folded {
	kept := keptEvents(v)
	if s.least != "" {
		kept = slices.DeleteFunc(slices.Clone(kept), func(e event) bool {
			return !alarming(e.Level) || s.least == "error" && e.Level != "error"
		})
	}
	if s.single {
		all := make([]folded, len(kept))
		for i, e := range kept {
			all[i] = folded{e, e.number, e.At, 1}
		}
		return all
	}
	return fold(kept)
}

// wholeEvent is all that there is of an event, below a rule.
func wholeEvent(e folded, w int) []cell.Line {
	lines := []cell.Line{cell.Rule(w)}
	about := fmt.Sprintf("%s  %s  %s", e.At.UTC().Format("2006-01-02 15:04:05.000"), e.Kind, eventText(e.event))
	if e.times > 1 {
		about += fmt.Sprintf("  (%d times since %s: f shows each)", e.times, words.Clock(e.since))
	}
	for _, l := range cell.Wrap(about, w-2) {
		lines = append(lines, cell.Text(" "+l))
	}
	return lines
}

// keptEvents are the events that the filter keeps, oldest first. It looks at their level,
// kind and text, so that "error", "peer_down" and a name all find what they should.
func keptEvents(v view) []event {
	if len(v.filter.terms) == 0 {
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

// newestEvents are the last n events of a peer, or of all with an empty name, in lines of w cells, in the
// order of the screen of events: the newest last.
func newestEvents(v view, peer string, w, n int) (lines []cell.Line) {
	var some []event
	for _, e := range v.events {
		if peer == "" || e.Peer == peer {
			some = append(some, e)
		}
	}
	all := fold(some)
	all = all[max(0, len(all)-n):]
	stamp := stampFor(v, all)
	for _, e := range all {
		lines = append(lines, eventLine(v, e, stamp, w))
	}
	return lines
}
