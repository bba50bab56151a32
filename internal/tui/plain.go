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
	"example.org/meshd/internal/text"
	"example.org/meshd/internal/tui/cell"
)

// plainWidth is where long texts break; tables are as wide as they have to be.
const plainWidth = 120

// Plain writes a status as text for pipes, scripts and dumb terminals, problems
// first. at is when it came.
func Plain(w io.Writer, s control.Status, at time.Time, ascii bool) error {
	text.Fields(&s)
	m := New(Options{Clock: func() time.Time { return at }})
	m.data.apply(&s, at)
	theme := cell.NewTheme(false, ascii)
	lines := slices.Concat([]cell.Line{cell.Text(" ").Join(verdict(&s))}, m.attention(plainWidth, all), m.facts(plainWidth))
	for _, l := range lines {
		fmt.Fprintln(w, strings.TrimSpace(theme.Paint([]cell.Line{l})))
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PEER\tSTATE\tRTT ms\tLOSS\tENDPOINT\tSUBNETS\tRX PACKETS\tTX PACKETS\tDROPS\tSEEN\tFILE")
	for _, p := range byState(s.Peers) {
		_, state, _ := stateWord(p.State)
		seen := "never"
		if p.LastSeen != nil {
			seen = age(m.daemonNow().Sub(*p.LastSeen)) + " ago"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\n", p.Name, state, millis(p.RTTMS), percent(p.Loss), p.Address,
			strings.Join(slices.Concat(p.Subnets, p.Routes), " "), p.RxPackets, p.TxPackets, cmp.Or(dropWords(p.Drops), "0"), seen,
			strings.TrimSpace(fileLine(p, "").String()))
	}
	return t.Flush()
}
