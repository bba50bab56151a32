package config

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"unicode/utf8"
)

// Files that are no TOML from the first line on: text of another format, or no text. One sentence
// about the whole file says more than one about the character on which a parser stops.

// A trouble is what is wrong with the text of a file, before any value can be looked at.
type trouble struct {
	at      int    // byte offset
	key     string // dotted; empty where it is in no value
	message string
}

// formOf returns what is wrong with a document as a whole; ok is false if nothing is known.
func formOf(doc string) (t trouble, ok bool) {
	if t, ok := noText(doc); ok {
		return t, true
	}
	at, first := firstLine(doc)
	for _, f := range otherFormats() {
		if f.first.MatchString(first) && (f.unless == nil || !f.unless.MatchString(doc)) {
			return trouble{at: at, message: f.say}, true
		}
	}
	return trouble{}, false
}

// noText finds the first character that no text file has.
func noText(doc string) (t trouble, ok bool) {
	if strings.HasPrefix(doc, "\xff\xfe") || strings.HasPrefix(doc, "\xfe\xff") || halfZeros(doc) {
		return trouble{message: "the file is in UTF-16: save it as UTF-8"}, true
	}
	at := strings.IndexFunc(doc, func(c rune) bool {
		return c < ' ' && !strings.ContainsRune("\t\n\r", c) || c == 0x7f
	})
	if wrong := firstInvalid(doc); wrong >= 0 && (at < 0 || wrong < at) {
		at = wrong
	}
	switch {
	case at < 0:
		return loneReturn(doc)
	case strings.Trim(doc[at:], "\x00") == "":
		return trouble{at: at, message: "zero bytes from here to the end of the file, as after a power cut: " +
			"write the file again"}, true
	case strings.Contains(doc, "\x00"):
		return trouble{at: at, message: "this is not a text file"}, true
	case doc[at] >= utf8.RuneSelf:
		says := fmt.Sprintf("byte 0x%02x is not part of a character in UTF-8: save the file as UTF-8", doc[at])
		return trouble{at: at, message: says}, true
	}
	return trouble{at: at, message: fmt.Sprintf("the control character U+%04X: delete it", doc[at])}, true
}

// firstInvalid returns the offset of the first byte that is no UTF-8; -1 if there is none.
func firstInvalid(doc string) int {
	for at, c := range doc {
		if c == utf8.RuneError && !strings.HasPrefix(doc[at:], "\uFFFD") {
			return at
		}
	}
	return -1
}

// loneReturn finds a line end of old Macs, which TOML does not have.
func loneReturn(doc string) (t trouble, ok bool) {
	for at := range len(doc) {
		if doc[at] == '\r' && !strings.HasPrefix(doc[at+1:], "\n") {
			const says = "a carriage return without a line feed: save the file with the line ends of Unix"
			return trouble{at: at, message: says}, true
		}
	}
	return trouble{}, false
}

// anyTable matches a line that only TOML and INI files have.
const anyTable = `(?m)^[ \t]*\[\[?[\w.-]+\]\]?[ \t]*\r?$|^[ \t]*\w+[ \t]*=`

// otherFormat is known by the first line that is neither empty nor a comment.
type otherFormat struct {
	first  *regexp.Regexp
	unless *regexp.Regexp // the document has this, too: it is TOML with one odd line
	say    string
}

// otherFormats are compiled for the first file that is not TOML.
var otherFormats = sync.OnceValue(func() []otherFormat {
	table := regexp.MustCompile(anyTable)
	return []otherFormat{
		{regexp.MustCompile(`^\{`), nil, isJSON},
		{regexp.MustCompile(`^\[\s*($|[{"])`), table, isJSON},
		{regexp.MustCompile(`^(---|%YAML|apiVersion:)`), nil, isYAML},
		{regexp.MustCompile(`^(- |["']?[\w./-]+["']?:(\s|$))`), table, isYAML},
		{regexp.MustCompile(`^<[!?/a-zA-Z]`), nil, isXML},
		{regexp.MustCompile(`^(?i)\[(interface|peer)\]`), nil, isWireGuard},
	}
})

const (
	seeInit = "`meshd init` prints one to start with"
	isJSON  = "this is JSON, and the file has to be TOML: " + seeInit +
		"; `meshd init --from-flannel` reads the JSON of flannel and of kubectl"
	isXML       = "this is XML or a web page, and the file has to be TOML: " + seeInit
	isWireGuard = "this is a file of wg-quick: `meshd init --from-wg FILE` drafts a mesh.toml from it"
	isYAML      = "this is YAML, and the file has to be TOML, such as cidr = \"10.244.0.0/16\": " + seeInit
)

// firstLine returns the first line of a document that is neither empty nor a comment, without
// blanks around it, and its offset.
func firstLine(doc string) (at int, line string) {
	at = byteOrderMark(doc)
	for line := range strings.Lines(doc[at:]) {
		text := strings.TrimSpace(line)
		if text != "" && text[0] != '#' {
			return at + strings.Index(line, text), clipLine(text)
		}
		at += len(line)
	}
	return at, ""
}

// clipLine shortens a line to what a hint looks at.
func clipLine(line string) string {
	const most = 400 // bytes
	line, _, _ = strings.Cut(line, "\n")
	for len(line) > most || !utf8.ValidString(line) {
		line = line[:min(most, len(line)-1)]
	}
	return strings.TrimSuffix(line, "\r")
}

// halfZeros tells whether a document begins as Latin text in UTF-16 without a mark: nearly every second byte
// is zero, and none of the others is. The header of a program has more zeros than that, but side by side.
func halfZeros(doc string) bool {
	const wide = 64 // bytes that are looked at
	var zeros [2]int
	head := doc[:min(len(doc), wide)]
	for i := range len(head) {
		if head[i] == 0 {
			zeros[i%2]++
		}
	}
	return len(head) > 1 && min(zeros[0], zeros[1]) == 0 && 2*max(zeros[0], zeros[1]) >= len(head)-1
}
