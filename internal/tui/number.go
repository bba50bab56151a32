package tui

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// unknown stands for what was not measured.
const unknown = "-"

// si writes a number with three digits and an SI unit, in five cells at most: "88.5M",
// "1.21G", "0". NaN is unknown.
func si(v float64) string {
	switch {
	case math.IsNaN(v):
		return unknown
	case v <= 0:
		return "0"
	case v < 9.95:
		return fmt.Sprintf("%.1f", v)
	}
	unit := ""
	for _, u := range []string{"k", "M", "G", "T", "P", "E"} {
		if v < 999.5 {
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

// grouped writes a counter with blanks between thousands.
func grouped(n uint64) string {
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

// age writes a duration in four cells where it can, with its two largest units: "9s",
// "2m10", "3h04", "12d".
func age(d time.Duration) string {
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

// span writes a duration for a sentence: "9 s", "2m 10s", "3d 04:12".
func span(d time.Duration) string {
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

// millis writes an RTT in ms with three digits.
func millis(ms *float64) string {
	switch {
	case ms == nil:
		return unknown
	case *ms < 9.995:
		return fmt.Sprintf("%.2f", *ms)
	case *ms < 99.95:
		return fmt.Sprintf("%.1f", *ms)
	}
	return fmt.Sprintf("%.0f", *ms)
}

// percent writes a share of 0 to 1.
func percent(share *float64) string {
	if share == nil {
		return unknown
	}
	return fmt.Sprintf("%.0f%%", 100**share)
}

// clock writes a time of day.
func clock(t time.Time) string {
	if t.IsZero() {
		return unknown
	}
	return t.UTC().Format("15:04:05")
}

// count writes a number with a noun: "1 peer", "2 peers".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
