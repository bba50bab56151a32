package tui

import (
	"cmp"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"example.org/meshd/internal/control"
)

// filter keeps the peers, or events, that all of its terms fit. It acts while it is typed, so a term that is
// not finished keeps everything.
type filter struct {
	text  string // as it was typed
	terms []term
}

// A term is one word of a filter, with "!" in front for the opposite:
//
//	state:down, down   the state of a peer
//	drift              a peer that runs another file
//	loss>5, rx>1.5M    a figure of a peer, in percent, ms, packets or the unit of the table
//	anything else      a regular expression, or a text if it is none: "(" is the beginning of something
type term struct {
	invert  bool
	match   *regexp.Regexp // in texts; nil: the term is not about texts
	literal bool           // it is no regular expression
	peer    func(v view, p control.Peer) bool
}

// statesToFilter are words that mean a state and nothing else: "up" is a part of many names.
var statesToFilter = []string{control.Up, control.Stale, control.Down, control.Silent, control.OneWay,
	control.Unknown, control.Draining}

// newFilter returns a filter that ignores case. An empty text keeps everything.
func newFilter(text string) filter {
	f := filter{text: text}
	for _, word := range strings.Fields(text) {
		if t, ok := newTerm(word); ok {
			f.terms = append(f.terms, t)
		}
	}
	return f
}

// newTerm reads one word; false if it is not finished.
func newTerm(word string) (t term, ok bool) {
	word, t.invert = strings.CutPrefix(word, "!")
	state, asked := strings.CutPrefix(strings.ToLower(word), "state:")
	name, rest := word, ""
	if i := strings.IndexAny(word, "<>"); i > 0 {
		name, rest = strings.ToLower(word[:i]), word[i:]
	}
	of := figures[name]
	switch {
	case word == "" || asked && state == "":
		return t, false
	case asked || slices.Contains(statesToFilter, state):
		t.match = regexp.MustCompile("(?i)" + regexp.QuoteMeta(state))
		t.peer = func(_ view, p control.Peer) bool { return strings.HasPrefix(p.State, state) }
	case strings.EqualFold(word, "drift"):
		t.match = regexp.MustCompile("(?i)drift|another file")
		t.peer = func(_ view, p control.Peer) bool { return drifts(&p) }
	case of != nil && rest != "":
		than, ok := parseFigure(rest[1:])
		if !ok {
			return t, false
		}
		// NaN is what is not known: it is neither more nor less.
		t.peer = func(v view, p control.Peer) bool {
			return rest[0] == '>' && of(v, p) > than || rest[0] == '<' && of(v, p) < than
		}
	default:
		var err error
		if t.match, err = regexp.Compile("(?i)" + word); err != nil {
			t.match, t.literal = regexp.MustCompile("(?i)"+regexp.QuoteMeta(word)), true
		}
		t.peer = func(_ view, p control.Peer) bool { return slices.ContainsFunc(findable(p), t.match.MatchString) }
	}
	return t, true
}

// parseFigure reads a figure as tables show it: "5", "5%", "1e6", "200k", "1.5M", "20ms".
func parseFigure(text string) (figure float64, ok bool) {
	number := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(text), "%"), "ms")
	unit := 1.0
	if i := len(number) - 1; i >= 0 && powers[number[i]] > 0 {
		number, unit = number[:i], powers[number[i]]
	}
	figure, err := strconv.ParseFloat(number, 64)
	return figure * unit, err == nil
}

// powers are the letters behind figures.
var powers = map[byte]float64{'k': 1e3, 'm': 1e6, 'g': 1e9, 't': 1e12}

// figures are what a term compares, by its name.
var figures = map[string]func(v view, p control.Peer) float64{
	"loss":  func(_ view, p control.Peer) float64 { return 100 * known(p.Loss) },
	"rtt":   func(_ view, p control.Peer) float64 { return known(p.RTTMS) },
	"drops": func(v view, p control.Peer) float64 { return float64(v.counted(p).drops) },
	"rx":    func(v view, p control.Peer) float64 { return v.units.rx(v.rate(p.Name)) },
	"tx":    func(v view, p control.Peer) float64 { return v.units.tx(v.rate(p.Name)) },
}

// known is a figure, NaN if it was not measured.
func known(figure *float64) float64 {
	if figure == nil {
		return math.NaN()
	}
	return *figure
}

// keepsPeer tells whether all terms fit a peer.
func (f filter) keepsPeer(v view, p control.Peer) bool {
	return !slices.ContainsFunc(f.terms, func(t term) bool { return t.peer(v, p) == t.invert })
}

// keeps tells whether each term that is about texts is in one of them, or with "!" in none.
func (f filter) keeps(texts ...string) bool {
	return !slices.ContainsFunc(f.terms, func(t term) bool {
		return t.match != nil && slices.ContainsFunc(texts, t.match.MatchString) == t.invert
	})
}

// String is the filter as it stands above a table.
func (f filter) String() string {
	if slices.ContainsFunc(f.terms, func(t term) bool { return t.literal }) {
		return f.text + " (literal)"
	}
	return cmp.Or(strings.TrimSpace(f.text), "none")
}
