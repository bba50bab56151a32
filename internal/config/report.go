package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// report collects what is wrong with one document. Problems are noted by path,
// which costs nothing for a good file, and get their places at the end.
type report struct {
	path, doc string
	faults    Faults // already placed: syntax
	problems  []problem
	unknowns  map[string]string // messages by path without indexes
}

type problem struct{ path, message string }

// add notes a problem with the value at path ("node[2].subnets[0]").
func (r *report) add(path, format string, args ...any) {
	r.problems = append(r.problems, problem{path, fmt.Sprintf(format, args...)})
}

// has tells whether a problem with the value at path has been noted.
func (r *report) has(path string) bool {
	return slices.ContainsFunc(r.problems, func(p problem) bool { return p.path == path })
}

// syntax notes an error at a byte offset, after which nothing else is known.
func (r *report) syntax(at int, message string) {
	line, col := lineCol(r.doc, at)
	r.faults = append(r.faults, Fault{Path: r.path, Line: line, Col: col, Message: message})
}

// unknown notes the keys that a table has and should not have. One that is known in
// lower case is taken for that, so that it is not said to be missing, too.
func (r *report) unknown(name string, table rawTable) {
	allowed := known[name]
	for key, value := range table {
		if slices.Contains(allowed, key) {
			continue
		}
		if r.unknowns == nil {
			r.unknowns = map[string]string{}
		}
		r.unknowns[join(name, key)] = fmt.Sprintf("unknown key %q; known here: %s", key, strings.Join(allowed, ", "))
		if lower := strings.ToLower(key); slices.Contains(allowed, lower) && table[lower] == nil {
			table[lower] = value
		}
	}
}

// result places every problem and returns the faults in file order; nil if
// there are none.
func (r *report) result() Faults {
	if len(r.problems) == 0 && len(r.unknowns) == 0 {
		return r.faults
	}
	where := locate(r.doc)
	unplaced := maps.Clone(r.unknowns)
	for _, path := range where.order {
		key := withoutIndexes(path)
		if message, ok := r.unknowns[key]; ok {
			r.faults = append(r.faults, r.fault(where.keys[path], key, message))
			delete(unplaced, key)
		}
	}
	for key, message := range unplaced { // a quoted key that looks like a path
		r.faults = append(r.faults, r.fault(0, key, message))
	}
	for _, p := range r.problems {
		r.faults = append(r.faults, r.fault(where.at(p.path), withoutIndexes(p.path), p.message))
	}
	r.faults.sort()
	return r.faults
}

// lines returns a function that tells the line of the value at a path, for
// messages that point at a second place in the file.
func (r *report) lines() func(path string) int {
	where := locate(r.doc)
	return func(path string) int {
		line, _ := lineCol(r.doc, where.at(path))
		return line
	}
}

func (r *report) fault(at int, key, message string) Fault {
	line, col := lineCol(r.doc, at)
	return Fault{Path: r.path, Line: line, Col: col, Key: key, Message: message}
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
