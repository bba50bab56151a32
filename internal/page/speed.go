package page

import (
	"fmt"
	"io"
	"strings"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/text"
)

// Speed writes what was measured. Otherwise it is as Status.
//
//	WAY          SPEED  SENT AGAIN      RTT  DATAGRAMS  LOST   LOSS
//	to worker  941 Mb/s         12  0.84 ms       4310     0    0 %
func Speed(w io.Writer, s control.Speed, o Options) error {
	text.Fields(&s)
	p := &page{Options: o}
	rows := [][]string{{"WAY", "SPEED", "SENT AGAIN", "RTT", "DATAGRAMS", "LOST", "LOSS"}}
	limited := false
	for _, one := range []struct {
		name string
		way  control.SpeedWay
	}{{"to " + s.Peer, s.Out}, {"from " + s.Peer, s.In}} {
		rtt := words.Unknown
		if one.way.RTTMS != nil {
			rtt = words.Millis(one.way.RTTMS) + " ms"
		}
		limited = limited || one.way.BPS > nearLimit*float64(s.LimitBPS)
		rows = append(rows, []string{one.name, rate(one.way.BPS), words.Grouped(one.way.Retransmitted), rtt,
			words.Grouped(uint64(max(0, one.way.Sent))), words.Grouped(uint64(max(0, one.way.Lost))),
			strings.TrimSuffix(words.Percent(&one.way.Loss), "%") + " %"})
	}
	lines := aligned(rows)
	if limited {
		lines = append(lines, p.hang(line{{"note     ", dim}}, fmt.Sprintf(
			"--rate %s limited the speed: the path may carry more", words.SI(float64(s.LimitBPS))))...)
	}
	return p.write(w, [][]line{lines})
}

// nearLimit is the part of the limit from which on it is what was measured.
const nearLimit = 0.9

// SpeedProgress writes how a measurement goes: a line for each second.
func SpeedProgress(w io.Writer, peer string, p control.SpeedProgress) error {
	way := "to"
	if p.Way == control.SpeedIn {
		way = "from"
	}
	_, err := fmt.Fprintf(w, "%-4s %s  %s\n", way, text.Clean(peer), rate(p.BPS))
	return err
}

// aligned puts cells beside each other: the first row is the head, and the first column the name.
func aligned(rows [][]string) (lines []line) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], width(cell))
		}
	}
	for i, row := range rows {
		var l line
		for j, cell := range row {
			pad, r := strings.Repeat(" ", widths[j]-width(cell)), plain
			switch {
			case i == 0:
				r = dim
			case j == 0:
				r = strong
			}
			if j == 0 {
				l = append(l, span{cell + pad, r})
			} else {
				l = append(l, span{strings.Repeat(" ", gap) + pad + cell, r})
			}
		}
		lines = append(lines, l)
	}
	return lines
}
