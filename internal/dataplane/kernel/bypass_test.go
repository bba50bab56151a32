package kernel

import (
	"testing"
	"time"
)

// What counts say of packets that no program has seen.
func TestComparison(t *testing.T) {
	type verdict struct{ in, out, wayless bool }
	for name, c := range map[string]struct {
		in, out amounts
		want    verdict
	}{
		"nothing moves":     {amounts{}, amounts{}, verdict{}},
		"programs take all": {amounts{0, 9000, 40, 0}, amounts{0, 9000, 0, 0}, verdict{}},
		"a few pings, and no program saw any": {
			amounts{20, 0, 0, 0}, amounts{20, 0, 0, 0}, verdict{true, true, false}},
		"fewer":          {amounts{19, 0, 0, 0}, amounts{19, 0, 0, 0}, verdict{}},
		"less than half": {amounts{900, 1000, 0, 0}, amounts{900, 1000, 0, 0}, verdict{}},
		"more than half": {
			amounts{1001, 1000, 0, 0}, amounts{0, 1000, 0, 0}, verdict{true, false, false}},
		"a peer sends by its socket":   {amounts{6400, 0, 100, 0}, amounts{}, verdict{}},
		"to a peer that is flannel":    {amounts{}, amounts{6400, 0, 100, 0}, verdict{}},
		"no way is found":              {amounts{}, amounts{900, 0, 30, 30}, verdict{false, false, true}},
		"no way is found now and then": {amounts{}, amounts{900, 1000, 30, 30}, verdict{}},
	} {
		t.Run(name, func(t *testing.T) {
			base := amounts{5, 7, 11, 3}
			plus := func(a amounts) amounts {
				return amounts{a.user + 5, a.programs + 7, a.handed + 11, a.lost + 3}
			}
			var k comparison
			k.compare(base, base)
			k.compare(plus(c.in), plus(c.out))
			if got := (verdict{k.unseenIn, k.unseenOut, k.wayless}); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
			k.compare(plus(c.in), plus(c.out)) // it is over
			if k.unseenIn || k.unseenOut || k.wayless {
				t.Errorf("%+v without packets", &k)
			}
		})
	}
}

// Neither the first reading nor that of new programs, whose counts begin anew, says anything.
func TestComparisonBegins(t *testing.T) {
	var k comparison
	noon := time.Unix(1e9, 0)
	if !k.due(noon) || k.due(noon.Add(compareEvery-1)) || !k.due(noon.Add(compareEvery)) {
		t.Error("not due every 10 s")
	}
	k.compare(amounts{user: 9000, handed: 5}, amounts{user: 9000})
	if k.unseenIn || k.unseenOut {
		t.Error("something is said of the first reading")
	}
	k.compare(amounts{user: 19000, handed: 1}, amounts{user: 19000})
	if k.unseenIn || k.unseenOut {
		t.Error("something is said of new programs")
	}
}
