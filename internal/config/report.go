package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Bounds of what a hostile file can make meshd print, log and send to clients.
const (
	maxFaults  = 1000 // faults in a report; the others are only counted
	maxMessage = 600  // bytes of a key and of a message, which may quote long values
)

// moreFaults ends the message of the last fault of a report that is full.
const moreFaults = "more faults: correct the ones above first"

// report collects the problems of one document. Problems are noted by path and get their
// places at the end: a good file is never searched for places.
type report struct {
	path, doc string
	problems  []problem // the first maxFaults
	count     int       // of all problems
	fatal     bool      // a syntax error or a limit: nothing else is known of the file

	// excused are paths of values for which something else was reported: that they are missing is a
	// consequence, and no second fault.
	excused map[string]bool
	// headers says that a problem with the name of a table was noted: what the library says of the
	// tables may be a consequence.
	headers bool

	noNodes  bool // a problem says that the file lists no node
	showKeys bool // the keys in messages are public ones

	found // what the gate has seen

	where *places // both made when first needed
	lines lines
}

// found is what the gate tells of a document besides its faults.
type found struct {
	keys, values int   // counted against maxKeys and maxValues
	starts       []int // byte offset of each header [[node]], in file order
	onlyNodes    bool  // all of the document belongs to tables [[node]]
}

// A problem is a fault without its line and column.
type problem struct {
	path    string // of the value ("node[2].subnets[0]"); empty: at is the place
	at      int    // byte offset; result computes it from path
	key     string // dotted, without indexes, for people
	message string
	see     string // the table that the message says more about at its end; empty: none
}

// add notes a problem with the value at path ("node[2].subnets[0]").
func (r *report) add(path, format string, args ...any) {
	if r.count++; len(r.problems) < maxFaults {
		p := problem{path: path, key: withoutIndexes(path), message: fmt.Sprintf(format, args...)}
		r.problems = append(r.problems, p)
	}
}

// missing notes that the value at path has to be in the file, unless what stands in its place was
// reported already.
func (r *report) missing(path, format string, args ...any) {
	if !r.excused[path] {
		r.add(path, format, args...)
	}
}

// excuse remembers that a value is absent for a reason that was reported.
func (r *report) excuse(path string) {
	if r.excused == nil {
		r.excused = map[string]bool{}
	}
	r.excused[path] = true
}

// note notes a problem at a byte offset.
func (r *report) note(p problem) {
	if r.count++; len(r.problems) < maxFaults {
		r.problems = append(r.problems, p)
	}
}

// syntax notes an error at a byte offset that stands alone: behind it nothing was read, so
// other problems may be consequences. key is empty where the error is in no value.
func (r *report) syntax(at int, key, message string) {
	r.problems, r.count, r.fatal = []problem{{at: at, key: key, message: message}}, 1, true
}

// has reports whether a problem with the value at path has been noted.
func (r *report) has(path string) bool {
	return slices.ContainsFunc(r.problems, func(p problem) bool { return p.path == path })
}

// result places every problem and returns the faults in file order; nil if there are none.
func (r *report) result() Faults {
	for i, p := range r.problems {
		if p.path != "" {
			r.problems[i].at = r.places().at(p.path)
		}
	}
	slices.SortStableFunc(r.problems, func(a, b problem) int { return cmp.Compare(a.at, b.at) })
	var faults Faults
	// Editors do not count the byte order mark as a column.
	c := cursor{doc: r.doc, at: byteOrderMark(r.doc)}
	for _, p := range r.problems {
		line, col := c.move(p.at)
		if p.see != "" {
			p.message += r.whereIs(p.see)
		}
		if !r.showKeys {
			p.key, p.message = hideKeys(p.key), hideKeys(p.message)
		}
		faults = append(faults, Fault{r.path, line, col, clip(p.key), clip(p.message)})
	}
	if more := r.count - len(faults); more > 0 {
		last := fmt.Sprintf("and %d %s", more, moreFaults)
		faults = append(faults, Fault{Path: r.path, Message: last})
	}
	return faults
}

// whereIs ends a message about a key that belongs into another table.
func (r *report) whereIs(table string) string {
	if !r.places().has(table) {
		return ": write that header above this line"
	}
	line := r.lineAt(table)
	if line == 0 || isList(table) { // one of many
		return ": is a header missing above this line?"
	}
	return fmt.Sprintf(", which begins in line %d", line)
}

// lineAt returns the line of the value at a path, for messages that point at a second
// place in the file. It returns 0 once the report is full: the message is only counted
// then, and a search for its line would make a file of a million clashes slow.
func (r *report) lineAt(path string) int {
	if len(r.problems) == maxFaults {
		return 0
	}
	if r.lines == nil {
		r.lines = linesOf(r.doc)
	}
	return r.lines.line(r.places().at(path))
}

// places returns the places of the document's keys and values.
func (r *report) places() *places {
	if r.where == nil {
		r.where = locate(r.doc)
	}
	return r.where
}

// clip shortens a key or a message to maxMessage bytes, at the boundary of a character.
func clip(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	cut := maxMessage
	for !utf8.RuneStart(message[cut]) {
		cut--
	}
	return message[:cut] + "..."
}

// withoutIndexes turns "node[2].subnets[0]" into "node.subnets": people find the element
// by its line.
func withoutIndexes(path string) string {
	var b strings.Builder
	inside := false
	for _, c := range path {
		switch {
		case c == '[':
			inside = true
		case c == ']':
			inside = false
		case !inside:
			b.WriteRune(c)
		}
	}
	return b.String()
}
