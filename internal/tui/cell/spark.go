package cell

import (
	"math"
	"strings"
)

// levels are the glyphs of a chart. The lowest is nothing at all, so that a little can be told from
// nothing. There is no full block: charts below each other would melt into one.
var levels = []rune("▁▂▃▄▅▆▇")

// gap stands where nothing is known.
const gap = '·'

// perCell is how many of n values stand in each of w cells.
func perCell(n, w int) int { return max(1, (n+w-1)/w) }

// Unused is how many of the w cells of a chart of n values are left of the first.
func Unused(n, w int) int {
	if n == 0 || w <= 0 {
		return 0
	}
	per := perCell(n, w)
	return max(0, w-(n+per-1)/per)
}

// Spark draws values, the newest last, as a chart of w cells and one line. NaN is a
// gap, and so is what there is no value for. Each cell shows the largest of its
// values, so no peak is lost; the highest glyph is top, or the largest value if
// top is 0.
//
// last is the number of the newest value, counted from any beginning: cells hold
// values of the same numbers in each call, so the chart moves by whole cells and not
// a little all the time.
func Spark(values []float64, last int64, w int, top float64) string {
	if w <= 0 {
		return ""
	}
	per := int64(perCell(len(values), w))
	cells := make([]float64, w)
	for i := range cells {
		cells[i] = math.NaN()
	}
	for i, v := range values {
		back := last/per - (last-int64(len(values)-1-i))/per // cells before the last one
		if at := int64(w) - 1 - back; at >= 0 && !math.IsNaN(v) && !(cells[at] >= v) {
			cells[at] = v
		}
	}
	if top == 0 {
		for _, v := range cells {
			if v > top {
				top = v
			}
		}
	}
	var b strings.Builder
	for i, v := range cells {
		switch {
		case i < Unused(len(values), w): // no time that the values are of
			b.WriteByte(' ')
		case math.IsNaN(v):
			b.WriteRune(gap)
		case v <= 0 || top <= 0:
			b.WriteRune(levels[0])
		default:
			above := len(levels) - 1
			b.WriteRune(levels[1+min(above-1, int(v/top*float64(above)))])
		}
	}
	return b.String()
}
