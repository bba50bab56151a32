// Package typed reads what people type at a command line: how long, since when, and which word they meant. It
// is for both programs, and its functions are pure.
package typed

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Longest is the longest duration that somebody can mean.
const Longest = 100 * 365 * 24 * time.Hour

// Errors of what cannot be read. Both say what to write.
var (
	ErrDuration = errors.New("write a time such as 200ms, 0.5, 90s, 1h30m or 1d")
	ErrMoment   = errors.New("write how long ago, such as 90s, 1h30m or 1d, or when, such as 14:30, " +
		"2026-11-26 or 2026-11-26T21:00Z")
)

// units are those of a duration. "m" is a minute, as for time.ParseDuration.
var units = map[string]time.Duration{
	"": time.Second, "us": time.Microsecond, "µs": time.Microsecond, "ms": time.Millisecond,
	"s": time.Second, "sec": time.Second, "m": time.Minute, "min": time.Minute,
	"h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour,
}

// part is a number with its unit.
var part = regexp.MustCompile(`^ *([0-9]+(?:\.[0-9]*)?|\.[0-9]+) *([a-zµ]*)`)

// Duration reads a duration: numbers with units, the largest of which is a week, or a number of seconds. It
// is never negative, and at most Longest. The error wraps ErrDuration.
func Duration(text string) (time.Duration, error) {
	wrong := fmt.Errorf("%q: %w", text, ErrDuration)
	sum := 0.0 // nanoseconds; a float of this size is exact to a millisecond in 100 years
	rest := strings.TrimSpace(text)
	if rest == "" {
		return 0, wrong
	}
	for first := true; rest != ""; first = false {
		found := part.FindStringSubmatch(rest)
		if found == nil {
			return 0, wrong
		}
		unit, known := units[found[2]]
		n, err := strconv.ParseFloat(found[1], 64)
		rest = rest[len(found[0]):]
		if !known || err != nil || found[2] == "" && !(first && rest == "") {
			return 0, wrong
		}
		if sum += n * float64(unit); sum > float64(Longest) {
			return 0, wrong
		}
	}
	return time.Duration(math.Round(sum)), nil
}

// layouts are the ways to write a moment. Without a zone it is of this host's.
var layouts = []string{
	time.RFC3339, "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05", "2006-01-02T15:04",
	"2006-01-02 15:04:05", "2006-01-02 15:04", time.DateOnly,
}

// Moment reads a time that has been: a duration before now, a time of day (the last one that there was), or a
// date with or without one. The error wraps ErrMoment.
func Moment(text string, now time.Time) (time.Time, error) {
	if d, err := Duration(text); err == nil {
		return now.Add(-d), nil
	}
	text = strings.TrimSpace(text)
	for _, layout := range layouts {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, nil
		}
	}
	for _, layout := range []string{"15:04:05", "15:04"} {
		if t, err := time.Parse(layout, text); err == nil {
			t = time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), t.Second(), 0, now.Location())
			if t.After(now) {
				t = t.AddDate(0, 0, -1)
			}
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q: %w", text, ErrMoment)
}

// A Span is a flag whose value is a duration, as Duration reads it (pflag.Value).
type Span time.Duration

// String implements pflag.Value.
func (s *Span) String() string {
	if *s == 0 {
		return ""
	}
	return Brief(time.Duration(*s))
}

// Set implements pflag.Value.
func (s *Span) Set(text string) error {
	d, err := Duration(text)
	if err == nil {
		*s = Span(d)
	}
	return err
}

// Type implements pflag.Value.
func (s *Span) Type() string { return "time" }

// Brief writes a duration as people do, without units of zero: "1h" and not "1h0m0s". Duration reads it.
func Brief(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-2]
		}
	}
	return text
}
