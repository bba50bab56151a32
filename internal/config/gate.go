package config

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// The TOML library recurses for each open bracket, builds a string of all parts for
// each key, and cannot be stopped. The gate reads a document first and lets through
// only what the library handles in linear time, in about a second and 250 MB. A mesh of
// 10,000 nodes with eight prefixes each has 50,000 keys, 80,000 elements and, with each
// prefix on a line of its own, 180,000 lines.
const (
	maxNesting = 100       // brackets that are open at one place
	maxParts   = 10        // of a key together with the tables around it
	maxText    = 4096      // bytes of a part of a key, or of a value; PATH_MAX of the kernel
	maxKeys    = 300_000   // parts of keys and tables' names, and tables in lists
	maxValues  = 300_000   // elements of lists
	maxLines   = 1_000_000 // the library copies them to tell where an error is
	maxStrays  = 1000      // keys that do not exist in this file
)

// A gate is the visitor that counts, and that notes unknown keys.
type gate struct {
	ctx    context.Context
	doc    string
	report *report

	path []string // tables and keys around the place that is read
	open []frame  // pairs and elements around it

	name    string   // the first part of path that was looked up last,
	allowed []string // and the keys known below it

	keys, values, strays int
	nodes                int            // elements of [[node]] so far
	told                 map[string]int // unknown keys in the report: the last node with each; -1: none
}

type frame struct{ parts, value int } // length of the path before it; offset of its value

// admit reads doc and returns what the library may see of it: all, or, where doc stops
// being TOML at the offset stuck, everything up to the end of that line; stuck is -1 in
// a good file. ok is false if there is nothing to decode: the report says why, or ctx
// has ended.
func admit(ctx context.Context, doc string, r *report) (admitted string, stuck int, ok bool) {
	g := &gate{ctx: ctx, doc: doc, report: r, told: map[string]int{}}
	if lines := strings.Count(doc, "\n"); lines > maxLines {
		g.refuse(0, "the file has %d lines, the limit is %d: remove comments and empty lines", lines, maxLines)
		return "", 0, false
	}
	end, whole := scan(doc, g)
	switch {
	case ctx.Err() != nil, r.fatal:
		return "", 0, false
	case g.strays > maxStrays:
		if r.count == 0 { // all of them below a known key, which is no table
			g.refuse(0, "the file has %d keys that meshd does not know: `meshd init` prints all that exist", g.strays)
		}
		return "", 0, false
	case whole:
		return doc, -1, true
	}
	line, _, _ := strings.Cut(doc[end:], "\n")
	return doc[:min(end+len(line)+1, len(doc))], end, true
}

func (g *gate) refuse(at int, format string, args ...any) bool {
	g.report.syntax(at, fmt.Sprintf(format, args...))
	return false
}

func (g *gate) table(parts []string, array bool, at int) bool {
	g.path = g.path[:0]
	if array && len(parts) == 1 && parts[0] == nodeKey {
		g.nodes++
	}
	return g.enter(parts, at)
}

func (g *gate) pair(parts []string, at, value int) bool {
	g.open = append(g.open, frame{len(g.path), value})
	return g.nested(at) && g.enter(parts, at)
}

func (g *gate) element(value int) bool {
	g.open = append(g.open, frame{len(g.path), value})
	if value < len(g.doc) && g.doc[value] == '{' {
		g.keys++
		if len(g.path) == 1 && g.path[0] == nodeKey {
			g.nodes++
		}
	}
	if g.values++; g.values > maxValues {
		return g.refuse(value, "more than %d elements in lists: list fewer nodes or prefixes", maxValues)
	}
	return g.nested(value) && g.ctx.Err() == nil
}

func (g *gate) end(at int) bool {
	f := g.open[len(g.open)-1]
	g.open = g.open[:len(g.open)-1]
	g.path = g.path[:f.parts]
	if c := g.doc[f.value]; at-f.value > maxText && c != '[' && c != '{' {
		return g.refuse(f.value, "a value of %d bytes: shorten it to %d at most", at-f.value, maxText)
	}
	return true
}

// nested bounds how deep the library recurses, and the scanner.
func (g *gate) nested(at int) bool {
	if len(g.open) > maxNesting+1 { // the outermost pair has no bracket
		return g.refuse(at, "more than %d brackets are open here: close them, or remove the value", maxNesting)
	}
	return true
}

// enter goes to a key or table below the path.
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

// judge notes a path that does not exist in this file, once for each node.
func (g *gate) judge(at int) {
	if g.path[0] != g.name || g.name == "" {
		g.name, g.allowed = g.path[0], known[g.path[0]]
	}
	depth := 0 // where the unknown part is
	switch {
	case g.allowed == nil || g.name == "":
		depth = 1
	case len(g.path) > 1 && !slices.Contains(g.allowed, g.path[1]):
		depth = 2
	case len(g.path) == 2 || len(g.path) == 1:
		return
	}
	if g.strays++; depth == 0 { // below a known value, which is told to be no table
		return
	}
	key := strings.Join(g.path[:depth], ".")
	node := -1
	if g.path[0] == nodeKey {
		node = g.nodes
	}
	if last, told := g.told[key]; told && last == node {
		return
	}
	g.told[key] = node
	table := strings.Join(g.path[:depth-1], ".")
	g.report.unknown(at, key, g.path[depth-1], known[table])
}
