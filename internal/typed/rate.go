package typed

import (
	"fmt"
	"strconv"
	"strings"
)

// prefixes of rates, as programs that measure write them: of 1000, in bits.
var prefixes = map[string]float64{"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}

// BitRate reads a rate in bit/s: 500000, 500k, 100M, 2.5G, also with "bit/s", "b/s" or "bps" behind it.
func BitRate(text string) (uint64, error) {
	word := strings.ToLower(strings.TrimSpace(text))
	for _, end := range []string{"bit/s", "bits/s", "bps", "b/s", "bit"} {
		if less, found := strings.CutSuffix(word, end); found {
			word = strings.TrimSpace(less)
			break
		}
	}
	number := strings.TrimRight(word, "kmgt")
	unit, known := prefixes[word[len(number):]]
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || !known || !(n >= 0) || n*unit >= 1<<63 {
		return 0, fmt.Errorf("%q is no rate: write bits in a second, such as 100M or 2.5G", text)
	}
	return uint64(n * unit), nil
}
