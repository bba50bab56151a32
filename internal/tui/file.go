package tui

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/text"
	"example.org/meshd/internal/tui/cell"
)

// file is the page of the configuration file: which one is in force, the outcome of the
// last attempt to read it, what the one on disk would change, and what is wrong on this host.
//
// Three things have to be told apart here: what runs (RUNS), what was tried (LAST), and what
// is on disk now (ON DISK), which may be newer than both. Only the last one is asked for.
type file struct{ page }

// hints implements screen.
func (file) hints() []hint {
	return []hint{back, {"R", "reload"}, {"c", "look again"}, {"j k", "scroll"}, {"w", "write file"}}
}

// press implements screen: only scrolling is its own.
func (f file) press(v view, key string) (request, bool) {
	return f.page.press(v, key, len(f.lines(v)), func(p page) screen { return file{p} })
}

// body implements screen.
func (f file) body(v view) []cell.Line { return v.faded(f.shown(f.lines(v), v.h)) }

// lines are the whole page.
func (file) lines(v view) []cell.Line {
	s := v.status
	c := s.Config
	lines := []cell.Line{
		label("FILE").Add(cell.Strong, c.Path),
		label("RUNS").Add(cell.Warn, "not in force yet"),
		label("sha256").Add(cell.Dim, c.SHA256),
	}
	if !c.Applied.IsZero() {
		ago := words.Span(v.daemonNow().Sub(c.Applied))
		lines[1] = label("RUNS").Add(cell.Plain,
			fmt.Sprintf("generation %d, applied %s (%s ago)", c.Generation, words.Clock(c.Applied), ago))
	}
	lines = append(lines, lastReload(c, v.w)...)
	lines = append(lines, cell.Line{})
	lines = append(lines, diskLines(v, v.w)...)
	lines = append(lines, cell.Line{})
	lines = append(lines, driftLines(s)...)
	ofPeers := func(p problem) bool { return p.subject != "" }
	if ours := slices.DeleteFunc(otherProblems(s), ofPeers); len(ours) > 0 {
		lines = append(lines, cell.Line{}, label("PROBLEMS"))
		for _, p := range ours {
			lines = append(lines, indented(p.text(), v.w, p.role)...)
		}
	}
	if s.Dataplane.Reason != "" {
		lines = append(lines, cell.Line{}, label("ENGINE"))
		lines = append(lines, indented(words.Engine(s.Dataplane), v.w, cell.Plain)...)
	}
	return lines
}

// lastReload is the outcome of the last attempt to apply a file; nothing before the first.
// It is that attempt's own error: the file may have been mended since.
func lastReload(c control.Config, w int) []cell.Line {
	switch last := c.LastReload; {
	case last.OK:
		changes := changeList(last.Changes)
		return []cell.Line{label("LAST").Add(cell.Good, "accepted").Add(cell.Plain,
			fmt.Sprintf(" %s in %.0f ms: %s", words.Clock(last.At), last.DurationMS, changes))}
	case !last.At.IsZero():
		still := fmt.Sprintf(" %s  -- still running generation %d", words.Clock(last.At), c.Generation)
		head := label("LAST").Add(cell.Bad, "REJECTED").Add(cell.Plain, still)
		return append([]cell.Line{head}, indented(withoutPath(last.Error, c.Path), w, cell.Bad)...)
	}
	return nil
}

// changeList writes changes in one line, for a place that has no more.
func changeList(sentences []string) string {
	if len(sentences) == 0 {
		return "no change"
	}
	return strings.Join(sentences, ", ")
}

// changeLines writes changes in a line each: the daemon's sentences, which `meshd plan` prints,
// too, in the colours of what the values beside them say. A sentence without values has no
// colour, whatever it begins with: those of an older daemon, and the one that counts the rest.
func changeLines(sentences []string, details []control.Change) (lines []cell.Line) {
	roles := map[string]cell.Role{"+": cell.Good, "-": cell.Bad, "~": cell.Strong, "*": cell.Strong}
	for i, sentence := range sentences {
		role := cell.Plain
		if i < len(details) { // they are in the same order
			role = roles[details[i].Op]
		}
		lines = append(lines, cell.Styled(role, sentence))
	}
	return lines
}

// withoutPath leaves out of faults the path of a file, which stands above them, and that they are faults.
func withoutPath(faults, path string) string {
	var b strings.Builder
	for line := range strings.Lines(faults) {
		place, fault, found := strings.Cut(line, ": error: ")
		if at, ours := strings.CutPrefix(place, path+":"); found && ours {
			line = at + "  " + fault
		}
		b.WriteString(line)
	}
	return b.String()
}

// indented wraps a text of several lines below a label. Faults of a file come in lines, each
// with its place, and all of them are shown: they are mended in one go.
func indented(text string, w int, role cell.Role) (lines []cell.Line) {
	for line := range strings.Lines(text) {
		for _, l := range cell.Wrap(strings.TrimRight(line, "\n"), w-11) {
			lines = append(lines, label("").Add(role, l))
		}
	}
	return lines
}

