package config

import (
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The TOML library keeps the places of keys to itself (BurntSushi/toml issue
// 462), so faults are located here: locate walks a document that the gate has
// admitted and the library has accepted, and notes where every key and value
// stands. It runs only when there is something to report.
//
//	path    "network.mtu", "node[2].subnets[0]": tables joined by dots, array
//	        elements and [[array tables]] by their index
//	place   byte offset of the key or of the value

// places is a tree of the document's keys and elements. Each is known by the number of
// its parent and one step, so that a deep key costs no more than a flat one.
type places struct {
	all      []place // in file order; the first is the document
	children map[step]int32

	current int32   // table that pairs belong to
	open    []int32 // pairs and elements that have not ended
}

type place struct {
	key, value int32 // byte offsets of the key's own text or the table's header, and of the value; -1: none
	elements   int32 // so far
	newest     int32 // element of an array of tables; 0: it is none
}

// A step leads from a place to one below it: a part of a key, or an index.
type step struct {
	parent int32
	part   string
	index  int32 // -1: by part
}

// locate finds every key and value of doc, which must have passed the gate; on
// what is not TOML it returns what it found so far.
func locate(doc string) *places {
	p := &places{all: []place{{key: 0, value: -1}}, children: map[step]int32{}}
	scan(doc, p)
	return p
}

// at returns the place of the value at path, else of its key, else of the
// nearest table around it, else the start of the document.
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

// child returns the place one step below another, a new one with its key at an offset
// if there is none yet.
func (p *places) child(s step, key int) int32 {
	if n, ok := p.children[s]; ok {
		return n
	}
	n := int32(len(p.all))
	p.all = append(p.all, place{key: int32(key), value: -1})
	p.children[s] = n
	return n
}

// grow adds an element to a list.
func (p *places) grow(list int32, key int) int32 {
	element := p.child(step{parent: list, index: p.all[list].elements}, key)
	p.all[list].elements++
	return element
}

// table goes to a table: each part that names an array of tables means its newest
// element. The table and those around it that are new begin at its header.
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

func (p *places) pair(parts []string, at, value int) bool {
	n := p.around()
	for _, part := range parts {
		n = p.child(step{n, part, -1}, at)
	}
	p.all[n].value = int32(value)
	p.open = append(p.open, n)
	return true
}

func (p *places) element(value int) bool {
	n := p.grow(p.around(), value)
	p.all[n].value = int32(value)
	p.open = append(p.open, n)
	return true
}

func (p *places) end(int) bool {
	p.open = p.open[:len(p.open)-1]
	return true
}

// around returns the table, pair or element that is being read.
func (p *places) around() int32 {
	if len(p.open) == 0 {
		return p.current
	}
	return p.open[len(p.open)-1]
}

// lines are the offsets where the lines of a document begin.
type lines []int32

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

// line returns the number of the line with an offset, from 1.
func (l lines) line(at int) int {
	return sort.Search(len(l), func(i int) bool { return int(l[i]) > at })
}

// A cursor tells lines and columns of offsets that only rise, so that many of them cost
// one pass over the document.
type cursor struct {
	doc       string
	at        int // everything before it has been counted
	line, col int // there, from 0; col in characters
}

// move goes to an offset and returns its line and column, both from 1. Offsets outside
// of the document are moved to its end, lower ones than before stay.
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
