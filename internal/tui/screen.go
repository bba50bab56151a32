package tui

import (
	"fmt"

	"example.org/meshd/internal/tui/cell"
)

// A screen is one of the views that fill the terminal: a value that draws, and that a key
// replaces by another one. It holds only what is its own, such as how far it is scrolled;
// everything else is in the view.
type screen interface {
	// body draws at most what the body of the view shows. The frame fills what is missing.
	body(v view) []cell.Line
	// hints are the keys in the last line, the most useful first: a narrow line has no room for the last
	// ones. Help and quit are not among them, see keysLine.
	hints() []hint
	// press says what a key asks for on this screen. It returns false for keys that it does
	// not know: those do the same on all screens, or nothing.
	press(v view, key string) (request, bool)
}

// A hint is a key, or several, and what it does, in the last line.
type hint struct{ key, does string }

// back is what leaves a page.
var back = hint{"esc q", "back"}

// A lister is a screen with the table of peers.
type lister interface {
	// rows tells on which line of the body the first peer stands, and how many peers have room.
	rows(v view) (first, room int)
}

// A charter is a screen with charts of the past, which have to be asked for.
type charter interface {
	// charts are the histories that the screen shows.
	charts(v view) []historyKey
}

// A request is what a key asks for. Screens cannot act themselves: they see only the view.
// Its fields are done in their order; the zero value asks for nothing.
type request struct {
	become screen // the screen itself, as it is from now on
	cursor string // the peer under the cursor
	open   screen // a page to show on top, in the place of the one there is
	peers  bool   // show the tab of peers
	back   bool   // leave this page
	filter bool   // type a filter
	copy   clip   // text for the clipboard
	say    string // words for the last line
}

// clip is a text for the clipboard, and what to call it.
type clip struct{ what, text string }

// tab numbers the screens that the second line names.
type tab int

const (
	overviewTab tab = iota
	peersTab
	eventsTab
	nodeTab
	tabs // how many there are
)

// tabNames are their names, as the second line and the help have them.
var tabNames = [tabs]string{"Overview", "Peers", "Events", "Node"}

// moves are how far a key moves the cursor on a page of n rows.
var moves = map[string]func(page int) int{
	"j": func(int) int { return 1 }, "down": func(int) int { return 1 },
	"k": func(int) int { return -1 }, "up": func(int) int { return -1 },
	"ctrl+d": func(n int) int { return n / 2 }, "ctrl+u": func(n int) int { return -n / 2 },
	"pgdown": func(n int) int { return n / 2 }, "pgup": func(n int) int { return -n / 2 },
	"ctrl+f": func(n int) int { return n - 1 }, "ctrl+b": func(n int) int { return 1 - n },
	"G": func(int) int { return all }, "end": func(int) int { return all },
	"g": func(int) int { return -all }, "home": func(int) int { return -all },
}

// all is further than any list goes, and small enough to be added to an index.
const all = 1 << 30

// A page is how far a screen is scrolled that is too long for the terminal. Screens on top
// of tabs have one.
type page struct{ above int } // lines above the terminal

// shown is the part of a long body that h lines show. The last of them counts what is below.
func (p page) shown(body []cell.Line, h int) []cell.Line {
	if len(body) <= h {
		return body
	}
	from := min(p.above, len(body)-h) // the terminal may have grown since
	shown := append([]cell.Line(nil), body[from:from+h]...)
	if below := len(body) - from - h; below > 0 {
		shown[h-1] = cell.Styled(cell.Strong, fmt.Sprintf(" ↓ %d lines more: j", below+1))
	}
	return shown
}

// press scrolls a body that is so long. A filter has no meaning here, so `/` goes where it
// has one. again makes the screen anew for a page that is scrolled otherwise.
func (p page) press(v view, key string, length int, again func(page) screen) (request, bool) {
	if move, ok := moves[key]; ok {
		p.above = max(0, min(p.above+move(v.page), length-v.h))
		return request{become: again(p)}, true
	}
	if key == "/" {
		return request{peers: true, filter: true}, true
	}
	return request{}, false
}

// openPeer opens the page of a peer, if there is such a peer.
func openPeer(v view, name string) request {
	if _, ok := v.peer(name); !ok {
		return request{}
	}
	return request{cursor: name, open: detail{}}
}

// listed is what keys ask for on both screens that have a table of peers: moving its cursor,
// and opening the peer under it.
func listed(v view, key string) (request, bool) {
	if move, ok := moves[key]; ok {
		return request{cursor: v.neighbour(move(v.page))}, true
	}
	if key == "enter" {
		return openPeer(v, v.cursor), true
	}
	return request{}, false
}

// A waiting screen stands in for the others before the first snapshot, so that none of them
// has to do without one.
type waiting struct{}

// hints implements screen: there is nothing to do but to wait, or to read.
func (waiting) hints() []hint { return nil }

// press does nothing of its own: there is nothing to choose from.
func (waiting) press(view, string) (request, bool) { return request{}, false }

// body implements screen.
func (waiting) body(v view) []cell.Line {
	if v.lost != nil {
		return lostBox(v)
	}
	return []cell.Line{{}, cell.Text(" connecting to " + v.where + " ...")}
}
