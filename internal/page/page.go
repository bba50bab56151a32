// Package page writes a status as text: what `meshd status`, `meshd peers` and `meshtui --once` print. Both
// programs have one renderer, so they never disagree; package words has the words.
//
//	control-plane  DEGRADED: worker2 is down         meshd 0.1.0, up 22m 04s     verdict
//	DOWN  worker2  no packet for 15 s at 172.18.0.3:8285; 10.244.2.0/24 ...      problems, each with
//	      try: `ping 172.18.0.3`, and on that host `systemctl status meshd`      its remedy
//
//	PEER     STATE      RTT  LOSS      RX      TX  SEEN  DROPS  SUBNETS          peers (table.go)
//
//	file     /etc/mesh.toml generation 1 (32790fac), the same on 2 of 2 peers    facts (facts.go)
//
// Text of a status comes from other hosts; it is made harmless here (text.Fields), so that a page may have
// colours. Only On looks at a terminal and at the environment.
package page

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/text"
)

// Options say how a page looks. The zero value is for a pipe: no line is broken, and nothing is cut.
type Options struct {
	// Width is that of the screen in columns. 0: lines are as long as they have to be.
	Width int
	// Height is that of the screen in lines. 0: it has no end. A page that is longer has its verdict and its
	// problems at the end, where they are still to be seen.
	Height  int
	Colour  bool
	ASCII   bool // characters of text of others that ASCII does not have become question marks
	All     bool // every peer has its line
	Sorted  bool // of Peers: they stay in the order in which they are
	Verbose bool // adds what is of use to those who look for the reason of a slow mesh
	// Before is an earlier status of the same daemon. With it RX and TX are rates.
	Before *control.Status
	// Now is the time for the ages of a daemon that does not tell its own.
	Now time.Time
}

// Status writes a status, which it may change: nobody else may use it then. The error is the writer's.
func Status(w io.Writer, s control.Status, o Options) error {
	p := begin(s, o)
	head := slices.Concat(p.verdict(), p.maintenance(), p.problems())
	var table []line
	if len(p.s.Peers) > 0 && p.s.Node != "" {
		table = p.table(p.folded())
	}
	facts := p.facts()
	parts := [][]line{head, table, facts}
	if long := len(head) + len(table) + len(facts) + 3; o.Height > 0 && long > o.Height {
		parts = [][]line{table, facts, head}
	}
	return p.write(w, parts)
}

// Peers writes the table of all peers of a status, those first that need eyes. Otherwise it is as Status.
func Peers(w io.Writer, s control.Status, o Options) error {
	o.All = true
	p := begin(s, o)
	if len(p.s.Peers) == 0 {
		return p.write(w, [][]line{{plainly("no peer")}})
	}
	return p.write(w, [][]line{p.table(p.folded())})
}

// A page is a status on its way to paper.
type page struct {
	Options
	s      control.Status
	now    time.Time                // by the daemon's clock
	before map[string]*control.Peer // those of Before by name
}

// begin makes a page of a status.
func begin(s control.Status, o Options) *page {
	text.Fields(&s)
	p := &page{Options: o, s: s, now: s.Now}
	if p.now.IsZero() { // an older daemon; this host's clock is its clock, too, as the socket is a local one
		p.now = o.Now
	}
	if o.Before != nil && o.Before.BootID == s.BootID { // counters of another run begin anew
		p.before = make(map[string]*control.Peer, len(o.Before.Peers))
		for i := range o.Before.Peers {
			p.before[o.Before.Peers[i].Name] = &o.Before.Peers[i]
		}
	}
	return p
}

