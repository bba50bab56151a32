package words

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// Unknown stands for a figure that was not measured. It is never 0, which is a figure.
const Unknown = "-"

// SI writes a number with three digits and an SI unit, in five cells at most: "88.5M",
// "1.21G", "0". NaN is Unknown. Negative numbers do not occur and are 0.
func SI(v float64) string {
	switch {
	case math.IsNaN(v):
		return Unknown
	case v <= 0:
		return "0"
	case v < 9.95: // what would be rounded to 10.0 is "10"
		return fmt.Sprintf("%.1f", v)
	}
	unit := ""
	for _, u := range []string{"k", "M", "G", "T", "P", "E"} {
		if v < 999.5 { // else it would be rounded to 1000 and take a cell more
			break
		}
		v, unit = v/1000, u
	}
	digits := 0
	if unit != "" && v < 99.95 {
		digits = 1
		if v < 9.995 {
			digits = 2
		}
	}
	return fmt.Sprintf("%.*f%s", digits, v, unit)
}

// Short writes a counter in six cells: whole, as long as that fits.
func Short(n uint64) string {
	if n < 100000 {
		return fmt.Sprint(n)
	}
	return SI(float64(n))
}

// Grouped writes a counter with blanks between thousands: "10 452".
func Grouped(n uint64) string {
	s := fmt.Sprint(n)
	var b strings.Builder
	for i, r := range s {
		if i > 0 && (len(s)-i)%3 == 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// Counter writes a counter; nil is Unknown.
func Counter(n *uint64) string {
	if n == nil {
		return Unknown
	}
	return fmt.Sprint(*n)
}

// Age writes a duration for a column, in four cells where it can, with its two largest
// units: "9s", "2m10", "3h04", "12d". Clocks of two hosts differ, so less than nothing is 0.
func Age(d time.Duration) string {
	d = max(d, 0)
	s, m, h := int(d.Seconds()), int(d.Minutes()), int(d.Hours())
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case m < 60:
		return fmt.Sprintf("%dm%02d", m, s%60)
	case h < 24:
		return fmt.Sprintf("%dh%02d", h, m%60)
	case h < 10*24:
		return fmt.Sprintf("%dd%02d", h/24, h%24)
	}
	return fmt.Sprintf("%dd", h/24)
}

// Span writes a duration for a sentence: "9 s", "2m 10s", "3h 04m", "3d 04:12".
func Span(d time.Duration) string {
	d = max(d, 0)
	s, m, h := int(d.Seconds()), int(d.Minutes()), int(d.Hours())
	switch {
	case s < 60:
		return fmt.Sprintf("%d s", s)
	case m < 60:
		return fmt.Sprintf("%dm %02ds", m, s%60)
	case h < 24:
		return fmt.Sprintf("%dh %02dm", h, m%60)
	}
	return fmt.Sprintf("%dd %02d:%02d", h/24, h%24, m%60)
}

// Millis writes an RTT in milliseconds with three digits and without its unit; nil is
// Unknown.
func Millis(ms *float64) string {
	switch {
	case ms == nil:
		return Unknown
	case *ms < 9.995:
		return fmt.Sprintf("%.2f", *ms)
	case *ms < 99.95:
		return fmt.Sprintf("%.1f", *ms)
	}
	return fmt.Sprintf("%.0f", *ms)
}

// Percent writes a share of 0 to 1; nil is Unknown.
func Percent(share *float64) string {
	if share == nil {
		return Unknown
	}
	return fmt.Sprintf("%.0f%%", 100**share)
}

// Clock writes a time of day in UTC, which is the same on all hosts of a mesh. The zero
// time is Unknown.
func Clock(t time.Time) string {
	if t.IsZero() {
		return Unknown
	}
	return t.UTC().Format("15:04:05")
}

// Count writes a number with a noun: "1 peer", "2 peers".
func Count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// OneLine makes one line of a text of several: the first, and how many follow it.
func OneLine(text string) string {
	first, others, more := strings.Cut(strings.TrimSpace(text), "\n")
	if !more {
		return first
	}
	return fmt.Sprintf("%s (and %d more)", first, 1+strings.Count(others, "\n"))
}
