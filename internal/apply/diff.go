package apply

import (
	"fmt"
	"slices"
	"strings"
)

// around is how many equal lines stand around a difference.
const around = 3

// mostDiffer bounds how many lines may differ before all that lies between the first and the last difference
// counts as different: the work grows with the square of it.
const mostDiffer = 1000

// A part is a run of lines: equal in both texts, or only in one of them.
type part struct {
	sign byte // ' ', '-', '+'
	line string
}

// Diff returns the lines in which two texts differ, in the unified form of diff(1) without its head: none if
// they are equal.
func Diff(from, to string) (lines []string) {
	parts := compare(split(from), split(to))
	for begin := 0; begin < len(parts); {
		if parts[begin].sign == ' ' {
			begin++
			continue
		}
		first, end := max(0, begin-around), begin
		for equal := 0; end < len(parts) && equal <= 2*around; end++ {
			if equal++; parts[end].sign != ' ' {
				equal = 0
			}
		}
		last := end
		for last > begin && parts[last-1].sign == ' ' {
			last--
		}
		last = min(last+around, len(parts))
		lines = append(lines, head(parts, first, last))
		for _, p := range parts[first:last] {
			lines = append(lines, string(p.sign)+p.line)
		}
		begin = end
	}
	return lines
}

// head returns the line that says where a hunk is in both texts.
func head(parts []part, first, last int) string {
	count := func(all []part, not byte) (n int) {
		for _, p := range all {
			if p.sign != not {
				n++
			}
		}
		return n
	}
	before, hunk := parts[:first], parts[first:last]
	return fmt.Sprintf("@@ -%d,%d +%d,%d @@", count(before, '+')+1, count(hunk, '+'),
		count(before, '-')+1, count(hunk, '-'))
}

// split returns the lines of a text.
func split(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

// compare returns all lines of two texts, the common ones once.
func compare(a, b []string) (all []part) {
	begin := 0
	for begin < len(a) && begin < len(b) && a[begin] == b[begin] {
		begin++
	}
	end := 0
	for end < len(a)-begin && end < len(b)-begin && a[len(a)-1-end] == b[len(b)-1-end] {
		end++
	}
	all = signed(all, ' ', a[:begin])
	all = append(all, middle(a[begin:len(a)-end], b[begin:len(b)-end])...)
	return signed(all, ' ', a[len(a)-end:])
}

// signed appends lines with a sign.
func signed(all []part, sign byte, lines []string) []part {
	for _, l := range lines {
		all = append(all, part{sign, l})
	}
	return all
}

// middle compares what lies between the first and the last difference, by Myers' greedy algorithm ("An O(ND)
// Difference Algorithm and Its Variations", 1986): reach[k] is how far in a the paths get that have left k
// more lines of a than of b behind.
func middle(a, b []string) []part {
	limit := min(len(a)+len(b), mostDiffer)
	reach := make([]int, 2*limit+3)
	var trace [][]int
	for d := 0; d <= limit; d++ {
		trace = append(trace, slices.Clone(reach))
		for k := -d; k <= d; k += 2 {
			at := k + limit + 1
			x := reach[at-1] + 1
			if k == -d || k != d && reach[at-1] < reach[at+1] {
				x = reach[at+1]
			}
			for x < len(a) && x-k < len(b) && x-k >= 0 && a[x] == b[x-k] {
				x++
			}
			if reach[at] = x; x >= len(a) && x-k >= len(b) {
				return walk(trace, a, b, limit)
			}
		}
	}
	return signed(signed(nil, '-', a), '+', b)
}

// walk goes back from the end of both texts along what was reached.
func walk(trace [][]int, a, b []string, limit int) (all []part) {
	x, y := len(a), len(b)
	for d := len(trace) - 1; d > 0; d-- {
		reach, k := trace[d], x-y
		at := k + limit + 1
		from := k - 1
		if k == -d || k != d && reach[at-1] < reach[at+1] {
			from = k + 1
		}
		beforeX := reach[from+limit+1]
		beforeY := beforeX - from
		for x > beforeX && y > beforeY {
			x, y = x-1, y-1
			all = append(all, part{' ', a[x]})
		}
		if from == k+1 {
			y--
			all = append(all, part{'+', b[y]})
		} else {
			x--
			all = append(all, part{'-', a[x]})
		}
	}
	for x > 0 && y > 0 {
		x, y = x-1, y-1
		all = append(all, part{' ', a[x]})
	}
	slices.Reverse(all)
	return all
}
