package config

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
)

// explain says in plain words why a document is not TOML. at is the offset at which the library,
// or the scanner, gave up; the place of the trouble may be another one: a list that is not closed
// breaks where the next key begins. doc must have passed the gate.
//
// The library's own words are for people who know TOML's grammar, and it says one thing for many
// slips. So a second scan looks for the slip itself, from the beginning of the file on:
//
//	diagnosis  a key twice, a word without quotes, a bad escape; or the scan ends there
//	hint       what people write in place of what TOML wants there
func explain(doc string, at int) trouble {
	d := &diagnosis{doc: doc, places: &places{all: []place{{value: -1}}, children: map[step]int32{}},
		headers: map[int32]int32{}}
	end, whole := scan(doc, d)
	switch {
	case d.found != nil:
		return *d.found
	case !whole:
		return d.stuck(end)
	}
	return trouble{at: at, message: unknownTrouble}
}

// unknownTrouble is said of what only the library knows.
const unknownTrouble = "this is not valid TOML: check the quotes, brackets and commas here and above"

// A diagnosis is the visitor of the scan that looks for the slip. It keeps places, which tell what
// is open and what stands where.
type diagnosis struct {
	*places
	doc     string
	found   *trouble        // ends the scan
	section string          // the dotted name of the last header
	key     string          // of the pair that is open, or that ended last, outside of all values
	last    int             // offset of the last header, or where the last pair ended
	headers map[int32]int32 // offsets of headers, and of dotted keys that make tables, by their place
	asked   int             // words that the library was asked for
}

// fail notes the trouble and ends the scan.
func (d *diagnosis) fail(at int, key, message string) bool {
	d.found = &trouble{at, key, message}
	return false
}

// table implements visitor.
func (d *diagnosis) table(parts []string, array bool, at int) bool {
	d.section, d.key, d.last = strings.Join(parts, "."), "", at
	before := int32(len(d.all))
	list, listed := d.children[step{0, parts[0], -1}]
	d.places.table(parts, array, at)
	n, first := d.current, int32(-1)
	if array && len(parts) == 1 && listed && d.all[list].newest > 0 && d.all[list].value >= 0 {
		first = d.all[list].key // node = [...], and then [[node]]
	} else if header, ok := d.headers[n]; ok && !array {
		first = header
	} else if n < before && d.all[n].value >= 0 {
		first = d.all[n].key
	}
	if first >= 0 {
		return d.fail(at, d.section, fmt.Sprintf("this table began in line %d: write its keys there, and delete "+
			"this header", d.line(first)))
	}
	d.headers[n] = int32(at)
	return true
}

// pair implements visitor.
func (d *diagnosis) pair(parts []string, at, value int) bool {
	if len(d.open) == 0 {
		d.key = strings.TrimPrefix(d.section+"."+strings.Join(parts, "."), ".")
	}
	before, n := int32(len(d.all)), d.around()
	d.places.pair(parts, at, value)
	for _, part := range parts[:len(parts)-1] { // a dotted key makes tables
		n = d.children[step{n, part, -1}]
		if _, ok := d.headers[n]; !ok {
			d.headers[n] = int32(at)
		}
	}
	n = d.open[len(d.open)-1]
	switch {
	case n >= before:
		return true
	case d.section == nodeKey:
		return d.fail(at, d.key, fmt.Sprintf("this node has its %s in line %d already: begin the next node with "+
			"[[node]]", parts[len(parts)-1], d.line(d.all[n].key)))
	}
	line := d.line(d.all[n].key)
	return d.fail(at, d.key, fmt.Sprintf("it is already set in line %d: keep one of the two", line))
}

// end implements visitor: it looks at the text of a value that the scanner has read.
func (d *diagnosis) end(at int) bool {
	value := int(d.all[d.open[len(d.open)-1]].value)
	switch text := d.doc[value:at]; text[0] {
	case '"':
		if at := badEscape(text); at >= 0 {
			return d.fail(value+at, d.key, `a backslash begins an escape: write \\ for a backslash, or put the text `+
				`between single quotes`)
		}
	case '\'', '[', '{':
	default:
		if !d.isWord(text) {
			return d.word(value, text)
		}
	}
	d.places.end(at)
	if len(d.open) == 0 {
		d.last = at
	}
	return true
}

// plainWord matches the words that most files consist of, and that are certainly valid.
var plainWord = regexp.MustCompile(`^(true|false|0|[1-9]\d{0,17})$`)

// isWord asks the library whether a text is a number, a boolean or a date. Only the first of many
// odd ones are looked at, so that a file full of them costs no more than others.
func (d *diagnosis) isWord(text string) bool {
	const most = 1000
	if d.asked >= most || plainWord.MatchString(text) {
		return true
	}
	d.asked++
	var tree rawTable
	return syntaxError(toml.Decode("x = "+text, &tree)) < 0
}

