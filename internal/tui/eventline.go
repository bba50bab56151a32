package tui

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/tui/cell"
)

// Events as lines: when, how bad, whom, what. Repeats are folded into one.

// folded is an event, and how often it has happened lately.
type folded struct {
	event           // the newest
	first uint64    // number of the oldest, which names the fold: it stays as others come
	since time.Time // when that was
	times int
}

// foldWithin is the longest pause between two events that are folded. Longer ones are two incidents.
const foldWithin = 10 * time.Minute

// foldKey is what events have in common that are repeats of each other.
type foldKey struct{ boot, kind, peer, level, message string }

// keyOfEvent is that of one event. Fields, such as how long a peer was silent, differ each time.
func keyOfEvent(e event) foldKey { return foldKey{e.boot, e.Kind, e.Peer, e.Level, e.Message} }

// fold puts repeats in the place of the newest of them. Others may have happened in between: a peer that goes
// up and down takes two lines, not a hundred.
func fold(all []event) (folds []folded) {
	at := map[foldKey]int{} // index in folds, which are newest first
	for _, e := range slices.Backward(all) {
		key := keyOfEvent(e)
		if i, ok := at[key]; ok && folds[i].since.Sub(e.At) < foldWithin {
			folds[i].first, folds[i].since = e.number, e.At
			folds[i].times++
			continue
		}
		at[key] = len(folds)
		folds = append(folds, folded{e, e.number, e.At, 1})
	}
	slices.Reverse(folds)
	return folds
}

// unseen counts alarms that the screen of events has not shown: repeats count once.
func (d *data) unseen() int {
	left, kinds := d.alarms-min(d.seen, d.alarms), map[foldKey]bool{}
	for _, e := range slices.Backward(d.events) {
		if left == 0 {
			break
		}
		if alarming(e.Level) && e.boot == d.boot {
			kinds[keyOfEvent(e)] = true
			left--
		}
	}
	return len(kinds)
}

// stampFor is how the times of some events are written: with a date where one of them is not of today.
func stampFor(v view, some []folded) func(time.Time) string {
	today := v.now.UTC().Format(time.DateOnly)
	for _, e := range some {
		if e.At.UTC().Format(time.DateOnly) != today {
			return func(t time.Time) string { return t.UTC().Format("Jan _2 15:04:05") }
		}
	}
	return words.Clock
}

// leastForSince is how wide a line of an event is at least that has room for since when it repeats.
const leastForSince = 60

// eventLine is an event in one line of w cells. Levels are words, padded so that what follows stands in a
// column. Peers are called as in the table of peers, and how often it happened is never cut: that a peer goes
// up and down is the news.
func eventLine(v view, e folded, stamp func(time.Time) string, w int) cell.Line {
	role := cell.Dim
	switch e.Level {
	case "warn":
		role = cell.Warn
	case "error":
		role = cell.Bad
	}
	level := loud(role, e.Level)
	line := cell.Styled(cell.Dim, stamp(e.At)+" ").Add(role, level).
		Add(cell.Plain, strings.Repeat(" ", max(1, 6-cell.Width(level))))
	subject, rest := eventWords(e.Event)
	if subject != "" {
		line = line.Add(cell.Strong, strings.Replace(subject, e.Peer, v.names.short(e.Peer), 1)+" ")
	}
	line = line.Add(cell.Plain, rest)
	if e.times == 1 {
		return line.Fit(w)
	}
	times := cell.Styled(cell.Strong, fmt.Sprintf(" x%d", e.times))
	if since := " since " + stamp(e.since); w >= leastForSince {
		times = times.Add(cell.Dim, since)
	}
	return line.Fit(min(line.Width(), max(0, w-times.Width()))).Join(times).Fit(w)
}

// eventText is what an event says in one text, for the clipboard and for filters.
func eventText(e event) string {
	subject, rest := eventWords(e.Event)
	if subject == "" {
		return rest
	}
	return subject + " " + rest
}

// eventWords splits what an event says into its subject and the rest. Its fields follow as people write them:
// "is stale: it does not answer (loss 5%, silent 3.0s, was up)".
func eventWords(e control.Event) (subject, rest string) {
	fields := make([]string, 0, len(e.Fields))
	for _, k := range slices.Sorted(maps.Keys(e.Fields)) {
		value := e.Fields[k]
		if value == "" || e.Kind == "health" && k == "now" { // which the sentence itself says
			continue
		}
		if d, err := time.ParseDuration(value); err == nil {
			value = brief(d)
		}
		fields = append(fields, strings.ReplaceAll(k, "_", " ")+" "+value)
	}
	e.Fields = nil
	subject, rest = words.Event(e)
	if len(fields) > 0 {
		rest += " (" + strings.Join(fields, ", ") + ")"
	}
	return subject, rest
}

// brief writes a duration with the digits that say something: "14.2ms", "3.0s", "2m10s".
func brief(d time.Duration) string {
	switch {
	case d >= time.Minute:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d >= time.Millisecond:
		return fmt.Sprintf("%.3gms", float64(d)/float64(time.Millisecond))
	}
	return d.String()
}
