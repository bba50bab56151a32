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
