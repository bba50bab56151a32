package dataplane_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane"
)

// Only what the host forbids counts, however deep it is among other errors.
func TestRefused(t *testing.T) {
	to := func(peer string, err error) error { return &dataplane.EchoError{Peer: peer, Err: err} }
	for name, c := range map[string]struct {
		err  error
		want []string
	}{
		"nothing":       {nil, nil},
		"no loop":       {errors.New("no packet loop runs"), nil},
		"another error": {to("a", unix.ENETUNREACH), nil},
		"forbidden":     {to("a", fmt.Errorf("sendmmsg: %w", unix.EPERM)), []string{"a"}},
		"some": {errors.Join(to("a", unix.EPERM), unix.EPERM,
			errors.Join(to("b", unix.EMSGSIZE), to("c", unix.EPERM))), []string{"a", "c"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := dataplane.Refused(c.err); !slices.Equal(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// An error names the echoes that it is about; one that names none is about all of them.
func TestUnsent(t *testing.T) {
	of := func(index int) error { return &dataplane.EchoError{Peer: "a", Index: index, Err: unix.EMSGSIZE} }
	for name, c := range map[string]struct {
		err  error
		want []int
	}{
		"nothing":             {nil, nil},
		"no loop":             {errors.New("no packet loop runs"), []int{0, 1, 2}},
		"one":                 {of(1), []int{1}},
		"some, of two levels": {errors.Join(of(0), errors.Join(of(2))), []int{0, 2}},
		"and something else":  {errors.Join(of(0), unix.EPERM), []int{0, 1, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := dataplane.Unsent(c.err, 3); !slices.Equal(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}
