package config

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"unicode/utf8"
)

// The hints say what to write where TOML ends. Each is a pattern of what people write instead, and
// a sentence. The tables are tried from top to bottom, and the last pattern of each matches
// anything. Whoever meets a further slip adds a line here, and a file to testdata/bad.

// A hint matches text from the place of the trouble to the end of its line.
type hint struct {
	pattern *regexp.Regexp // its group "at", if it has one and it matches, is the place of the trouble
	say     string         // $1 stands for the first group, as in regexp.Expand
}

// hints compiles pairs of a pattern and a sentence, for the first file that needs them: most files are good,
// and half a megabyte of each process would be for the others.
func hints(pairs ...string) func() []hint {
	return sync.OnceValue(func() (all []hint) {
		for i := 0; i < len(pairs); i += 2 {
			all = append(all, hint{regexp.MustCompile(pairs[i]), pairs[i+1]})
		}
		return all
	})
}

// Sentences that several tables use.
const (
	comment  = "a comment begins with #"
	newLine  = "each key needs a line of its own"
	notInKey = "a key has only letters, digits, _ and -: delete what else is in it"
	notation = "write KEY = VALUE, a [table] or a # comment"
)

// ofLine is for a line that is neither a header nor KEY = VALUE.
var ofLine = hints(
	`^(<{7}|={7}|>{7}|\|{7})(\s|$)`, "an unfinished merge: keep one of the two versions, and delete this line",
	`^(//|;|--|/\*|\*|%|(?i:rem)\s)`, comment,
	`^[^\s\[#]+(?P<header>\[\[[\w-]+\]\]|\[[\w-]+\])\s*(#.*)?$`, "a header begins its line: write $header",
	`^[^\w\s\[](\w+)\]\s*(#.*)?$`, "a table stands in square brackets: write [$1]",
	`^[^\w\s\[\]]{1,3}$`, "delete this line",
	`^\[\[?\s*\]`, "the table has no name: write [network] or [[node]]",
	`^\[\[\s*([\w.-]+)\s*\]?\s*(#.*)?$`, "a closing bracket is missing: write [[$1]]",
	`^[^\s\[#]?\[\s*([\w.-]+)\s*\]\]`, "write [[$1]] with two brackets on each side, or [$1] with one",
	`^\[\s*node\s*(#.*)?$`, "the closing brackets are missing: write [[node]]",
	`^\[\s*([\w.-]+)\s*(#.*)?$`, "the closing bracket is missing: write [$1]",
	`^\[`, "the name of a table is one word, such as [network] or [[node]]",
	`^([\w.-]+)\s*\]\]\s*(#.*)?$`, "the opening brackets are missing: write [[$1]]",
	`^([\w.-]+)\s*\]\s*(#.*)?$`, "the opening bracket is missing: write [$1]",
	`^[({<]\s*([\w.-]+)\s*[)}>]\s*(#.*)?$`, "a table stands in square brackets: write [$1]",
	`^([\w.-]+)\s*(?P<at>:=|:|->|\+=|\?=)`, "write an equals sign: $1 = VALUE",
	`^"([\w.-]+)"\s*(?P<at>:)`, "write $1 = VALUE, as TOML does, and not as JSON",
	`^[\w.-]*(?P<at>[^\w\s.=:-]|\.\.)[^=]*=`, notInKey,
	`^[\w-]+(?P<at>\.)\s*=`, notInKey,
	`^[.:][\w-]+\s*=`, notInKey,
	`^-\s`, "this line is YAML: write KEY = VALUE, and lists as [\"a\", \"b\"]",
	`^(\d[\w.:]*(/\d+)?)`, "$1 belongs to no key: "+notation,
	`^([\w.-]+)\s*(#.*)?$`, "$1 has no value: write $1 = VALUE",
	`^(?:\w+[ \t]+)+\w+[ \t]*=`, "a key is one word: join words by _, or write each key on its own line",
	`^([\w-]+)\s+(?P<at>\S)`, "the equals sign is missing: write $1 = VALUE",
	`^:\w*$`, "a command of an editor: delete this line",
	`^=`, "the key before the equals sign is missing",
	`^[\]})]`, "this bracket closes nothing: delete it, or look for a list that was closed too early",
	`^[{(]`, notation,
	`^,`, "delete this comma: keys are not separated by commas",
	`^["']`, "this text belongs to no key: "+notation,
	``, notation,
)

