package config

import (
	"context"
	"fmt"
	"strings"
)

// The TOML library recurses for each open bracket, builds a string of all parts for each
// key, and cannot be stopped. A file of a few megabytes could so exhaust the stack or take
// hours. The gate reads a document first and lets through only what the library handles
// in linear time: at most about a second and 250 MB. For comparison: a mesh of 10,000
// nodes with eight prefixes each has 50,000 keys, 80,000 elements and, with each prefix on
// a line of its own, 180,000 lines.
const (
	maxNesting = 100       // brackets that are open at one place
	maxParts   = 10        // of a key together with the tables around it
	maxText    = 4096      // bytes of a part of a key, or of a value: PATH_MAX of the kernel
	maxKeys    = 300_000   // parts of keys and of tables' names, and tables in lists
	maxValues  = 300_000   // elements of lists
	maxLines   = 1_000_000 // the library copies all lines when it reports an error
	maxStrays  = 1000      // unknown keys
)

// A gate is the visitor of a scan that counts keys and values against the limits, and that
// notes unknown keys.
type gate struct {
	ctx    context.Context
	doc    string
	report *report

	path []string // parts of the tables and keys around the current offset
	open []frame  // pairs and elements that contain the current offset

	name    string   // the first part of path that was looked up last,
	allowed []string // and the keys known below it: a cache for runs of [[node]]

	header               bool // the path is that of a header, not of a pair
	keys, values, strays int
	nodes, allows        int             // elements of [[node]] and [[allow]] so far
	starts               []int           // of the headers [[node]] among them
	others               int             // headers of other tables, and pairs before all headers
	told                 map[string]int  // reported slips: the last node with each, or -1
	shaped               map[string]bool // names of tables whose brackets were reported
}

// A frame is an open pair or element: the length of the path before it, and the offset of
// its value.
type frame struct{ parts, value int }

// admit reads doc and returns the part of it that the library may see. In a good file
// that is all of doc, and stuck is -1. Where doc stops being TOML at the offset stuck, the
// part ends with that line, so that the library finds and words the error. ok is false
// if there is nothing to decode: the report tells why, or ctx has ended.
func admit(ctx context.Context, doc string, r *report) (admitted string, stuck int, ok bool) {
	g := &gate{ctx: ctx, doc: doc, report: r, told: map[string]int{}}
	if lines := strings.Count(doc, "\n"); lines > maxLines {
		g.refuse(0, "the file has %d lines, the limit is %d: remove comments and empty lines", lines, maxLines)
		return "", 0, false
	}
	end, whole := scan(doc, g)
	r.found = found{g.keys, g.values, g.starts, g.others == 0}
	switch {
	case ctx.Err() != nil, r.fatal:
		return "", 0, false
	case g.strays > maxStrays:
		if r.count == 0 { // all strays are below a known key whose value must not be a table
			g.refuse(0, "the file has %d keys that meshd does not know: `meshd init` prints all that exist", g.strays)
		}
		return "", 0, false
	case whole:
		return doc, -1, true
	}
	line, _, _ := strings.Cut(doc[end:], "\n")
	return doc[:min(end+len(line)+1, len(doc))], end, true
}

// refuse reports that the file breaks a limit at an offset, and ends the scan.
func (g *gate) refuse(at int, format string, args ...any) bool {
	g.report.syntax(at, "", fmt.Sprintf(format, args...))
	return false
}

// table implements visitor: a header starts a new path from the root.
func (g *gate) table(parts []string, array bool, at int) bool {
	g.path = g.path[:0]
	if array && len(parts) == 1 && parts[0] == nodeKey {
		g.nodes++
		g.starts = append(g.starts, at)
	} else {
		g.others++
	}
	if array && len(parts) == 1 && parts[0] == allowKey {
		g.allows++
	}
	if len(parts) == 1 {
		g.brackets(parts[0], array, at)
	}
	g.header = true
	defer func() { g.header = false }()
	return g.enter(parts, at)
}

// pair implements visitor: the keys of an inline table extend the path until its end.
func (g *gate) pair(parts []string, at, value int) bool {
	g.open = append(g.open, frame{len(g.path), value})
	if len(g.path) == 0 {
		g.others++
	}
	return g.nested(at) && g.enter(parts, at)
}

// element implements visitor. An inline table in a list counts as a key, too: `[{}, {}]`
// makes a map of each in the library.
func (g *gate) element(value int) bool {
	g.open = append(g.open, frame{len(g.path), value})
	if value < len(g.doc) && g.doc[value] == '{' {
		g.keys++
		switch {
		case len(g.path) != 1:
		case g.path[0] == nodeKey:
			g.nodes++
		case g.path[0] == allowKey:
			g.allows++
		}
	}
	if g.values++; g.values > maxValues {
		return g.refuse(value, "more than %d elements in lists: list fewer nodes or prefixes", maxValues)
	}
	return g.nested(value) && g.ctx.Err() == nil
}

// end implements visitor, and bounds the length of what is no list and no table.
func (g *gate) end(at int) bool {
	f := g.open[len(g.open)-1]
	g.open = g.open[:len(g.open)-1]
	g.path = g.path[:f.parts]
	if c := g.doc[f.value]; at-f.value > maxText && c != '[' && c != '{' {
		return g.refuse(f.value, "a value of %d bytes: shorten it to %d at most", at-f.value, maxText)
	}
	return true
}

// nested bounds the recursion of the library and of the scanner.
func (g *gate) nested(at int) bool {
	if len(g.open) > maxNesting+1 { // the outermost pair has no bracket
		return g.refuse(at, "more than %d brackets are open here: close them, or remove the value", maxNesting)
	}
	return true
}

// enter extends the path by the parts of a key or table, within the limits.
func (g *gate) enter(parts []string, at int) bool {
	if len(g.path)+len(parts) > maxParts {
		return g.refuse(at, "a key of more than %d parts, the tables around it included: remove it", maxParts)
	}
	for _, part := range parts {
		if len(part) > maxText {
			return g.refuse(at, "the name of a key has %d bytes, the limit is %d: remove it", len(part), maxText)
		}
		g.path = append(g.path, part)
	}
	if g.keys += len(parts); g.keys > maxKeys {
		return g.refuse(at, "more than %d keys: list fewer nodes", maxKeys)
	}
	g.judge(at)
	return g.ctx.Err() == nil
}
