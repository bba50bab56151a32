package config

import (
	"strconv"
	"strings"
)

// A scanner walks a TOML document once and tells a visitor where tables, keys and values
// begin and end. It knows strings and comments, builds no values, and leaves numbers,
// dates and escapes to the library. For every document that the library accepts, scanner
// and library agree on where things end; FuzzScan tests that, since the gate is only as
// good as this agreement.
//
// Two visitors exist: the gate, which bounds what the library gets to see, and places,
// which tells where a fault is.
type scanner struct {
	doc   string
	pos   int      // byte offset of the next character
	parts []string // of the last key; the array is reused
	visit visitor
}

// A visitor gets a document's parts in file order. Offsets count bytes from the start of
// the document; parts are valid during the call only. A visitor that returns false ends
// the scan, which is how the gate bounds the scanner's recursion.
type visitor interface {
	// table is the header [parts] or [[parts]]; the pairs after it belong to it.
	table(parts []string, array bool, at int) bool
	// pair is the key parts at an offset; its value begins at another one.
	pair(parts []string, at, value int) bool
	// element is the next element of the array that began last.
	element(value int) bool
	// end closes the pair or element that began last and has not ended.
	end(at int) bool
}

// scan walks doc. ok is false if the visitor ended the walk or if the text at the
// offset end cannot belong to a TOML document.
func scan(doc string, visit visitor) (end int, ok bool) {
	s := &scanner{doc: doc, visit: visit, pos: byteOrderMark(doc)}
	ok = s.document()
	return s.pos, ok
}

// byteOrderMark returns the length of a byte order mark that the library skips: that of
// UTF-8, and those of UTF-16, which the library takes for noise.
func byteOrderMark(doc string) int {
	for _, mark := range []string{"\xef\xbb\xbf", "\xff\xfe", "\xfe\xff"} {
		if strings.HasPrefix(doc, mark) {
			return len(mark)
		}
	}
	return 0
}

// document reads all headers and pairs.
func (s *scanner) document() bool {
	for s.skip(); s.pos < len(s.doc); s.skip() {
		if !s.item() {
			return false
		}
		s.blanks()
		if s.pos < len(s.doc) && !strings.ContainsRune("#\r\n", rune(s.doc[s.pos])) {
			return false // TOML wants a line end between two items
		}
	}
	return true
}

// item reads a header or a pair.
func (s *scanner) item() bool {
	start := s.pos
	switch {
	case s.take("[["):
		return s.key() && s.take("]]") && s.visit.table(s.parts, true, start)
	case s.take("["):
		return s.key() && s.take("]") && s.visit.table(s.parts, false, start)
	default:
		return s.pair()
	}
}

// pair reads key = value, at the top level or in an inline table.
func (s *scanner) pair() bool {
	start := s.pos
	if !s.key() || !s.take("=") {
		return false
	}
	s.blanks()
	return s.visit.pair(s.parts, start, s.pos) && s.value() && s.visit.end(s.pos)
}

// element reads one value of a list.
func (s *scanner) element() bool {
	return s.visit.element(s.pos) && s.value() && s.visit.end(s.pos)
}

// value reads a string, a list, an inline table, or a word of any other kind.
func (s *scanner) value() bool {
	if s.pos == len(s.doc) {
		return false
	}
	switch s.doc[s.pos] {
	case '"':
		if s.take(`"""`) {
			return s.untilThree(`"""`, true)
		}
		s.pos++
		return s.until('"', true)
	case '\'':
		if s.take(`'''`) {
			return s.untilThree(`'''`, false)
		}
		s.pos++
		return s.until('\'', false)
	case '[':
		s.pos++
		return s.list("]", s.element)
	case '{':
		s.pos++
		return s.list("}", s.pair)
	}
	// A number, boolean or date ends where something else can follow. A date may have a
	// blank inside ("1979-05-27 07:32:00"), so only blanks at the end are cut off.
	start := s.pos
	for s.pos < len(s.doc) && !endsValue(s.doc[s.pos]) {
		s.pos++
	}
	for s.pos > start && (s.doc[s.pos-1] == ' ' || s.doc[s.pos-1] == '\t') {
		s.pos--
	}
	return s.pos > start
}