// diskLines compare the file on disk with what runs, in lines of w cells. That nothing could
// be compared is no fault of the file, so the two look different.
func diskLines(v view, w int) []cell.Line {
	head := label("ON DISK")
	path := "" // before the first snapshot nothing is compared
	if v.status != nil {
		path = v.status.Config.Path
	}
	refused := func(role cell.Role, what string, err error) []cell.Line {
		why := withoutPath(text.Lines(err.Error()), path)
		return append([]cell.Line{head.Add(role, what)}, indented(why, w, role)...)
	}
	switch d := v.disk; {
	case !v.canAsk:
		return []cell.Line{head.Add(cell.Dim, "not available with --host: run `meshd plan` on that host")}
	case !d.asked:
		return []cell.Line{head.Add(cell.Dim, "comparing ...")}
	case d.faulty():
		return refused(cell.Bad, "cannot be applied:", d.err)
	case d.err != nil:
		return refused(cell.Dim, "not compared:", d.err)
	case len(d.plan.Changes) == 0:
		return []cell.Line{head.Add(cell.Good, "the same as what runs")}
	default:
		lines := []cell.Line{head.Add(cell.Warn, "would change on reload (R):")}
		for _, l := range changeLines(d.plan.Changes, d.plan.Details) {
			lines = append(lines, label("").Join(l))
		}
		return lines
	}
}

// faulty tells whether the file on disk is known to be one that cannot be applied. That meshd was not asked
// says nothing about the file.
func (d onDisk) faulty() bool {
	return d.err != nil && !errors.Is(d.err, control.ErrNotRunning) &&
		!errors.Is(d.err, control.ErrPermission) && !errors.Is(d.err, context.DeadlineExceeded)
}

// edit is the command that opens the file at its first fault, in an editor of the user's choice: vi, nano,
// emacs and others take +LINE.
func (d onDisk) edit(path string) string {
	at, bad := "", (*control.Rejection)(nil)
	if errors.As(d.err, &bad) && len(bad.Faults) > 0 && bad.Faults[0].Line > 0 {
		at = fmt.Sprintf("+%d ", bad.Faults[0].Line)
	}
	if !plainPath.MatchString(path) { // a shell must not find anything in it
		path = "'" + strings.ReplaceAll(text.Clean(path), "'", `'\''`) + "'"
	}
	return "${EDITOR:-vi} " + at + path
}

// plainPath matches what a shell takes as it is.
var plainPath = regexp.MustCompile(`^[A-Za-z0-9_./-]+$`)

// driftLines tell which peers run another file. A peer that has not reported its file may
// be a plain flannel, which never does; it does not count as drift.
func driftLines(s *control.Status) []cell.Line {
	lines := []cell.Line{}
	silent := 0
	for _, p := range words.ByState(s.Peers) {
		switch {
		case p.ConfigMatch == nil:
			silent++
		case !*p.ConfigMatch:
			sha := fmt.Sprintf("  runs another file, sha %.12s", p.ConfigSHA256)
			lines = append(lines, label("").Add(cell.Strong, p.Name).Add(cell.Plain, sha))
		}
	}
	head := label("PEERS").Add(cell.Good, "run the same file")
	if silent == len(s.Peers) {
		return []cell.Line{label("PEERS").Add(cell.Dim, "no peer has reported its file")}
	}
	if len(lines) > 0 {
		some := fmt.Sprintf("%d of %d run another file:", len(lines), len(s.Peers))
		head = label("PEERS").Add(cell.Warn, some)
	}
	if silent > 0 {
		head = head.Add(cell.Dim, fmt.Sprintf("   (%d have not reported)", silent))
	}
	return append([]cell.Line{head}, lines...)
}

// reloadBox asks whether to read the file now, over a screen of any height. Of a long plan
// only the beginning shows: how much there is to change decides, and `c` has all of it.
func reloadBox(v view) []cell.Line {
	body := []cell.Line{cell.Text("Read " + v.status.Config.Path + " on " + v.status.Node + " now?"), {}}
	body = append(body, diskLines(v, v.w-4)...)
	if most := max(4, v.h-6); len(body) > most { // the answers must show
		rest := fmt.Sprintf("           … %d lines more: c shows all", len(body)-most)
		body = append(body[:most:most], cell.Styled(cell.Dim, rest))
	}
	answers := cell.Styled(cell.Strong, "y").Add(cell.Plain, " reload    ").
		Add(cell.Strong, "n").Add(cell.Plain, " or esc: leave it")
	if v.disk.faulty() { // to reload it would change nothing
		command := " copy `" + v.disk.edit(v.status.Config.Path) + "`    "
		answers = cell.Styled(cell.Strong, "e").Add(cell.Plain, command).
			Add(cell.Strong, "esc").Add(cell.Plain, ": leave it. The file in force stays.")
	}
	body = append(body, cell.Line{}, answers)
	return cell.Box(cell.Styled(cell.Strong, "reload"), "", body, v.w, len(body)+2)
}
