package page

import (
	"strings"
	"unicode/utf8"
)

// A role is what a text says of itself; paint gives it a colour.
type role int

const (
	plain role = iota
	dim
	strong
	good
	warn
	bad
	alarm // the verdict of a node that has failed
)

// colours are the attributes of roles (ECMA-48, SGR). Yellow on white cannot be read, so it is a background.
var colours = map[role]string{dim: "2", strong: "1", good: "32", warn: "30;43", bad: "1;31", alarm: "1;7;31"}

// A span is a text in a role, and a line some of them. A line has no line break.
type (
	span struct {
		text string
		role role
	}
	line []span
)

// plainly is a line without roles.
func plainly(s string) line { return line{{s, plain}} }

// width counts the columns of a line.
func (l line) width() (n int) {
	for _, s := range l {
		n += width(s.text)
	}
	return n
}

// width counts the columns of a text. Names and figures are ASCII; sentences of others are counted by their
// letters, which is a few columns off for those that take two.
func width(s string) int { return utf8.RuneCountInString(s) }

// paint writes a line without blanks at its end.
func (l line) paint(colour, ascii bool) string {
	for n := len(l); n > 0; n = len(l) {
		last := strings.TrimRight(l[n-1].text, " ")
		l = append(l[:n-1:n-1], span{last, l[n-1].role})
		if last != "" {
			break
		}
		l = l[:n-1]
	}
	var b strings.Builder
	for _, s := range l {
		about := s.text
		if ascii {
			about = asciiOnly(about)
		}
		if code := colours[s.role]; colour && code != "" {
			about = "\x1b[" + code + "m" + about + "\x1b[0m"
		}
		b.WriteString(about)
	}
	return b.String()
}

// asciiOnly replaces each other character by a question mark.
func asciiOnly(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= utf8.RuneSelf {
			return '?'
		}
		return r
	}, s)
}

// wrap breaks a text into lines of at most w columns, between words. A command in backquotes is one word
// where that fits, so that it can be copied; a word that is longer than a line keeps its length for the
// same reason. Without a width there is one line.
func wrap(s string, w int) (lines []string) {
	if w <= 0 || width(s) <= w {
		return []string{s}
	}
	now := ""
	for _, word := range whole(strings.Fields(s), w) {
		switch {
		case now == "":
			now = word
		case width(now)+1+width(word) <= w:
			now += " " + word
		default:
			lines, now = append(lines, now), word
		}
	}
	return append(lines, now)
}

// whole joins the words of each command that fits into w columns.
func whole(words []string, w int) (joined []string) {
	for i := 0; i < len(words); i++ {
		n := commandAt(words[i:])
		if command := strings.Join(words[i:i+n], " "); width(command) <= w {
			joined = append(joined, command)
			i += n - 1
			continue
		}
		joined = append(joined, words[i])
	}
	return joined
}

// commandAt counts the words of the command that some words begin with; 1 if they begin with none.
func commandAt(words []string) int {
	quotes := 0
	for i, word := range words {
		if quotes += strings.Count(word, "`"); quotes%2 == 0 {
			return i + 1
		}
	}
	return 1 // it does not end
}

// fit makes a name n columns wide: filled, or without its middle, since names differ at their ends.
func fit(s string, n int) string {
	if w := width(s); w <= n {
		return s + strings.Repeat(" ", n-w)
	}
	if len(s) != width(s) || n < 5 { // names of nodes are ASCII
		return string([]rune(s)[:n])
	}
	head := (n - 2) / 2
	return s[:head] + ".." + s[len(s)-(n-2-head):]
}
