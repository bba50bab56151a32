package tui

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	tea "github.com/charmbracelet/bubbletea"

	"example.org/meshd/internal/control"
)

// The cursor follows its peer, whatever the order.
func TestCursorFollows(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	press(m, "2", "g")
	shows(t, m, "> edge-14  10.14.0.0/16    ■ DOWN")
	press(m, "j", "j", "j", "k")
	shows(t, m, "> edge-02")
	press(m, "s", "S") // by name, backwards
	shows(t, m, "> edge-02", "sort name reversed", "rows 7-19/19")
	press(m, "G", "g")
	shows(t, m, "> edge-20", "rows 1-13/19")
	s := someMesh(30)
	s.Peers = s.Peers[:18] // edge-20 is gone
	tell(m, snapshot(s))
	hides(t, m, "edge-20")
	shows(t, m, "> edge-19")
}

// The page of a peer stays when its peer goes, and says so.
func TestPageOfAPeerThatGoes(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	choose(m, "edge-20")
	press(m, "2", "enter")
	s := someMesh(31)
	s.Peers = s.Peers[:18]
	tell(m, snapshot(s))
	shows(t, m, "PEERS > edge-20", "the file in force no longer has this node")
	press(m, "P", "y", "Y") // about nobody
	press(m, "esc")
	shows(t, m, "> edge-14") // the first row
}

// Half a page is half of the rows that are on the screen.
func TestHalfAPage(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	press(m, "2", "g", "pgdown")
	shows(t, m, "> edge-07") // 13 rows have room: the sixth after the first
	press(m, "pgup", "pgup")
	shows(t, m, "> edge-14")
}

// Each order puts the largest figure first.
func TestOrders(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	for key, want := range map[sortKey]string{
		sortState: "edge-14 edge-05 edge-02", sortName: "edge-02 edge-03 edge-04",
		sortRTT:  "edge-20 edge-19 edge-18",
		sortLoss: "edge-14 edge-05 edge-02", sortRx: "edge-05 edge-02 edge-09", sortTx: "edge-05 edge-02 edge-09",
		sortDrops: "edge-14 edge-05 edge-02", sortSeen: "edge-14 edge-05 edge-03",
	} {
		t.Run(key.String(), func(t *testing.T) {
			m.choices.sort = key
			var names []string
			for _, p := range m.view().sorted()[:3] {
				names = append(names, p.Name)
			}
			if got := strings.Join(names, " "); got != want {
				t.Errorf("%s, not %s", got, want)
			}
		})
	}
}

// A thousand peers are sorted, filtered and drawn.
func TestThousandPeers(t *testing.T) {
	m, _ := newTest(120, 40)
	s := someMesh(0)
	for i := range 1000 {
		p := somePeer(i, 0)
		p.Name = "node-" + strings.Repeat("0", 3-len(strconv.Itoa(i))) + strconv.Itoa(i)
		s.Peers = append(s.Peers, p)
	}
	tell(m, hello("x"), snapshot(s))
	press(m, "2", "G")
	shows(t, m, "> node-999")
	press(m, "/", "n", "o", "d", "e", "-", "0", "5", "enter")
	shows(t, m, "node-050", "node-059", "rows 1-10/10")
	byName := func(a, b control.Peer) int { return strings.Compare(a.Name, b.Name) }
	if rows := m.view().sorted(); !slices.IsSortedFunc(rows, byName) {
		t.Error("not sorted")
	}
}

// A filter acts while it is typed, and can be turned round and left.
func TestFilter(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	press(m, "/")
	shows(t, m, "[2 Peers", "enter keeps")
	press(m, "1", "9", "2", ".", "1", "6", "8")
	shows(t, m, "rows 1-1/1", "edge-05")
	press(m, "enter")
	shows(t, m, "filter: 192.168", "> edge-05")
	press(m, "/", "ctrl+u", "!", "u", "p", "enter")
	shows(t, m, "filter: !up", "rows 1-2/2", "DOWN", "stale")
	press(m, "/", "ctrl+u", "(", "backspace", "(") // no regular expression
	shows(t, m, "rows 0-0/0", `no peer matches "("`, "filter: ( (literal)")
	press(m, "esc")
	shows(t, m, "filter: none", "rows 1-13/19")
	press(m, "/", "d", "o", "w", "n", "enter", "3")
	shows(t, m, "1 event · filter: down", "edge-14 is down")
	press(m, "esc")
	shows(t, m, "5 events · filter: none")
}

func TestFilterKeeps(t *testing.T) {
	for name, test := range map[string]struct {
		filter string
		want   string // of edge-1, edge-2, EDGE-3 and (x)
	}{
		"nothing":           {"", "edge-1 edge-2 EDGE-3 (x)"},
		"one":               {"-2", "edge-2"},
		"without case":      {"edge", "edge-1 edge-2 EDGE-3"},
		"regexp":            {"[12]$", "edge-1 edge-2"},
		"all but":           {"!edge", "(x)"},
		"not finished":      {"!", "edge-1 edge-2 EDGE-3 (x)"},
		"no regexp":         {"(x", "(x)"},
		"all but no regexp": {"!(x", "edge-1 edge-2 EDGE-3"},
	} {
		t.Run(name, func(t *testing.T) {
			f, kept := newFilter(test.filter), []string(nil)
			for _, text := range []string{"edge-1", "edge-2", "EDGE-3", "(x)"} {
				if f.keeps(text) {
					kept = append(kept, text)
				}
			}
			if got := strings.Join(kept, " "); got != test.want {
				t.Errorf("%s, not %s", got, test.want)
			}
		})
	}
}

