package tui

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
)

// filter keeps the peers, or events, that a regular expression matches, or with "!"
// in front those that it does not. One that is not valid is matched literally: it acts
// while it is typed, and "(" is the beginning of something.
type filter struct {
	text    string // as it was typed
	match   *regexp.Regexp
	invert  bool
	literal bool // it is no regular expression
}

// newFilter returns a filter that ignores case. An empty text keeps everything.
func newFilter(text string) filter {
	f := filter{text: text}
	pattern, invert := strings.CutPrefix(text, "!")
	f.invert = invert
	if pattern == "" { // "!" alone is not finished yet
		return f
	}
	var err error
	if f.match, err = regexp.Compile("(?i)" + pattern); err != nil {
		f.match, f.literal = regexp.MustCompile("(?i)"+regexp.QuoteMeta(pattern)), true
	}
	return f
}

// keeps tells whether one of the texts matches, or with invert none of them.
func (f filter) keeps(texts ...string) bool {
	return f.match == nil || slices.ContainsFunc(texts, f.match.MatchString) != f.invert
}

// String is the filter as it stands above a table.
func (f filter) String() string {
	if f.literal {
		return f.text + " (literal)"
	}
	return cmp.Or(f.text, "none")
}
