package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	maxFaults  = 1000 // in a report; the rest is a number
	maxMessage = 600  // bytes of a key and of a message, whatever they quote
)

// report collects what is wrong with one document. Problems are noted by path,
// which costs nothing for a good file, and get their places at the end.
type report struct {
	path, doc string
	problems  []problem // the first maxFaults
	count     int       // of all
	fatal     bool      // the only problem is one of syntax or size; nothing else is known

	where *places // made when first needed
	lines lines
}

type problem struct {
	path    string // ("node[2].subnets[0]"); empty: it stands at an offset
	at      int
	key     string // for people
	message string
}

// add notes a problem with the value at path ("node[2].subnets[0]").
func (r *report) add(path, format string, args ...any) {
	if r.count++; len(r.problems) < maxFaults {
		p := problem{path: path, key: withoutIndexes(path), message: fmt.Sprintf(format, args...)}
		r.problems = append(r.problems, p)
	}
}

// unknown notes a key at an offset that does not exist.
func (r *report) unknown(at int, key, last string, allowed []string) {
	if r.count++; len(r.problems) < maxFaults {
		r.problems = append(r.problems, problem{at: at, key: key,
			message: fmt.Sprintf("unknown key %q; known here: %s", last, strings.Join(allowed, ", "))})
	}
}

// syntax notes an error at a byte offset that hides everything else.
func (r *report) syntax(at int, message string) {
	r.problems, r.count, r.fatal = []problem{{at: at, message: message}}, 1, true
}

// has tells whether a problem with the value at path has been noted.
func (r *report) has(path string) bool {
	return slices.ContainsFunc(r.problems, func(p problem) bool { return p.path == path })
}

// result places every problem and returns the faults in file order; nil if
// there are none.
func (r *report) result() Faults {
	for i, p := range r.problems {
		if p.path != "" {
			r.problems[i].at = r.places().at(p.path)
		}
	}
	slices.SortStableFunc(r.problems, func(a, b problem) int { return cmp.Compare(a.at, b.at) })
	var faults Faults
	c := cursor{doc: r.doc, at: byteOrderMark(r.doc)} // which no editor shows
	for _, p := range r.problems {
		line, col := c.move(p.at)
		faults = append(faults, Fault{r.path, line, col, clip(p.key), clip(p.message)})
	}
	if more := r.count - len(faults); more > 0 {
		last := fmt.Sprintf("and %d more faults: mend these first", more)
		faults = append(faults, Fault{Path: r.path, Message: last})
	}
	return faults
}

// lineAt returns the line of the value at a path, for messages that point at a
// second place in the file; 0 if the message will only be counted.
func (r *report) lineAt(path string) int {
	if len(r.problems) == maxFaults {
		return 0
	}
	if r.lines == nil {
		r.lines = linesOf(r.doc)
	}
	return r.lines.line(r.places().at(path))
}

func (r *report) places() *places {
	if r.where == nil {
		r.where = locate(r.doc)
	}
	return r.where
}

// clip shortens a key, or a message that quotes a long value.
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
