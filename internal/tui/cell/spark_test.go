package cell

import (
	"math"
	"testing"
)

func TestSpark(t *testing.T) {
	nan := math.NaN()
	for name, test := range map[string]struct {
		values []float64
		last   int64
		w      int
		top    float64
		want   string
	}{
		"rising":                   {[]float64{0, 1, 2, 3, 4, 5, 6, 7}, 7, 8, 0, "▁▂▃▄▅▆▇▇"},
		"a little is not nothing":  {[]float64{0, 0.001, 1000}, 2, 3, 0, "▁▂▇"},
		"a gap":                    {[]float64{1, nan, 1}, 2, 5, 0, "  ▇·▇"},
		"nothing at all":           {[]float64{0, 0, 0}, 2, 3, 0, "▁▁▁"},
		"a top":                    {[]float64{25, 50, 100}, 2, 3, 100, "▃▅▇"},
		"above the top":            {[]float64{200}, 0, 1, 100, "▇"},
		"the larger of two":        {[]float64{1, 9, 2, 3}, 3, 2, 9, "▇▄"},
		"only gaps":                {[]float64{nan, nan}, 1, 2, 0, "··"},
		"no values":                {nil, 0, 3, 0, "···"},
		"no room":                  {[]float64{1}, 0, 0, 0, ""},
		"a peak among gaps":        {[]float64{nan, 5, nan, nan}, 3, 2, 5, "▇·"},
		"a negative value is none": {[]float64{-1, 1}, 1, 2, 0, "▁▇"},
	} {
		is(t, name, Spark(test.values, test.last, test.w, test.top), test.want)
	}
}

// A chart moves by whole cells: what was in a cell stays there until its neighbours
// move too.
func TestSparkIsSteady(t *testing.T) {
	value := func(second int64) float64 { return float64(second * 7 % 13) }
	chart := func(last int64) string {
		var values []float64
		for s := last - 299; s <= last; s++ {
			values = append(values, value(s))
		}
		return Spark(values, last, 50, 13)
	}
	for last := int64(1000); last < 1100; last++ {
		a, b := []rune(chart(last)), []rune(chart(last+1))
		moved := (last+1)/6 != last/6
		for i := 2; i < 49; i++ { // the ends are not whole
			was := a[i]
			if moved {
				was = a[i+1]
			}
			if i+1 < 49 && b[i] != was {
				t.Fatalf("at %d cell %d became %c from %c:\n%s\n%s", last, i, b[i], was, string(a), string(b))
			}
		}
	}
}

// Unused says where a chart begins, for what stands below it.
func TestUnused(t *testing.T) {
	for name, test := range map[string]struct{ n, w, want int }{
		"as many as cells": {5, 5, 0}, "fewer": {3, 5, 2}, "two a cell": {8, 5, 1}, "none": {0, 5, 0},
		"no cells": {5, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Unused(test.n, test.w); got != test.want {
				t.Errorf("%d, not %d", got, test.want)
			}
		})
	}
}
