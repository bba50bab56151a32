package tui

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/text"
	"example.org/meshd/internal/tui/cell"
)

// configBody is the screen of the file: which one is in force, what came of the last
// attempt to read it, what the one on disk would change, and what of it cannot be had here.
func (m *Model) configBody(w int) []cell.Line {
	s := m.data.status
	lines := []cell.Line{
		label("FILE").Add(cell.Strong, s.Config.Path),
		label("RUNS").Add(cell.Warn, "not in force yet"),
		label("sha256").Add(cell.Dim, s.Config.SHA256),
	}
	if !s.Config.Applied.IsZero() {
		lines[1] = label("RUNS").Add(cell.Plain, fmt.Sprintf("generation %d, applied %s (%s ago)", s.Config.Generation, clock(s.Config.Applied), span(m.daemonNow().Sub(s.Config.Applied))))
	}
	last := s.Config.LastReload
	if last.OK {
		lines = append(lines, label("LAST").Add(cell.Good, "accepted").Add(cell.Plain, fmt.Sprintf(" %s in %.0f ms: %s", clock(last.At), last.DurationMS, changeWords(last.Changes))))
	} else if !last.At.IsZero() {
		lines = append(lines, label("LAST").Add(cell.Bad, "REJECTED").Add(cell.Plain, fmt.Sprintf(" %s  -- still running generation %d", clock(last.At), s.Config.Generation)))
		lines = append(lines, indented(last.Error, w, cell.Bad)...)
	}
	lines = append(lines, cell.Line{})
	lines = append(lines, m.diskLines(w)...)
	lines = append(lines, cell.Line{})
	lines = append(lines, driftLines(s)...)
	others := otherWarnings(s)
	if len(others) > 0 {
		lines = append(lines, cell.Line{}, label("WARNINGS"))
	}
	for _, warning := range others {
		lines = append(lines, indented(warning, w, cell.Warn)...)
	}
	if s.Dataplane.Reason != "" {
		lines = append(lines, cell.Line{}, label("ENGINE"))
		lines = append(lines, indented(words.Engine(s.Dataplane), w, cell.Plain)...)
	}
	return lines
}

func changeWords(changes []string) string {
	if len(changes) == 0 {
		return "no change"
	}
	return strings.Join(changes, ", ")
}

// indented wraps a text of several lines below a label.
func indented(words string, w int, role cell.Role) (lines []cell.Line) {
	for line := range strings.Lines(words) {
		for _, l := range cell.Wrap(strings.TrimRight(line, "\n"), w-11) {
			lines = append(lines, label("").Add(role, l))
		}
	}
	return lines
}

// diskLines compare the file on disk with what runs.
func (m *Model) diskLines(w int) []cell.Line {
	head := label("ON DISK")
	switch f := m.file; {
	case m.options.Asker == nil:
		return []cell.Line{head.Add(cell.Dim, "not over --host: run `meshd plan` there")}
	case !f.loaded:
		return []cell.Line{head.Add(cell.Dim, "looking ...")}
	case errors.Is(f.err, control.ErrNotRunning), errors.Is(f.err, control.ErrPermission), errors.Is(f.err, context.DeadlineExceeded):
		return append([]cell.Line{head.Add(cell.Dim, "not compared:")}, indented(text.Lines(f.err.Error()), w, cell.Dim)...)
	case f.err != nil:
		return append([]cell.Line{head.Add(cell.Bad, "cannot be applied:")}, indented(text.Lines(f.err.Error()), w, cell.Bad)...)
	case len(f.changes) == 0:
		return []cell.Line{head.Add(cell.Good, "the same as what runs")}
	default:
		lines := []cell.Line{head.Add(cell.Warn, "would change on reload (R):")}
		for _, c := range f.changes {
			lines = append(lines, changeLine(c))
		}
		return lines
	}
}

// changeLine is a line of a plan: "+ peer edge-4".
func changeLine(change string) cell.Line {
	role := cell.Plain
	switch {
	case strings.HasPrefix(change, "+"):
		role = cell.Good
	case strings.HasPrefix(change, "-"):
		role = cell.Bad
	case strings.HasPrefix(change, "~"):
		role = cell.Warn
	}
	return label("").Add(role, change)
}

// driftLines tell who runs another file.
func driftLines(s *control.Status) []cell.Line {
	lines := []cell.Line{}
	silent := 0
	for _, p := range byState(s.Peers) {
		switch {
		case p.ConfigMatch == nil:
			silent++
		case !*p.ConfigMatch:
			lines = append(lines, label("").Add(cell.Strong, p.Name).Add(cell.Warn, fmt.Sprintf("  runs another file, sha %.12s", p.ConfigSHA256)))
		}
	}
	head := label("PEERS").Add(cell.Good, "run the same file")
	if silent == len(s.Peers) {
		head = label("PEERS").Add(cell.Dim, "none has said which file it runs")
		silent = 0
	}
	if len(lines) > 0 {
		head = label("PEERS").Add(cell.Warn, fmt.Sprintf("%d of %d run another file:", len(lines), len(s.Peers)))
	}
	if silent > 0 {
		head = head.Add(cell.Dim, fmt.Sprintf("   (%d have not said)", silent))
	}
	return append([]cell.Line{head}, lines...)
}

// reloadBox asks whether to read the file now.
func (m *Model) reloadBox(w int) []cell.Line {
	body := []cell.Line{cell.Text("Read " + m.data.status.Config.Path + " on " + m.data.status.Node + " now?"), {}}
	body = append(body, m.diskLines(w-4)...)
	if most := max(4, m.height-chrome(m.height)-6); len(body) > most {
		body = append(body[:most:most], cell.Styled(cell.Dim, fmt.Sprintf("           … %d lines more: c shows all", len(body)-most)))
	}
	body = append(body, cell.Line{}, cell.Styled(cell.Strong, "y").Add(cell.Plain, " reload    ").Add(cell.Strong, "n").Add(cell.Plain, " or esc: leave it"))
	return cell.Box(cell.Styled(cell.Strong, "reload"), "", body, w, len(body)+2)
}