// Words of a filter have to fit all; some of them are about states and figures.
func TestFilterWords(t *testing.T) {
	for text, want := range map[string]string{
		"state:down":     "edge-14",
		"down":           "edge-14",
		"!up":            "edge-14 edge-05",
		"state:st":       "edge-05", // while it is typed
		"state:":         "19 peers",
		"loss>5":         "edge-14 edge-05",
		"loss>5 loss<50": "edge-05",
		"loss>":          "19 peers",
		"loss>5%":        "edge-14 edge-05",
		"loss>%":         "19 peers",
		"drift":          "edge-07",
		"!drift 0[67]":   "edge-06",
		"rtt>26":         "edge-19 edge-20",
		"drops>100":      "edge-14",
		"rx>3.9e7 -0":    "edge-05 edge-02 edge-09",
		"rx>39M -0":      "edge-05 edge-02 edge-09",
		"rx>39000k -0":   "edge-05 edge-02 edge-09",
		"rx>0.039G -0":   "edge-05 edge-02 edge-09",
		"rtt>26ms":       "edge-19 edge-20",
		"10.7.0 up":      "edge-07",
		"lossy>5":        "",
	} {
		t.Run(text, func(t *testing.T) {
			m, _ := someDashboard(80, 24, asItIs)
			m.setFilter(text)
			var kept []string
			for _, p := range m.view().sorted() {
				kept = append(kept, p.Name)
			}
			got := strings.Join(kept, " ")
			if len(kept) == 19 {
				got = "19 peers"
			}
			if got != want {
				t.Errorf("%s, not %s", got, want)
			}
		})
	}
}

// A click chooses a row, the wheel moves.
func TestMouse(t *testing.T) {
	click := func(y int) tea.Msg {
		return tea.MouseMsg{Y: y, Button: tea.MouseButtonLeft, Action: tea.MouseActionPress}
	}
	m, _ := someDashboard(80, 24, asItIs)
	press(m, "2", "m")
	shows(t, m, "mouse on")
	send(m, click(5))
	shows(t, m, "> edge-14")
	down, up := tea.MouseMsg{Button: tea.MouseButtonWheelDown}, tea.MouseMsg{Button: tea.MouseButtonWheelUp}
	send(m, down, down, up)
	shows(t, m, "> edge-05")
	for _, y := range []int{0, 4, 19, 23} { // header, titles, below the table, footer
		send(m, click(y))
		shows(t, m, "> edge-05")
	}
	big, _ := someDashboard(140, 40, asItIs)
	send(big, click(10))
	shows(t, big, "> edge-14")
	low, _ := someDashboard(60, 10, asItIs) // no rules
	press(low, "2")
	send(low, click(4))
	shows(t, low, "> edge-14")
	press(low, "3")
	send(low, click(6))
	press(low, "2")
	shows(t, low, "> edge-14") // the screen of events has no peers to click at
	if cmd := m.resume(); cmd == nil {
		t.Error("a suspension turned the mouse off")
	}
	press(m, "m")
	if cmd := m.resume(); cmd != nil {
		t.Error("a mouse that is off came on again")
	}
}

// Units, columns, orders and glyphs are toggles.
func TestToggles(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	press(m, "2")
	shows(t, m, "RX b/s", "40.0M")
	press(m, "u")
	shows(t, m, "RX B/s", "5.00M")
	press(m, "u")
	shows(t, m, "TX p/s", "5.00k")
	press(m, "o")
	hides(t, m, "LOSS", "DROPS")
	press(m, "a")
	if strings.ContainsRune(m.View(), '●') {
		t.Error("still not ASCII")
	}
}

// The columns of a table fit it, from the narrowest screen on, and names get what they need before any figure
// does but the state and the RTT.
func TestColumnsFit(t *testing.T) {
	for _, longest := range []int{4, 12, 26, 63} {
		for w := leastWidth; w < 220; w++ {
			v := viewOf(someMesh(0))
			v.names.widest = longest
			used, sum := columnsFor(v, w), 2-1 // the cursor's cells; no blank before the first column
			for _, c := range used {
				sum += 1 + c.width
			}
			if want := min(longest, widestName) + 1; sum > w || used[0].width != want && len(used) > 3 {
				t.Errorf("%d cells of %d, names have %d of %d", sum, w, used[0].width, want)
			}
		}
	}
}

