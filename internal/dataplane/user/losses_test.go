package user

import (
	"errors"
	"testing"

	"example.org/meshd/internal/dataplane"
)

// What a socket drops is an overflow as far as the namespace has counted some, and refused else.
func TestLosses(t *testing.T) {
	broken := errors.New("broken")
	type reading struct {
		drops      uint64
		dropsErr   error
		full       uint64
		fullErr    error
		lost, refu uint64 // afterwards
	}
	for _, test := range []struct {
		name     string
		readings []reading
	}{
		{"nothing", []reading{{0, nil, 100, nil, 0, 0}, {0, nil, 100, nil, 0, 0}}},
		{"an overflow", []reading{{5, nil, 105, nil, 5, 0}, {7, nil, 107, nil, 7, 0}}},
		{"a policy", []reading{{5, nil, 100, nil, 0, 5}, {9, nil, 100, nil, 0, 9}}},
		{"both", []reading{{5, nil, 103, nil, 3, 2}}},
		{"another program's socket", []reading{{0, nil, 150, nil, 0, 0}, {2, nil, 160, nil, 2, 0}}},
		{"readings that failed", []reading{{5, broken, 105, nil, 0, 0}, {5, nil, 105, broken, 0, 0},
			{5, nil, 105, nil, 5, 0}}},
		{"overtaken", []reading{{5, nil, 105, nil, 5, 0}, {5, nil, 104, nil, 5, 0}, {6, nil, 106, nil, 6, 0}}},
		{"overtaken at the sockets", []reading{{5, nil, 105, nil, 5, 0}, {4, nil, 105, nil, 5, 0},
			{6, nil, 106, nil, 6, 0}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var l losses
			l.begin(0, 100)
			for i, r := range test.readings {
				want := dataplane.Lost{Socket: r.lost, Refused: r.refu}
				if got := l.read(r.drops, r.dropsErr, r.full, r.fullErr); got != want {
					t.Errorf("reading %d: %+v, want %+v", i, got, want)
				}
			}
		})
	}
}
