package words

import (
	"cmp"
	"strings"
)

// Natural compares two names as people order them, for sorting: figures in them by their value, so that
// "edge-2" stands before "edge-10". Of names that differ in leading zeros alone the shorter one is first.
func Natural(a, b string) int {
	i, j := 0, 0
	for i < len(a) && j < len(b) {
		if !digit(a[i]) || !digit(b[j]) {
			if a[i] != b[j] {
				return cmp.Compare(a[i], b[j])
			}
			i, j = i+1, j+1
			continue
		}
		x, y := number(a[i:]), number(b[j:])
		i, j = i+len(x), j+len(y)
		x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
		// Of two figures without leading zeros the longer one is the larger, however long they are.
		if c := cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y)); c != 0 {
			return c
		}
	}
	return cmp.Or(cmp.Compare(len(a)-i, len(b)-j), cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}

// digit tells whether a byte is one.
func digit(c byte) bool { return c >= '0' && c <= '9' }

// number is the figure that a text begins with.
func number(s string) string {
	n := 0
	for n < len(s) && digit(s[n]) {
		n++
	}
	return s[:n]
}