// word fails with a value that is no number, no boolean and no date.
func (d *diagnosis) word(value int, text string) bool {
	if bracket, ok := d.runaway(value); ok {
		return d.unclosed(bracket)
	}
	for at, c := range text {
		if says := odd(c); says != "" {
			return d.fail(value+at, d.key, says)
		}
	}
	at, says := first(ofWord, text)
	return d.fail(value+at, d.key, says)
}

// escape matches what may stand behind a backslash (TOML 1.1, "String").
var escape = regexp.MustCompile(
	`^\\([btnfre"\\]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[ \t]*\r?\n)`)

// badEscape returns the offset of a backslash in a string that begins no escape; -1 if there is none.
func badEscape(text string) int {
	for at := 0; at < len(text); at++ {
		if text[at] != '\\' {
			continue
		}
		if !escape.MatchString(text[at:]) {
			return at
		}
		at++ // the backslash may hide another one
	}
	return -1
}

// stuck says why the scanner cannot read on at an offset.
func (d *diagnosis) stuck(end int) trouble {
	if len(d.open) == 0 {
		return d.betweenValues(end)
	}
	value := int(d.all[d.open[len(d.open)-1]].value)
	if bracket, ok := d.runaway(end); ok {
		d.unclosed(bracket)
		return *d.found
	}
	if value == len(d.doc) || endsValue(d.doc[value]) {
		if value < len(d.doc) && d.doc[value] == ',' && len(d.open) > 1 {
			return trouble{value, d.key, "delete this comma: an element is missing before it"}
		}
		return trouble{value, d.key, "there is no value behind the equals sign"}
	}
	table, at := inList, end
	if c := d.doc[value]; c == '"' || c == '\'' {
		table, at = ofString, value
	} else if says := odd(runeAt(d.doc, end)); says != "" {
		return trouble{end, d.key, says}
	}
	offset, says := first(table, d.doc[at:])
	return trouble{at + offset, d.key, says}
}

// betweenValues is stuck where no value is open: in a header, in a key, or behind a value.
func (d *diagnosis) betweenValues(end int) trouble {
	begin := strings.LastIndexByte(d.doc[:end], '\n') + 1
	behind := d.last >= begin && d.section+d.key != ""
	if !behind {
		d.key = ""
	}
	if says := odd(runeAt(d.doc, end)); says != "" {
		return trouble{end, d.key, says}
	}
	if behind {
		at, says := first(afterValue, d.doc[end:])
		return trouble{end + at, d.key, says}
	}
	begin += len(d.doc[begin:end]) - len(strings.TrimLeft(d.doc[begin:end], " \t\r"))
	at, says := first(ofLine, d.doc[begin:])
	return trouble{begin + at, "", says}
}

// Lines that begin a new part of the file: where one stands inside of a list, the list has no end.
var (
	headerLine = regexp.MustCompile(`^\[\[?\s*[\w-]+\s*\]\]?\s*(#.*)?$`)
	pairLine   = regexp.MustCompile(`^[\w-]+\s*=`)
)

// runaway reports whether a list or an inline table is open at an offset although the next part of
// the file has begun, or the file has ended, and returns the offset of its bracket.
func (d *diagnosis) runaway(at int) (bracket int, ok bool) {
	begin := strings.LastIndexByte(d.doc[:at], '\n') + 1
	line := strings.Trim(clipLine(d.doc[begin:]), " \t")
	for i := len(d.open) - 1; i >= 0; i-- {
		value := int(d.all[d.open[i]].value)
		if value >= len(d.doc) || d.doc[value] != '[' && d.doc[value] != '{' {
			continue
		}
		if strings.TrimSpace(d.doc[at:]) == "" {
			return value, true
		}
		if value < begin {
			return value, headerLine.MatchString(line) || d.doc[value] == '[' && pairLine.MatchString(line)
		}
	}
	return 0, false
}

// unclosed fails with a list or an inline table that has no end.
func (d *diagnosis) unclosed(bracket int) bool {
	if d.doc[bracket] == '{' {
		return d.fail(bracket, d.key, "this inline table is not closed: write } at its end")
	}
	return d.fail(bracket, d.key, "this list is not closed: write ] at its end")
}

// line returns the number of the line that holds an offset.
func (d *diagnosis) line(at int32) int { return 1 + strings.Count(d.doc[:at], "\n") }

// runeAt returns the character at an offset; 0 at the end of a document.
func runeAt(doc string, at int) rune {
	if at >= len(doc) {
		return 0
	}
	c, _ := utf8.DecodeRuneInString(doc[at:])
	return c
}
