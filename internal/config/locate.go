package config

import (
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The TOML library does not export the places of keys (BurntSushi/toml issue 462), so
// this file finds them: locate walks a document that the gate has admitted and the library
// has accepted, and notes the offsets of every key and value. It runs only when there is
// something to report, so that a good file costs nothing.
//
//	path    "network.mtu", "node[2].subnets[0]": tables joined by dots, array
//	        elements and [[array tables]] by their index
//	place   byte offset of the key or of the value

// places is a tree of the document's keys and elements. A step from the parent's number
// identifies each of them, so that a deep key costs no more than a flat one: with whole
// paths as keys of the map, nested tables would cost the square of their depth.
type places struct {
	all      []place // in file order; the first is the document
	children map[step]int32

	current int32   // the table that pairs belong to
	open    []int32 // pairs and elements that have not ended
}

// A place is one key, table or element of the document.
type place struct {
	key      int32 // byte offset of the key's text, or of the table's header
	value    int32 // byte offset of the value; -1: a table has none
	elements int32 // number of elements so far, of a list
	newest   int32 // the last element, of an array of tables; 0 for everything else
}

// A step leads from a place to one directly below it, by a part of a key or by an index.
type step struct {
	parent int32
	part   string
	index  int32 // -1: the step is by part
}

// locate finds every key and value of doc, which must have passed the gate: the gate
// bounds the recursion. In a broken document locate finds what stands before the break.
func locate(doc string) *places {
	p := &places{all: []place{{key: 0, value: -1}}, children: map[step]int32{}}
	scan(doc, p)
	return p
}

// at returns the offset of the value at path. Without a value it is that of the key, for
// a missing key that of the nearest table around it, and else the start of the document.
func (p *places) at(path string) int {
	at := int32(0)
	for path != "" {
		part, index := path, -1
		if n := strings.IndexAny(path[1:], ".["); n >= 0 {
			part = path[:n+1]
		}
		path = strings.TrimPrefix(path[len(part):], ".")
		if part[0] == '[' {
			index, _ = strconv.Atoi(part[1 : len(part)-1])
			part = ""
		}
		below, ok := p.children[step{at, part, int32(index)}]
		if !ok {
			break
		}
		at = below
	}
	if value := p.all[at].value; value >= 0 {
		return int(value)
	}
	return int(p.all[at].key)
}

// has reports whether the document has a table or a key of the top level.
func (p *places) has(name string) bool {
	_, ok := p.children[step{0, name, -1}]
	return ok
}

// child returns the place that a step leads to, and makes it if it does not exist yet;
// key is the offset of a new one.
func (p *places) child(s step, key int) int32 {
	if n, ok := p.children[s]; ok {
		return n
	}
	n := int32(len(p.all))
	p.all = append(p.all, place{key: int32(key), value: -1})
	p.children[s] = n
	return n
}

// grow adds an element to a list and returns its place.
func (p *places) grow(list int32, key int) int32 {
	element := p.child(step{parent: list, index: p.all[list].elements}, key)
	p.all[list].elements++
	return element
}

// table implements visitor. In a header each part that names an array of tables means the
// newest element of that array (TOML 1.0, "Array of Tables"). Tables that a header makes
// on its way begin at that header, too.
func (p *places) table(parts []string, array bool, at int) bool {
	p.current = 0
	for i, part := range parts {
		p.current = p.child(step{p.current, part, -1}, at)
		if array && i == len(parts)-1 {
			newest := p.grow(p.current, at) // may move p.all
			p.all[p.current].newest = newest
		}
		if newest := p.all[p.current].newest; newest > 0 {
			p.current = newest
		}
	}
	return true
}

// pair implements visitor.
func (p *places) pair(parts []string, at, value int) bool {
	n := p.around()
	for _, part := range parts {
		n = p.child(step{n, part, -1}, at)
	}
	p.all[n].value = int32(value)
	p.open = append(p.open, n)
	return true
}

// element implements visitor.
func (p *places) element(value int) bool {
	n := p.grow(p.around(), value)
	p.all[n].value = int32(value)
	p.open = append(p.open, n)
	return true
}

// end implements visitor.
func (p *places) end(int) bool {
	p.open = p.open[:len(p.open)-1]
	return true
}

// around returns the innermost pair or element that has not ended, or else the table.
func (p *places) around() int32 {
	if len(p.open) == 0 {
		return p.current
	}
	return p.open[len(p.open)-1]
}

// lines are the byte offsets at which the lines of a document begin, in rising order.
type lines []int32

// linesOf finds the lines of a document; it has at least one.
func linesOf(doc string) lines {
	starts := make(lines, 1, 1+strings.Count(doc, "\n"))
	for at := 0; ; {
		n := strings.IndexByte(doc[at:], '\n')
		if n < 0 {
			return starts
		}
		at += n + 1
		starts = append(starts, int32(at))
	}
}

// line returns the number of the line that holds an offset, from 1.
func (l lines) line(at int) int {
	return sort.Search(len(l), func(i int) bool { return int(l[i]) > at })
}

// A cursor tells the lines and columns of rising offsets, so that a thousand faults cost
// one pass over the document and not a thousand.
type cursor struct {
	doc       string
	at        int // the offset that line and col belong to
	line, col int // from 0; col in characters, as editors count
}

// move goes forward to an offset and returns its line and column, both from 1. An offset
// behind the document means its end; a lower offset than before leaves the cursor alone.
func (c *cursor) move(at int) (line, col int) {
	passed := c.doc[c.at:max(c.at, min(at, len(c.doc)))]
	c.at += len(passed)
	if n := strings.LastIndexByte(passed, '\n'); n >= 0 {
		c.line += strings.Count(passed, "\n")
		c.col, passed = 0, passed[n+1:]
	}
	c.col += utf8.RuneCountInString(passed)
	return c.line + 1, c.col + 1
}
