package tui

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/text"
	"example.org/meshd/internal/tui/cell"
)

// plainWidth is where long texts break; tables are as wide as they have to be.
const plainWidth = 120

// Plain writes a status as text for pipes, scripts and dumb terminals, problems
// first. It says what the overview and the table of peers say, without charts, since one
// snapshot has no rates. at is when it was heard; ascii leaves out all glyphs but ASCII. The error is the
// writer's.
func Plain(w io.Writer, s control.Status, at time.Time, ascii bool) error {
	text.Fields(&s) // the text comes from other hosts and goes to a terminal, or through a pipe to one
	d := &data{}
	d.apply(&s, at)
	v := view{data: d, now: at, live: true}
	theme := cell.NewTheme(false, ascii)
	head := cell.Text(" ").Join(verdict(&s))
	for _, l := range slices.Concat([]cell.Line{head}, maintenance(&s, plainWidth, all),
		attention(&s, plainWidth, all), facts(v, plainWidth)) {
		fmt.Fprintln(w, strings.TrimSpace(theme.Paint([]cell.Line{l})))
	}
	fmt.Fprintln(w)
	return plainPeers(w, v)
}

// plainPeers writes the table of peers, those first that need eyes. Its columns are as wide
// as they have to be: nothing is cut, since a script or a report wants whole names.
func plainPeers(w io.Writer, v view) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PEER\tSTATE\tRTT ms\tLOSS\tENDPOINT\tSUBNETS\tRX PACKETS\tTX PACKETS\tDROPS\tSEEN\tFILE")
	for _, p := range words.ByState(v.status.Peers) {
		_, state, _ := stateOf(p)
		seen := "never"
		if p.LastSeen != nil {
			seen = words.Age(v.daemonNow().Sub(*p.LastSeen)) + " ago"
		}
		fmt.Fprintln(t, strings.Join([]string{
			p.Name, state, words.Millis(p.RTTMS), words.Percent(p.Loss), words.Endpoint(p),
			strings.Join(slices.Concat(p.Subnets, p.Routes), " "), words.Counter(p.RxPackets),
			words.Counter(p.TxPackets),
			cmp.Or(words.Drops(p.Drops), "0"), seen, words.File(p),
		}, "\t"))
	}
	return t.Flush()
}
