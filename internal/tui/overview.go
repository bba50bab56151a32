package tui

import (
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
func (overview) hints() []hint {
	return []hint{{"tab", "next"}, {"enter", "worst peer"}, {"/", "filter"}, {"c", "config"}, {"R", "reload"},
		{"n", "next problem"}, {"t", "span"}, {"u", "units"}, {"p", "pause"}}
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
	case "P", "y", "Y":
		return request{say: "select a peer first: 2 shows the peers"}, v.canAsk && v.lost == nil
	}
	return request{}, false
}

// charts implements charter.
func (overview) charts(v view) []historyKey { return []historyKey{nodeKey(v)} }

// body implements screen. Of a daemon that is lost the box comes first, then what was true.
func (overview) body(v view) []cell.Line {
	var lines []cell.Line
	if v.lost != nil {
		lines = lostBox(v)
	}
	// Facts and traffic have a fixed height. Problems have three lines at least; on a low
	// terminal traffic is cut off below them.
	facts, traffic := facts(v, v.w), traffic(v, v.w)
	room := v.h - len(lines)
	head := band(v, v.w, max(min(4, room), room-len(facts)-len(traffic)-2), sinceFacts(v))
	if room-len(head)-len(facts)-len(traffic) >= 2 { // blank lines where they cost nothing
		head = append(head, cell.Line{})
		facts = append(facts, cell.Line{})
	}
	return slices.Concat(lines, head[:1], v.faded(slices.Concat(head[1:], facts, traffic)))
}

// sinceFacts tells since when it is as bad as the verdict says.
func sinceFacts(v view) cell.Line {
	if since := badSince(v.status); v.live && !since.IsZero() {
		return cell.Styled(cell.Dim, "since "+words.Clock(since))
	}
	return nil
}
