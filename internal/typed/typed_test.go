package typed

import (
	"errors"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/budget"
)

func TestDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0.2": 200 * time.Millisecond, "10": 10 * time.Second, "90s": 90 * time.Second, "1h30m": 90 * time.Minute,
		"1d": 24 * time.Hour, "2w": 14 * 24 * time.Hour, "200ms": 200 * time.Millisecond, "0": 0, "0s": 0,
		"1.5h": 90 * time.Minute, "1d12h": 36 * time.Hour, ".5": 500 * time.Millisecond,
		"1 h 5 min": 65 * time.Minute,
		"30sec":     30 * time.Second, " 5s ": 5 * time.Second, "10us": 10 * time.Microsecond, "1.": time.Second,
		"36500d": Longest,
	} {
		t.Run(text, func(t *testing.T) {
			if got, err := Duration(text); err != nil || got != want {
				t.Errorf("%v, %v, want %v", got, err, want)
			}
		})
	}
	for _, text := range []string{"", " ", "-1s", "soon", "1h30", "5 5", "1x", "1e3", "0x10", "s", "1d!",
		"36501d",
		"9999999999999999999999", strings.Repeat("9", 400), "NaN", "Inf", "1,5s", "+1"} {
		t.Run("not "+text, func(t *testing.T) {
			if got, err := Duration(text); !errors.Is(err, ErrDuration) || got != 0 {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}

func TestMoment(t *testing.T) {
	zone := time.FixedZone("CET", 3600)
	now := time.Date(2026, 11, 27, 14, 0, 0, 0, zone)
	for text, want := range map[string]time.Time{
		"1h":                   now.Add(-time.Hour),
		"10":                   now.Add(-10 * time.Second),
		"13:30":                time.Date(2026, 11, 27, 13, 30, 0, 0, zone),
		"13:30:05":             time.Date(2026, 11, 27, 13, 30, 5, 0, zone),
		"21:00":                time.Date(2026, 11, 26, 21, 0, 0, 0, zone), // today it is yet to come
		"2026-11-26":           time.Date(2026, 11, 26, 0, 0, 0, 0, zone),
		"2026-11-26 21:00":     time.Date(2026, 11, 26, 21, 0, 0, 0, zone),
		"2026-11-26 21:00:07":  time.Date(2026, 11, 26, 21, 0, 7, 0, zone),
		"2026-11-26T21:00":     time.Date(2026, 11, 26, 21, 0, 0, 0, zone),
		"2026-11-26T21:00Z":    time.Date(2026, 11, 26, 21, 0, 0, 0, time.UTC),
		"2026-11-26T21:00:07Z": time.Date(2026, 11, 26, 21, 0, 7, 0, time.UTC),
	} {
		t.Run(text, func(t *testing.T) {
			if got, err := Moment(text, now); err != nil || !got.Equal(want) {
				t.Errorf("%v, %v, want %v", got, err, want)
			}
		})
	}
	for _, text := range []string{"", "yesterday", "25:00", "2026-13-01", "-1h", "14"[:0]} {
		t.Run("not "+text, func(t *testing.T) {
			if _, err := Moment(text, now); !errors.Is(err, ErrMoment) {
				t.Error(err)
			}
		})
	}
}

// No text makes a duration that is not one.
func FuzzDuration(f *testing.F) {
	for _, text := range []string{"1h30m", "0.2", "1d", "9e9", "µs", "1..s"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		defer budget.Of(t)()
		d, err := Duration(text)
		if d < 0 || d > Longest || err != nil && !errors.Is(err, ErrDuration) {
			t.Errorf("%q: %v, %v", text, d, err)
		}
		// What Go reads, too, means the same here.
		if g, bad := time.ParseDuration(text); err == nil && bad == nil && (d-g).Abs() > time.Microsecond {
			t.Errorf("%q: %v, not %v", text, d, g)
		}
	})
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "", time.Second: "1s", time.Hour: "1h",
		90 * time.Minute: "1h30m",
		30 * time.Second: "30s", 10 * time.Minute: "10m", 200 * time.Millisecond: "200ms"} {
		s := Span(d)
		if got := s.String(); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
	var s Span
	if err := s.Set("1d"); err != nil || time.Duration(s) != 24*time.Hour {
		t.Error(err, s)
	}
	err := s.Set("soon")
	if !errors.Is(err, ErrDuration) || time.Duration(s) != 24*time.Hour || s.Type() != "time" {
		t.Error(err, s)
	}
}

func TestMeant(t *testing.T) {
	nodes := []string{"control-plane", "worker", "worker-2", "edge-1", "edge-2"}
	for word, want := range map[string]string{"wroker": "worker", "worker-": "worker", "edge1": "edge-1",
		"edge-3": "edge-1", "controlplane": "control-plane", "x": "", "dinner": "", "": "",
		strings.Repeat("e", 100): "", "EDGE-1": ""} {
		t.Run(word, func(t *testing.T) {
			if got := Meant(word, nodes); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}

// Durations are written as people write them, and read again.
func TestBrief(t *testing.T) {
	for d, want := range map[time.Duration]string{
		500 * time.Millisecond: "500ms", time.Second: "1s", time.Minute: "1m", time.Hour: "1h",
		90 * time.Second: "1m30s", 24*time.Hour + time.Minute: "24h1m", 10 * time.Minute: "10m", 0: "0s",
	} {
		t.Run(want, func(t *testing.T) {
			if got := Brief(d); got != want {
				t.Errorf("%q", got)
			}
			if got, err := Duration(want); got != d || err != nil {
				t.Errorf("read again: %v, %v", got, err)
			}
		})
	}
}