// Columns leave by what they are worth; the one that rows are ordered by stays.
func TestColumnsLeaveByWorth(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	titles := func(w int) string {
		var all []string
		for _, c := range columnsFor(m.view(), w) {
			all = append(all, c.title)
		}
		return strings.Join(all, " ")
	}
	for w, want := range map[int]string{
		40:  "PEER STATE RTTms LOSS SEEN",
		64:  "PEER STATE RTTms LOSS RX b/s TX b/s DROPS SEEN",
		80:  "PEER SUBNETS STATE RTTms LOSS RX b/s TX b/s DROPS SEEN",
		100: "PEER ENDPOINT STATE RTTms LOSS RX b/s TX b/s DROPS SEEN RX 60s",
		120: "PEER ENDPOINT SUBNETS STATE RTTms LOSS RX b/s TX b/s RX p/s TX p/s DROPS SEEN",
	} {
		is(t, fmt.Sprint(w), titles(w), want)
	}
	press(m, "2", "T")
	is(t, "by traffic", titles(80), "PEER STATE RTTms LOSS RX b/s TX b/s SHARE DROPS SEEN")
	press(m, "u", "u")
	is(t, "in packets", titles(140),
		"PEER ENDPOINT SUBNETS STATE RTTms LOSS RX p/s TX p/s SHARE DROPS SEEN RX 60s")
}

// Names that share a domain are shown without it, and the title has it once; figures in them have their
// order.
func TestNamesShareADomain(t *testing.T) {
	cloud := func(s *control.Status) *control.Status {
		s.Peers = s.Peers[:12]
		for i := range s.Peers {
			s.Peers[i].Name = fmt.Sprintf("ip-172-31-0-%d.eu-central-1.compute.internal", i+1)
		}
		s.Health = control.Health{Level: control.OK}
		return s
	}
	m, _ := someDashboard(80, 24, cloud)
	press(m, "2", "A", "g")
	shows(t, m, "*.eu-central-1.compute.internal", "> ip-172-31-0-1  ", "ip-172-31-0-12 ")
	text := picture(m)
	if strings.Index(text, "ip-172-31-0-2 ") > strings.Index(text, "ip-172-31-0-10 ") {
		t.Errorf("10 stands before 2:\n%s", text)
	}
	press(m, ":", "0", "-", "1", "2", "enter")
	shows(t, m, "> ip-172-31-0-12 ")
}

// On a narrow terminal names have their room first, too: that of this node in the first line, and that of the
// peer on its page.
func TestNamesOnANarrowTerminal(t *testing.T) {
	m, _ := someDashboard(40, 20, func(s *control.Status) *control.Status {
		s.Node = "ip-172-31-0-99.eu-central-1.compute.internal.prod.example.com"
		return cloudNames(s)
	})
	press(m, "2", "A", "g", "enter")
	head, title := strings.Split(picture(m), "\n")[0], strings.Split(picture(m), "\n")[3]
	for _, word := range []string{"ip-172-31-0-99 ", "gen 12 ok", "live"} {
		if !strings.Contains(head, word) {
			t.Errorf("no %q in %q", word, head)
		}
	}
	for _, word := range []string{"ip-172-31-0-1 ", "up"} {
		if !strings.Contains(title, word) {
			t.Errorf("no %q in %q", word, title)
		}
	}
}

func TestNamesOf(t *testing.T) {
	for all, want := range map[string]names{
		"":                          {},
		". .":                       {"", 1},
		"a.example.org":             {"", 13},
		"a.example.org bc.example":  {"", 13},
		"a.b.example c.b.example":   {".b.example", 1},
		"a.b.example ab.example":    {".example", 3},
		"b.example a.b.example":     {".example", 3},
		"edge-01 edge-02":           {"", 7},
		".example a.example":        {"", 9},
		"x.org y.org zz.sub.org":    {".org", 6},
		"same.example same.example": {".example", 4},
	} {
		t.Run(all, func(t *testing.T) {
			var peers []control.Peer
			for _, name := range strings.Fields(all) {
				peers = append(peers, control.Peer{Name: name})
			}
			if got := namesOf(peers); got != want {
				t.Errorf("%+v, not %+v", got, want)
			}
		})
	}
}

// Z counts from now, in this view.
func TestZero(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	press(m, "2", "Z")
	shows(t, m, "counters since 14:07:52")
	tell(m, snapshot(someMesh(21))) // too_big grows by one a second
	shows(t, m, "> edge-05  10.5.0.0/16 +1  ◐ stale      6.85   12%   40.0M   36.0M      2   30s")
	press(m, "enter")
	shows(t, m, "since 14:07:52", "too_big                  2")
	press(m, "Z", "esc")
	hides(t, m, "counters since")
}

// A peer is found by each of its addresses and names, not only by the one that is shown.
func TestFoundByAnyAddress(t *testing.T) {
	for _, filter := range []string{"2001:db8:0:5", "example.net", "198.51.100.5:", "192.168.6"} {
		t.Run(filter, func(t *testing.T) {
			m, _ := someDashboard(80, 24, drained)
			press(m, append([]string{"2", "/"}, append(strings.Split(filter, ""), "enter")...)...)
			shows(t, m, "edge-05", "rows 1-1/1")
		})
	}
}
