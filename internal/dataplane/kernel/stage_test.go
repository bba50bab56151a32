package kernel

import (
	"slices"
	"testing"
)

// Packets never meet a place without its program: what a stage sends packets to comes before it.
func TestOrderOfStages(t *testing.T) {
	for name, c := range map[string]struct{ from, to stage }{
		"what tc sends into the merger": {stageIn, stageMerge},
		"what XDP marks":                {stageXDP, stageIn},
	} {
		t.Run(name, func(t *testing.T) {
			if c.from <= c.to {
				t.Errorf("%s comes before %s, which takes its packets", c.from, c.to)
			}
		})
	}
}

// rename gives the stages names in another order of the alphabet, until the test ends.
func rename(t *testing.T) {
	t.Helper()
	before := stages
	t.Cleanup(func() { stages = before })
	for s, name := range []string{"z", "y", "x", "w"} {
		stages[s].name = name
	}
}

// The order is the stages' own, and that of interfaces behind it, whatever the names are.
func TestInOrder(t *testing.T) {
	want := []attachment{
		{stageMerge, 10}, {stageIn, 2}, {stageIn, 3}, {stageIn, 10}, {stageOut, 7}, {stageXDP, 2}, {stageXDP, 10},
	}
	places := map[attachment]bool{}
	for _, at := range want {
		places[at] = true
	}
	check := func(t *testing.T) {
		if got := inOrder(places); !slices.Equal(got, want) {
			t.Errorf("%v", got)
		}
	}
	t.Run("names as they are", check)
	t.Run("other names", func(t *testing.T) { rename(t); check(t) })
}

// To remove a pin is to detach its program, so pins go in the opposite order; maps may go at any time.
func TestRemovalOrder(t *testing.T) {
	check := func(t *testing.T) {
		want := []string{
			attachment{stageXDP, 10}.pin(), attachment{stageXDP, 2}.pin(),
			attachment{stageOut, 7}.pin(), attachment{stageIn, 2}.pin(), attachment{stageMerge, 9}.pin(),
			"counted", "link-of-others", "nodes",
		}
		pins := slices.Clone(want)
		slices.Sort(pins)
		if got := removalOrder(pins); !slices.Equal(got, want) {
			t.Errorf("%v\nwant %v", got, want)
		}
	}
	t.Run("names as they are", check)
	t.Run("other names", func(t *testing.T) { rename(t); check(t) })
}

// Pins are found again by the next meshd, which may be an older or a newer one.
func TestPinNames(t *testing.T) {
	for name, at := range map[string]attachment{
		"link-gro-9": {stageMerge, 9}, "link-in-2": {stageIn, 2},
		"link-out-7": {stageOut, 7}, "link-xdp-12": {stageXDP, 12},
	} {
		t.Run(name, func(t *testing.T) {
			if got := at.pin(); got != name {
				t.Errorf("pinned as %s", got)
			}
			if got, ours := attachmentOf(name); !ours || got != at {
				t.Errorf("read as %+v, %v", got, ours)
			}
		})
	}
	for _, name := range []string{
		"link-in", "link-in-", "link-in-2-3", "link-in-x", "link-in-02", "link-tc-2", "in-2", "nodes", "",
	} {
		t.Run("not "+name, func(t *testing.T) {
			if at, ours := attachmentOf(name); ours {
				t.Errorf("read as %+v", at)
			}
		})
	}
}

// Whatever stage cannot be attached, it is said what follows, and what falls back has where to.
func TestPolicies(t *testing.T) {
	for s, want := range map[stage]policy{
		stageMerge: droppable, stageIn: required, stageOut: required, stageXDP: fallsBack,
	} {
		t.Run(s.String(), func(t *testing.T) {
			if got := stages[s]; got.policy != want || want == fallsBack && stages[got.fallback].policy != required {
				t.Errorf("%+v", got)
			}
		})
	}
}
