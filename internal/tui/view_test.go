package tui

import (
	"fmt"
	"math"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/tui/cell"
)

// The daemon's clock goes on with ours while data is true, and stands still when it is not.
func TestDaemonNow(t *testing.T) {
	for name, test := range map[string]struct {
		change func(v *view)
		want   time.Duration
	}{
		"true now":           {func(*view) {}, 2 * time.Second},
		"old":                {func(v *view) { v.live = false }, 0},
		"paused":             {func(v *view) { v.paused = true }, 0},
		"our clock set back": {func(v *view) { v.now = noon.Add(-time.Hour) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			v := viewOf(someMesh(0))
			v.now = noon.Add(2 * time.Second)
			test.change(&v)
			if got := v.daemonNow().Sub(v.status.Now); got != test.want {
				t.Errorf("%v after the snapshot, not %v", got, test.want)
			}
			if got := v.uptime() - (76*time.Hour + 12*time.Minute); got != test.want {
				t.Errorf("%v longer up, not %v", got, test.want)
			}
		})
	}
}

// A rate is only true while data is.
func TestRateIsTrueNow(t *testing.T) {
	v := secondsOf(3)
	if got := v.rate("edge-02").rxBytes; got != 5e6 {
		t.Errorf("%v bytes a second", got)
	}
	if got := v.rate("nobody").rxBytes; !math.IsNaN(got) {
		t.Errorf("%v of a peer that there is not", got)
	}
	v.live = false
	if got := v.rate("edge-02").rxBytes; !math.IsNaN(got) {
		t.Errorf("%v though it is old", got)
	}
}

// Counters of a zeroed view count from then; a peer that is new counts from its beginning.
func TestCounted(t *testing.T) {
	v := secondsOf(10)
	p, _ := v.peer("edge-05")
	before := v.counted(p)
	v.base = someMesh(4)
	after := v.counted(p)
	if before.rxBytes != 9*5e6 || after.rxBytes != 5*5e6 || after.drops != 5 {
		t.Errorf("%+v, then %+v", before, after)
	}
	if got := v.dropsOf(p)["too_big"]; got != 5 {
		t.Errorf("%d drops", got)
	}
	v.base.Peers = nil
	if got := v.counted(p); got != before {
		t.Errorf("a new peer: %+v, not %+v", got, before)
	}
	if got := v.dropsOf(p)["too_big"]; got != p.Drops["too_big"] {
		t.Errorf("a new peer: %d drops", got)
	}
}

// A step stops at the ends, and begins at the first row where the cursor has none.
func TestNeighbour(t *testing.T) {
	for name, test := range map[string]struct {
		cursor string
		by     int
		want   string
	}{
		"down": {"a", 1, "b"}, "up": {"c", -1, "b"}, "at the top": {"a", -1, "a"}, "at the bottom": {"c", 1, "c"},
		"to the end": {"a", all, "c"}, "to the beginning": {"c", -all, "a"}, "hidden": {"x", 1, "b"},
		"hidden, up": {"x", -1, "a"},
	} {
		v := view{choices: choices{cursor: test.cursor},
			table: table{rows: []control.Peer{{Name: "a"}, {Name: "b"}, {Name: "c"}}}}
		is(t, name, v.neighbour(test.by), test.want)
	}
	is(t, "no rows", view{choices: choices{cursor: "x"}}.neighbour(1), "x")
}

// The table scrolls as little as has to be.
func TestReach(t *testing.T) {
	var peers []control.Peer
	for i := range 10 {
		peers = append(peers, control.Peer{Name: fmt.Sprint(i)})
	}
	for name, test := range map[string]struct {
		top, room int
		cursor    string
		want      int
	}{
		"on the screen":         {2, 4, "3", 2},
		"the last of it":        {2, 4, "5", 2},
		"below":                 {2, 4, "6", 3},
		"far below":             {0, 4, "9", 6},
		"above":                 {5, 4, "4", 4},
		"at the top":            {5, 4, "0", 0},
		"hidden":                {5, 4, "x", 0},
		"fewer rows than there": {9, 4, "8", 6},
		"more room than rows":   {3, 20, "8", 0},
	} {
		t.Run(name, func(t *testing.T) {
			table := table{rows: peers, top: test.top, room: test.room}
			if table.reach(test.cursor); table.top != test.want {
				t.Errorf("%d, not %d", table.top, test.want)
			}
		})
	}
}

// Old lines lose every colour; those that are true keep theirs.
func TestFaded(t *testing.T) {
	lines := []cell.Line{cell.Styled(cell.Good, "up").Add(cell.Plain, " now")}
	v := viewOf(someMesh(0))
	if got := v.faded(lines); got[0][0].Role != cell.Good {
		t.Errorf("%+v is true", got)
	}
	v.live = false
	got := v.faded(lines)
	if len(got[0]) != 1 || got[0][0].Role != cell.Dim || got[0].String() != "up now" {
		t.Errorf("%+v is old", got)
	}
	if lines[0][0].Role != cell.Good {
		t.Error("what was drawn has changed")
	}
}
