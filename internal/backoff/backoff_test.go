package backoff_test

import (
	"slices"
	"testing"
	"time"

	"example.org/meshd/internal/backoff"
)

// Each failure doubles the pause, up to the last one; Reset forgets the failures.
func TestBackoff(t *testing.T) {
	const s = time.Second
	want := []time.Duration{backoff.First, 2 * s, 4 * s, 8 * s, 16 * s, 32 * s, backoff.Last, backoff.Last,
		backoff.Last}
	var b backoff.Backoff
	for _, round := range []string{"at first", "after a success"} {
		t.Run(round, func(t *testing.T) {
			var got []time.Duration
			for range want {
				got = append(got, b.Next())
			}
			if !slices.Equal(got, want) {
				t.Errorf("%v, want %v", got, want)
			}
			b.Reset()
		})
	}
}

// A host that refuses for days does not make the pause overflow.
func TestBackoffStays(t *testing.T) {
	var b backoff.Backoff
	for range 100_000 {
		b.Next()
	}
	if got := b.Next(); got != backoff.Last {
		t.Errorf("%v", got)
	}
}

// A rest is a share of the time that something took, within its bounds: what a busy host has stretched to
// half a minute does not blind for twenty.
func TestRest(t *testing.T) {
	r := backoff.Rest{Share: 50, Least: time.Second, Most: 5 * time.Second}
	for took, want := range map[time.Duration]time.Duration{
		0: r.Least, time.Millisecond: r.Least, 40 * time.Millisecond: 2 * time.Second, 30 * time.Second: r.Most,
	} {
		t.Run(took.String(), func(t *testing.T) {
			if got := r.After(took); got != want {
				t.Errorf("%v, want %v", got, want)
			}
		})
	}
}
