package config

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// The TOML library keeps the places of keys to itself (BurntSushi/toml issue
// 462), so faults are located here: locate walks a document that the library
// has already accepted and notes where every key and value stands. Being sure
// of the syntax, it only has to recognise where things begin and end. It runs
// only when there is a fault to report.
//
//	path    "network.mtu", "node[2].subnets[0]": tables joined by dots, array
//	        elements and [[array tables]] by their index
//	place   byte offset of the key or of the value

// places maps paths to byte offsets in the document.
type places struct {
	keys   map[string]int // where the key's own text, or a table's header, begins
	values map[string]int // where the value begins
	order  []string       // paths in keys, in file order, repeated tables included once
}

// locate finds every key and value of doc, which must be valid TOML; on
// anything else it returns what it found so far.
func locate(doc string) *places {
	s := &scanner{
		doc:    doc,
		places: &places{keys: map[string]int{}, values: map[string]int{}},
		arrays: map[string]int{},
	}
	s.document()
	return s.places
}

// at returns the place of the value at path, else of its key, else of the
// nearest table around it, else the start of the document.
func (p *places) at(path string) int {
	for path != "" {
		if at, ok := p.values[path]; ok {
			return at
		}
		if at, ok := p.keys[path]; ok {
			return at
		}
		cut := strings.LastIndexAny(path, ".[")
		path = path[:max(cut, 0)]
	}
	return 0
}

// lineCol converts a byte offset of doc to a line and a column in characters,
// both from 1. Offsets outside doc are moved to its nearest end.
func lineCol(doc string, at int) (line, col int) {
	head := doc[:min(max(at, 0), len(doc))]
	line = 1 + strings.Count(head, "\n")
	start := strings.LastIndexByte(head, '\n') + 1
	return line, 1 + utf8.RuneCountInString(head[start:])
}

type scanner struct {
	*places
	doc    string
	pos    int
	arrays map[string]int // elements so far of each [[array table]]
}

func (s *scanner) document() {
	table := ""
	for s.skip(true); s.pos < len(s.doc); s.skip(true) {
		start := s.pos
		switch {
		case s.take("[["):
			table = s.header(s.keyParts(), true, start)
			s.take("]]")
		case s.take("["):
			table = s.header(s.keyParts(), false, start)
			s.take("]")
		default:
			s.pair(table)
		}
		if s.pos == start { // not TOML after all: never loop in place
			return
		}
	}
}

// header turns the dotted name of a table into a path: each part that names an
// array of tables means its newest element. The table and those around it that
// are new begin at start.
func (s *scanner) header(parts []string, array bool, start int) string {
	path := ""
	for i, part := range parts {
		path = join(path, part)
		if array && i == len(parts)-1 {
			s.arrays[path]++
		}
		if n := s.arrays[path]; n > 0 {
			path += "[" + strconv.Itoa(n-1) + "]"
		}
		s.note(path, start)
	}
	return path
}

// pair reads `key = value` below the table at path.
func (s *scanner) pair(path string) {
	start := s.pos
	for _, part := range s.keyParts() {
		path = join(path, part)
		s.note(path, start)
	}
	if s.take("=") {
		s.skip(false)
		s.value(path)
	}
}

func (s *scanner) value(path string) {
	s.values[path] = s.pos
	switch {
	case s.pos >= len(s.doc):
	case s.take(`"""`):
		s.untilQuotes(`"""`, true)
	case s.take(`'''`):
		s.untilQuotes(`'''`, false)
	case s.take(`"`):
		s.until(`"`, true)
	case s.take(`'`):
		s.until(`'`, false)
	case s.take("["):
		for i := 0; s.more("]"); i++ {
			s.value(path + "[" + strconv.Itoa(i) + "]")
		}
	case s.take("{"):
		for s.more("}") {
			s.pair(path)
		}
	default: // number, boolean, date: up to whatever can follow a value
		n := strings.IndexAny(s.doc[s.pos:], ",]}#\r\n")
		if n < 0 {
			n = len(s.doc) - s.pos
		}
		s.pos += n
	}
}

// more skips to the next element of an array or inline table; false at its
// closing bracket, which it takes, or when nothing moved since last time.
func (s *scanner) more(closing string) bool {
	s.skip(true)
	if s.take(",") {
		s.skip(true)
	}
	return s.pos < len(s.doc) && !s.take(closing) && !strings.ContainsRune(",]}=", rune(s.doc[s.pos]))
}

// keyParts reads a dotted key: bare, "basic" and 'literal' parts.
func (s *scanner) keyParts() []string {
	var parts []string
	for {
		s.skip(false)
		start := s.pos
		switch {
		case s.take(`"`):
			s.until(`"`, true)
			part := s.doc[start:s.pos]
			if unquoted, err := strconv.Unquote(part); err == nil {
				part = unquoted
			}
			parts = append(parts, part)
		case s.take(`'`):
			s.until(`'`, false)
			parts = append(parts, strings.Trim(s.doc[start:s.pos], "'"))
		default:
			n := strings.IndexAny(s.doc[s.pos:], " \t.=]\r\n,}#")
			if n < 0 {
				n = len(s.doc) - s.pos
			}
			s.pos += n
			parts = append(parts, s.doc[start:s.pos])
		}
		s.skip(false)
		if !s.take(".") {
			return parts
		}
	}
}

// until moves behind the next closing quote, minding backslashes if asked to.
func (s *scanner) until(quote string, escapes bool) {
	for s.pos < len(s.doc) && !s.take(quote) {
		if escapes && s.doc[s.pos] == '\\' {
			s.pos++
		}
		s.pos++
	}
	s.pos = min(s.pos, len(s.doc))
}

// untilQuotes is until for multi-line strings, whose text may end in one or
// two quotes of its own right before the closing three.
func (s *scanner) untilQuotes(quote string, escapes bool) {
	s.until(quote, escapes)
	for range 2 {
		s.take(quote[:1])
	}
}

// skip moves over blanks, and over comments and line ends if lines is true.
func (s *scanner) skip(lines bool) {
	for s.pos < len(s.doc) {
		switch c := s.doc[s.pos]; {
		case c == ' ' || c == '\t':
			s.pos++
		case lines && (c == '\n' || c == '\r'):
			s.pos++
		case lines && c == '#':
			n := strings.IndexByte(s.doc[s.pos:], '\n')
			if n < 0 {
				n = len(s.doc) - s.pos
			}
			s.pos += n
		case lines && s.pos == 0 && strings.HasPrefix(s.doc, "\ufeff"):
			s.pos += len("\ufeff")
		default:
			return
		}
	}
}

func (s *scanner) take(token string) bool {
	if strings.HasPrefix(s.doc[s.pos:], token) {
		s.pos += len(token)
		return true
	}
	return false
}

func (s *scanner) note(path string, at int) {
	if _, ok := s.keys[path]; !ok {
		s.keys[path] = at
		s.order = append(s.order, path)
	}
}

func join(path, part string) string {
	if path == "" {
		return part
	}
	return path + "." + part
}
