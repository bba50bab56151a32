package nstest

import (
	"regexp"
	"slices"
	"strings"
)

var (
	setElements = regexp.MustCompile(`(?s)elements = \{.*?\}`)
	setElement  = regexp.MustCompile(`[^,{}=\s][^,{}=]*[^,{}=\s]`)
)

// SortSets returns what nft(8) lists with the elements of each set in their alphabet, on one line. The
// kernel keeps those of a hash in an order that is another one for each set that is made.
func SortSets(ruleset string) string {
	return setElements.ReplaceAllStringFunc(ruleset, func(list string) string {
		elements := setElement.FindAllString(strings.TrimPrefix(list, "elements"), -1)
		slices.Sort(elements)
		return "elements = { " + strings.Join(elements, ", ") + " }"
	})
}