// write writes the parts with an empty line between two of them.
func (p *page) write(w io.Writer, parts [][]line) error {
	var b strings.Builder
	for _, lines := range parts {
		if len(lines) == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		for _, l := range lines {
			b.WriteString(l.paint(p.Colour, p.ASCII))
			b.WriteByte('\n')
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// verdictWords says how a level is written.
var verdictWords = map[string]span{
	control.OK:       {"OK", good},
	control.Degraded: {"DEGRADED", warn},
	control.Failed:   {"FAILED", alarm},
	words.Starting:   {"STARTING", warn},
}

// verdict is what people ask for: the node, how it is, and why. Version and age stand at its right end where
// there is room.
func (p *page) verdict() []line {
	level, reason := words.Verdict(p.s)
	word, known := verdictWords[level]
	if !known { // of a newer daemon
		word = span{strings.ToUpper(level), warn}
	}
	node := p.s.Node
	if node == "" {
		node = "(unknown node)"
	}
	lines := p.hang(line{{node, strong}, {"  ", plain}, word, {": ", plain}}, reason)
	about := "meshd " + p.s.Version
	if up := p.uptime(); up > 0 {
		about += ", up " + words.Span(up)
	}
	switch room := p.Width - lines[0].width() - width(about); {
	case p.Width == 0:
		lines[0] = append(lines[0], span{"  (" + about + ")", dim})
	case room >= 2:
		lines[0] = append(lines[0], span{strings.Repeat(" ", room) + about, dim})
	}
	return lines
}

// uptime is how long the daemon runs, by its own clock if it tells; 0: not known.
func (p *page) uptime() time.Duration {
	if p.s.UptimeSeconds > 0 {
		return time.Duration(p.s.UptimeSeconds * float64(time.Second))
	}
	if p.s.Started.IsZero() {
		return 0
	}
	return p.now.Sub(p.s.Started)
}

// maintenance says that this node is in one: whoever looks at it has to know before all else.
func (p *page) maintenance() []line {
	if p.s.Drain == nil {
		return nil
	}
	about := "this node is " + words.Maintenance(*p.s.Drain, p.now)
	if waiting := words.Waiting(*p.s.Drain); waiting != "" {
		about += "; " + waiting
	}
	return p.hang(line{{fmt.Sprintf("%-*s", p.tags()+gap, maint), strong}}, about)
}

// maint begins the line about this node's maintenance.
const maint = "maint"

// tags is how wide the words of problems are, and that of a maintenance.
func (p *page) tags() (widest int) {
	if p.s.Drain != nil {
		widest = len(maint)
	}
	for _, one := range words.Problems(p.s) {
		widest = max(widest, len(words.Tag(one)))
	}
	return widest
}

// problems lists what is wrong, the worst first, each with what to do about it.
func (p *page) problems() (lines []line) {
	all, tag, name := words.Problems(p.s), p.tags(), 0
	for _, one := range all {
		name = min(max(name, len(one.Peer)), widestName)
	}
	for _, one := range all {
		if one.Kind == "maintenance" && p.s.Drain != nil { // it has its own line
			continue
		}
		word := words.Tag(one)
		head := line{{word, roleOf(one.Level)}, {strings.Repeat(" ", tag-len(word)+gap), plain}}
		if one.Peer != "" {
			head = append(head, span{fit(one.Peer, name), strong}, span{"  ", plain})
		}
		about := words.About(p.s, one, p.now)
		if p.Verbose && one.Kind != "" { // by which manuals and monitoring know it
			about += " [" + one.Kind + "]"
		}
		lines = append(lines, p.hang(head, about)...)
		if remedy := words.Remedy(p.s, one); remedy != "" {
			lines = append(lines, p.hang(line{{strings.Repeat(" ", tag+gap) + "try: ", dim}}, remedy)...)
		}
	}
	return lines
}

// roleOf is how a level of a problem looks.
func roleOf(level string) role {
	switch level {
	case control.Failed:
		return bad
	case control.Info:
		return dim
	}
	return warn
}

// hang puts a text behind a head, broken into lines that begin below its first one.
func (p *page) hang(head line, about string) (lines []line) {
	indent := head.width()
	if p.Width > 0 && indent > p.Width/2 { // a long name leaves no room beside it
		indent = 6
		lines, head = append(lines, head), line{{strings.Repeat(" ", indent), plain}}
	}
	for _, part := range wrap(about, p.Width-indent) {
		lines = append(lines, append(head, span{part, plain}))
		head = line{{strings.Repeat(" ", indent), plain}}
	}
	return lines
}
