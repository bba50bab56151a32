package words

import (
	"slices"
	"strings"
	"testing"

	"example.org/meshd/internal/budget"
)

func TestNatural(t *testing.T) {
	for _, want := range []string{
		"edge-1 edge-2 edge-10 edge-11", "a a1 a1b a2 b", "10 10a 100",
		"ip-172-31-0-2 ip-172-31-0-10 ip-172-31-1-1",
		"a1 a01 a2 a02 a10", "a99999999999999999999 a100000000000000000000",
	} {
		t.Run(want, func(t *testing.T) {
			names := strings.Fields(want)
			for range len(names) { // from each rotation
				names = append(names[1:], names[0])
				sorted := slices.Clone(names)
				slices.SortFunc(sorted, Natural)
				if got := strings.Join(sorted, " "); got != want {
					t.Errorf("%s, not %s", got, want)
				}
			}
		})
	}
}

// An order that contradicts itself would have rows jump about.
func FuzzNatural(f *testing.F) {
	f.Add("a1", "a01", "a2")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		defer budget.Of(t)()
		if Natural(a, b) != -Natural(b, a) || Natural(a, b) == 0 != (a == b) {
			t.Errorf("%q and %q: %d, %d", a, b, Natural(a, b), Natural(b, a))
		}
		if Natural(a, b) < 0 && Natural(b, c) < 0 && Natural(a, c) >= 0 {
			t.Errorf("%q, %q and %q have no order", a, b, c)
		}
	})
}
