package rate

import (
	"testing"
	"time"
)

func TestMinute(t *testing.T) {
	type step struct {
		at    time.Duration
		total uint64
		want  uint64
	}
	for _, test := range []struct {
		name  string
		steps []step
	}{
		{"one reading says nothing", []step{{0, 500, 0}}},
		{"two readings", []step{{0, 500, 0}, {time.Second, 510, 10}}},
		{"within a second", []step{{0, 500, 0}, {500 * time.Millisecond, 510, 0}, {time.Second, 515, 5}}},
		{"a minute and no more", []step{{0, 0, 0}, {30 * time.Second, 100, 100}, {60 * time.Second, 150, 150},
			{61 * time.Second, 150, 50}, {90 * time.Second, 160, 60}, {91 * time.Second, 160, 10},
			{160 * time.Second, 160, 0}}},
		{"after a long gap", []step{{0, 0, 0}, {time.Hour, 100, 0}, {time.Hour + time.Second, 101, 1}}},
		{"a counter that fell", []step{{0, 100, 0}, {time.Second, 50, 0}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var m Minute
			for _, s := range test.steps {
				if got := m.Note(noon.Add(s.at), s.total); got != s.want {
					t.Errorf("%v after the first: %d, want %d", s.at, got, s.want)
				}
			}
		})
	}
}