// ofWord is for a value without quotes that is no number, no boolean and no date.
var ofWord = hints(
	`^(=|>)`, "one equals sign is enough: write KEY = VALUE",
	`^(?i:true)$`, "write true in lower-case letters",
	`^(?i:false)$`, "write false in lower-case letters",
	`^(?i:yes|on|enabled?|no|off|disabled?|none|y|n)$`, "write true or false; a word needs quotes: \"$0\"",
	`^(?i:null|nil|~|undefined)$`, "TOML has no empty value: delete the line",
	`^[\w.]+\s*(?P<at>//|;|--|/\*)`, comment,
	`^[+-]?0+(\d+)$`, "a number has no leading zeros: write $1",
	`^((\d+(\.\d+){3}|[0-9a-fA-F]*:[0-9a-fA-F:.]*)(:\d+)?(/\d+)?)$`, "an address needs quotes: write \"$1\"",
	`^((\d+(\.\d+)?\s*(ms|s|sec\w*|m|min\w*|h|hours?))+)$`, "a duration needs quotes: write \"$1\"",
	`^(\d+)\s*\pL+$`, "a number has no unit: write $1; text needs quotes",
	`^[+-]?\d{19,}$`, "$0 is too large",
	`^[A-Za-z0-9+/]{43}=$`, "text needs quotes: put a \" on each side",
	`^([~./$\\]|[A-Za-z]:\\)\S*$`, "a path needs quotes: write \"$0\"",
	`^([^"']+)["']$`, "the opening quote is missing: write \"$1\"",
	"^`([^`]*)`$", "write straight quotes: \"$1\"",
	`^[+-]?\d[\d_.,eE+-]*$`, "$0 is not a number: write digits only, such as 1400",
	`^\(`, "a list stands in square brackets: [\"a\", \"b\"]",
	`^[\w.-]+(\s+(?P<at>[\w.-]+)\s*=)`, newLine,
	`^[\pL\pN._ /:@-]+$`, "text needs quotes: write \"$0\"",
	``, "text needs quotes, and numbers have digits only",
)

// ofString is for a string that does not end in its line; the text begins with its opening quote.
var ofString = hints(
	`^"[^“”„‟″]*(?P<at>[“”„‟″])`, "${at} is a typographic quote: write \"",
	`^'[^‘’‚′]*(?P<at>[‘’‚′])`, "${at} is a typographic quote: write '",
	`^"[^"']*'\s*(#.*)?$`, "the text begins with \" and ends with ': use the same quote on both sides",
	`^'[^"']*"\s*(#.*)?$`, "the text begins with ' and ends with \": use the same quote on both sides",
	`^"[^"]*(?P<at>\\)"\s*(#.*)?$`, `the backslash hides the closing quote: write \\ for a backslash`,
	`^("""|''')`, "the closing $1 is missing",
	`^(["'])`, "the closing quote is missing: write $1 behind the text",
)

// afterValue is for what follows a value, or a header, in the same line.
var afterValue = hints(
	`^(//|;|--|/\*)`, comment,
	`^,\s*(#.*)?$`, "delete this comma: keys are not separated by commas",
	`^,\s*\d`, "a number has no commas: delete this one",
	`^,\s*["']`, "several values need square brackets: [\"a\", \"b\"]",
	`^,`, "delete this comma",
	`^[\w.-]+\s*=`, newLine,
	`^\[`, "a header needs a line of its own",
	`^[\]})]`, "this bracket closes nothing: delete it",
	`^["'\w./-]`, "text behind the value: check the quotes of this line, or write # before a comment",
	``, "the value ends before this: check the quotes of this line, or write # before a comment",
)

// inList is for what stands between two elements of a list or of an inline table.
var inList = hints(
	`^(//|--|/\*)`, comment,
	`^;`, "a comma separates two elements",
	`^[)}\]]`, "a list ends with ], an inline table with }",
	`^,`, "delete this comma: an element is missing before it",
	`^["'\w./-]`, "a comma, or a quote, is missing before this",
	`^[:=]`, "write KEY = VALUE in an inline table, and only values in a list",
	``, "expected a comma, or the closing bracket",
)

// first returns the sentence of the first hint that matches a text, and the offset in it.
func first(all func() []hint, text string) (at int, message string) {
	text = strings.TrimRight(clipLine(text), " \t")
	for _, h := range all() {
		m := h.pattern.FindStringSubmatchIndex(text)
		if m == nil {
			continue
		}
		if group := h.pattern.SubexpIndex("at"); group > 0 && m[2*group] > 0 {
			at = m[2*group]
		}
		return at, string(h.pattern.ExpandString(nil, h.say, text, m))
	}
	return 0, notation
}

// odd returns what is wrong with a character that looks like one of TOML's and is none; empty for
// all others. Word processors and web pages put them into files.
func odd(c rune) string {
	const blank = "U+%04X looks like a blank, and is none: delete it, and type a blank"
	const unseen = "U+%04X is an invisible character: delete it"
	switch {
	case c < utf8.RuneSelf:
		return ""
	case strings.ContainsRune("“”„‟″«»", c):
		return fmt.Sprintf("%c is a typographic quote: write \"", c)
	case strings.ContainsRune("‘’‚‛′´", c):
		return fmt.Sprintf("%c is a typographic quote: write \"", c)
	case c == 0xa0, c >= 0x2000 && c <= 0x200a, c == 0x202f, c == 0x205f, c == 0x3000, c == 0x1680:
		return fmt.Sprintf(blank, c)
	case c >= 0x200b && c <= 0x200f, c >= 0x2028 && c <= 0x202e, c >= 0x2060 && c <= 0x2069,
		c == 0xfeff, c == 0xad:
		return fmt.Sprintf(unseen, c)
	case c >= 0x2010 && c <= 0x2015, c == 0x2212:
		return fmt.Sprintf("%c is not the minus sign of the keyboard: write -", c)
	case c >= 0xff01 && c <= 0xff5e: // the wide forms of ASCII
		return fmt.Sprintf("%c is a wide character: write %c", c, c-0xfee0)
	}
	return ""
}