// endsValue reports whether c cannot be part of a number, boolean or date.
func endsValue(c byte) bool {
	switch c {
	case ',', ']', '}', '#', '\r', '\n':
		return true
	}
	return false
}

// list reads items between commas up to the closing bracket. Like the library it allows a
// comma at the end and line breaks, in inline tables, too.
func (s *scanner) list(closing string, one func() bool) bool {
	for {
		s.skip()
		if s.take(closing) {
			return true
		}
		if !one() {
			return false
		}
		s.skip()
		if !s.take(",") {
			return s.take(closing)
		}
	}
}

// key reads a dotted key into parts: bare, "basic" and 'literal' ones.
func (s *scanner) key() bool {
	s.parts = s.parts[:0]
	for {
		s.blanks()
		part, ok := s.part()
		if !ok {
			return false
		}
		if len(s.parts) <= maxParts { // the gate refuses a key of one part too many
			s.parts = append(s.parts, part)
		}
		s.blanks()
		if !s.take(".") {
			return true
		}
	}
}

// part reads one part of a key and returns it without quotes.
func (s *scanner) part() (part string, ok bool) {
	start := s.pos
	switch {
	case s.take(`"`):
		ok = s.until('"', true)
		part = s.doc[start:s.pos]
		if unquoted, err := strconv.Unquote(part); err == nil {
			part = unquoted
		}
	case s.take(`'`):
		ok = s.until('\'', false)
		part = strings.Trim(s.doc[start:s.pos], "'")
	default:
		for s.pos < len(s.doc) && bare(s.doc[s.pos]) {
			s.pos++
		}
		part, ok = s.doc[start:s.pos], s.pos > start
	}
	return part, ok
}

// bare reports whether c may stand in a key without quotes.
func bare(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

// until moves behind the closing quote of a string on one line. With escapes a backslash
// hides the quote behind it.
func (s *scanner) until(quote byte, escapes bool) bool {
	for ; s.pos < len(s.doc); s.pos++ {
		switch c := s.doc[s.pos]; {
		case c == quote:
			s.pos++
			return true
		case c == '\n':
			return false
		case c == '\\' && escapes:
			s.pos++
		}
	}
	s.pos = len(s.doc)
	return false
}

// untilThree is until for strings of several lines. The text may end in one or two quotes
// of its own right before the closing three (TOML 1.0, "String").
func (s *scanner) untilThree(quotes string, escapes bool) bool {
	for s.pos < len(s.doc) {
		switch {
		case s.take(quotes):
			for range 2 {
				s.take(quotes[:1])
			}
			return true
		case s.doc[s.pos] == '\\' && escapes:
			s.pos++
		}
		s.pos++
	}
	s.pos = len(s.doc)
	return false
}

// skip moves over blanks, line ends and comments.
func (s *scanner) skip() {
	for s.pos < len(s.doc) {
		switch s.doc[s.pos] {
		case ' ', '\t', '\r', '\n':
			s.pos++
		case '#':
			n := strings.IndexByte(s.doc[s.pos:], '\n')
			if n < 0 {
				n = len(s.doc) - s.pos
			}
			s.pos += n
		default:
			return
		}
	}
}

// blanks moves over blanks on one line.
func (s *scanner) blanks() {
	for s.pos < len(s.doc) && (s.doc[s.pos] == ' ' || s.doc[s.pos] == '\t') {
		s.pos++
	}
}

// take moves over token if it comes next.
func (s *scanner) take(token string) bool {
	if strings.HasPrefix(s.doc[s.pos:], token) {
		s.pos += len(token)
		return true
	}
	return false
}
