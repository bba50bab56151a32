package typed

// longest bounds the words that are compared, in bytes: the cost is the product of two lengths.
const longest = 64

// Meant returns the word that somebody may have meant: the one with the fewest letters inserted, removed,
// replaced or swapped with their neighbours, at most a third of the letters; the first of several, and
// empty if there is none.
func Meant(word string, among []string) (best string) {
	if len(word) > longest {
		return ""
	}
	least := max(1, len(word)/3) + 1
	for _, candidate := range among {
		if len(candidate) > longest || len(candidate)-len(word) >= least || len(word)-len(candidate) >= least {
			continue
		}
		if n := distance(word, candidate); n < least {
			best, least = candidate, n
		}
	}
	return best
}

// distance counts the letters by which two words differ (the optimal string alignment distance).
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replaced := last[j-1]
			if a[i-1] != b[j-1] {
				replaced++
			}
			row[j] = min(last[j]+1, row[j-1]+1, replaced)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
