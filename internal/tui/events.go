package tui

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"example.org/meshd/internal/tui/cell"
)

// eventText is what an event says, for people and for filters.
func eventText(e event) string {
	text := e.Message
	if e.Peer != "" { // "peer is up" of one that is named
		text = e.Peer + " " + strings.TrimPrefix(text, "peer ")
	}
	for _, k := range slices.Sorted(maps.Keys(e.Fields)) {
		text += " " + k + "=" + e.Fields[k]
	}
	return text
}

// eventLine is an event in one line.
func eventLine(e event) cell.Line {
	role := cell.Dim
	switch e.Level {
	case "warn":
		role = cell.Warn
	case "error":
		role = cell.Bad
	}
	line := cell.Styled(cell.Dim, clock(e.At)+" ").Add(role, fmt.Sprintf("%-5s ", strings.ToUpper(e.Level)))
	rest := eventText(e)
	if e.Peer != "" {
		line = line.Add(cell.Strong, e.Peer+" ")
		rest = strings.TrimPrefix(rest, e.Peer+" ")
	}
	return line.Add(cell.Plain, rest)
}

// chosen are the events that the filter keeps, oldest first.
func (m *Model) chosen() []event {
	if m.filter.match == nil {
		return m.data.events
	}
	var kept []event
	for _, e := range m.data.events {
		if m.chooses(e) {
			kept = append(kept, e)
		}
	}
	return kept
}

// chooses tells whether the filter keeps an event.
func (m *Model) chooses(e event) bool { return m.filter.keeps(e.Level, e.Kind, eventText(e)) }

// currentEvent is the one under the cursor.
func (m *Model) currentEvent() (event, bool) {
	all := m.chosen()
	if len(all) == 0 {
		return event{}, false
	}
	return all[len(all)-1-min(m.event, len(all)-1)], true
}

// eventsBody lists events, the newest last, and the whole of the one under the cursor.
func (m *Model) eventsBody(w, h int) []cell.Line {
	all := m.chosen()
	mode := "follows"
	if m.event > 0 {
		mode = fmt.Sprintf("%d newer", min(m.event, len(all)-1))
	}
	lines := []cell.Line{cell.Styled(cell.Dim, fmt.Sprintf(" %s · filter: %s · %s", count(len(all), "event"), m.filter, mode)).Fit(w)}
	whole := 0
	if h >= 12 {
		whole = 4
	}
	room := max(1, h-1-whole)
	at := len(all) - 1 - min(m.event, max(len(all)-1, 0))
	from := max(0, min(at-room/2, len(all)-room))
	for i := from; i < min(from+room, len(all)); i++ {
		if i == at {
			lines = append(lines, cell.Text("> ").Join(eventLine(all[i])).Fit(w).As(cell.Selected))
			continue
		}
		lines = append(lines, cell.Text("  ").Join(eventLine(all[i])))
	}
	if len(all) == 0 {
		lines = append(lines, cell.Styled(cell.Dim, "  nothing happened"))
	}
	lines = cell.Fill(lines, w, 1+room)
	if e, ok := m.currentEvent(); ok && whole > 0 {
		lines = append(lines, cell.Rule(w))
		about := fmt.Sprintf("%s  %s  %s", e.At.UTC().Format("2006-01-02 15:04:05.000"), e.Kind, eventText(e))
		for _, l := range cell.Wrap(about, w-2) {
			lines = append(lines, cell.Text(" "+l))
		}
	}
	return lines
}

// eventsAbout are the newest events of a peer, the newest first.
func (m *Model) eventsAbout(peer string, w, h int) (lines []cell.Line) {
	for _, e := range slices.Backward(m.data.events) {
		if len(lines) == h {
			break
		}
		if e.Peer == peer {
			lines = append(lines, cell.Text(" ").Join(eventLine(e)).Fit(w))
		}
	}
	return lines
}

// newestEvents are the newest events, the newest first.
func (m *Model) newestEvents(w, h int) (lines []cell.Line) {
	for _, e := range slices.Backward(m.data.events) {
		if len(lines) == h {
			break
		}
		lines = append(lines, eventLine(e).Fit(w))
	}
	return lines
}
