package tui

import (
	"fmt"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/tui/cell"
)

// maintenance says in h lines of w cells at most that this node is in maintenance: whoever looks at it has to
// know before all else. There are none if it is not.
func maintenance(s *control.Status, w, h int) (lines []cell.Line) {
	if s.Drain == nil {
		return nil
	}
	text := "this node is " + words.Maintenance(*s.Drain, s.Now)
	if waiting := words.Waiting(*s.Drain); waiting != "" {
		text += "; " + waiting
	}
	glyph, _, role := stateWord(control.Draining)
	mark := " " + glyph + " "
	for i, l := range cell.Wrap(text, w-cell.Width(mark)) {
		if i == h {
			lines[h-1] = lines[h-1].Fit(w-2).Add(role, " …")
			break
		}
		lines = append(lines, cell.Styled(role, mark+l))
		mark = "   "
	}
	return lines
}

// peerMaintenance says in lines of w cells that a peer is in maintenance; there are none if it is not.
func peerMaintenance(v view, p control.Peer) (lines []cell.Line) {
	if p.Drain == nil {
		return nil
	}
	word := "drain"
	for _, l := range cell.Wrap(words.Maintenance(*p.Drain, v.status.Now), v.w-peerLabelWidth) {
		lines = append(lines, peerLabel(word).Add(cell.Accent, l))
		word = ""
	}
	return lines
}

// endpoint is where packets to a peer go. One that is not preferred stands out.
func endpoint(p control.Peer) (text string, role cell.Role) {
	if words.Diverted(p) {
		return p.Active(), cell.Warn
	}
	return p.Address, cell.Plain
}

// mostAddresses is how many addresses of a peer there is room for.
const mostAddresses = 6

// addresses is a table of the addresses of a peer that has several, or a name. A star marks the one that
// packets go to.
func addresses(v view, p control.Peer) (lines []cell.Line) {
	if len(p.Addresses) == 0 || len(p.Addresses) == 1 && p.Addresses[0].Name == "" {
		return nil
	}
	widest := 0
	for _, a := range p.Addresses {
		widest = max(widest, cell.Width(a.Address))
	}
	word := "addresses"
	for i, a := range p.Addresses {
		if i == mostAddresses {
			all := fmt.Sprintf("… %d in all", len(p.Addresses))
			return append(lines, peerLabel("").Add(cell.Dim, all))
		}
		lines = append(lines, peerLabel(word).Join(addressLine(v, a, min(widest, v.w/2))))
		word = ""
	}
	return lines
}

// addressLine is one address of a peer, in w cells, and what is known of it.
func addressLine(v view, a control.PeerAddress, w int) cell.Line {
	mark, role := "  ", cell.Plain
	if a.Active {
		mark, role = "* ", cell.Strong
	}
	glyph, word, of := stateWord(a.State)
	line := cell.Styled(role, mark+cell.FitMiddle(a.Address, w)+"  ").
		Add(of, cell.Fit(glyph+" "+word, stateWidth)).
		Add(cell.Plain, fmt.Sprintf(" %7s", words.Millis(a.RTTMS))).
		Add(lossRole(a.Loss), fmt.Sprintf(" %5s", words.Percent(a.Loss)))
	if a.Name == "" {
		return line
	}
	line = line.Add(cell.Plain, "  "+a.Name)
	if a.Resolved != nil {
		line = line.Add(cell.Dim, " "+words.Age(v.daemonNow().Sub(*a.Resolved))+" ago")
	}
	return line
}

// routeTexts are the prefixes behind a peer that are outside the pod network, with what is not as usual:
// "192.168.7.0/24 (metric 50, standby)".
func routeTexts(p control.Peer) []string {
	if len(p.RouteStates) == 0 { // an older daemon has none
		return p.Routes
	}
	const usual = 100
	texts := make([]string, 0, len(p.RouteStates))
	for _, r := range p.RouteStates {
		text := r.Prefix
		switch {
		case !r.Active:
			text += fmt.Sprintf(" (metric %d, %s)", r.Metric, words.Duty(r.Active))
		case r.Metric != usual:
			text += fmt.Sprintf(" (metric %d)", r.Metric)
		}
		texts = append(texts, text)
	}
	return texts
}
