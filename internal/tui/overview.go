package tui

import (
	"fmt"
	"slices"

	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/tui/cell"
)

// overview is the first screen: whether the mesh works, and if not, who and why; then the
// facts, then the traffic. Somebody on an edge box, over a slow ssh, at 80x24, has to see
// that within two seconds, so problems are above everything else and take the room that
// facts and traffic leave.
//
// It has no cursor: Enter opens the peer that is worst.
type overview struct{}

// hints implements screen.
func (overview) hints() string {
	return "tab next  enter worst peer  / filter  c config  R reload  u units  p pause  q quit"
}

// press implements screen. Without a cursor a ping has no peer, and a filter nothing to
// filter: the screen of peers has both.
func (overview) press(v view, key string) (request, bool) {
	switch key {
	case "enter":
		if worst := worstPeer(v.status); worst != "" {
			return openPeer(v, worst), true
		}
		return request{peers: true}, true
	case "/":
		return request{peers: true, filter: true}, true
	case "P":
		return request{say: "select a peer first: 2 shows the peers"}, v.canAsk && v.lost == nil
	}
	return request{}, false
}

// charts implements charter.
func (overview) charts(view) []historyKey { return []historyKey{nodeHistory} }

// body implements screen. Of a daemon that is lost the box comes first, then what was true.
func (overview) body(v view) []cell.Line {
	var lines []cell.Line
	if v.lost != nil {
		lines = lostBox(v)
	} else if !v.live {
		lines = append(lines, cell.Styled(cell.Bad, fmt.Sprintf(
			" no data for %s: meshd (pid %d) hangs or was stopped; see `systemctl status meshd`",
			words.Span(v.sinceHeard()), v.status.PID)))
	}
	// Facts and traffic have a fixed height. Problems have three lines at least; on a low
	// terminal traffic is cut off below them.
	facts, traffic := facts(v, v.w), traffic(v, v.w)
	drain := maintenance(v.status, v.w, max(1, v.h/6))
	room := v.h - len(lines) - len(drain) - 1 // less the verdict
	trouble := attention(v.status, v.w, max(min(3, room), room-len(facts)-len(traffic)-2))
	head := cell.Text(" ").Join(verdict(v.status))
	if !v.live {
		head = head.Add(cell.Plain, "   as of "+words.Clock(v.status.Now))
	}
	rest := slices.Concat([]cell.Line{head}, drain, trouble)
	if room-len(trouble)-len(facts)-len(traffic) >= 2 { // blank lines where they cost nothing
		rest = append(rest, cell.Line{})
		facts = append(facts, cell.Line{})
	}
	return append(lines, v.faded(slices.Concat(rest, facts, traffic))...)
}
