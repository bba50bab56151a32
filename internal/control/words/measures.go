package words

import "fmt"

// OrNone returns s, or "none" for an empty s: a blank place in a table looks like a fault.
func OrNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// Size writes a number of bytes with an SI unit and a digit after the point: "1.2 MB".
func Size(n uint64) string {
	value, units := float64(n), []string{"B", "kB", "MB", "GB", "TB", "PB"}
	for value >= 1000 && len(units) > 1 {
		value, units = value/1000, units[1:]
	}
	if units[0] == "B" { // which have no fractions
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", value, units[0])
}
