package survey

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/plan"
)

// The remedy names the interface that is down, and the address that has to come back.
func TestRemedyOfALostAddress(t *testing.T) {
	for _, test := range []struct {
		name string
		idle []link.IdleDevice
		want []string
		not  string
	}{
		{"no interface is idle", nil, []string{"192.0.2.1"}, "ip link"},
		{"one is down", []link.IdleDevice{{Name: "eth0"}},
			[]string{"`ip link set eth0 up`", "192.0.2.1"}, "carrier"},
		{"one has no carrier", []link.IdleDevice{{Name: "eth0", Up: true}},
			[]string{"eth0", "192.0.2.1"}, "ip link"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := remedy("192.0.2.1", test.idle)
			for _, want := range test.want {
				if !strings.Contains(got, want) {
					t.Errorf("%q does not name %q", got, want)
				}
			}
			if strings.Contains(got, test.not) {
				t.Errorf("%q names %q", got, test.not)
			}
		})
	}
}

// Other reasons, such as a route in the way, say themselves what to do.
func TestRemedyOfOtherReasons(t *testing.T) {
	if got := Remedy(nil, errors.New("a route is in the way")); got != "" {
		t.Errorf("%q", got)
	}
	if got := Remedy(&plan.Plan{}, fmt.Errorf("look: %w", plan.ErrNotHere)); got == "" {
		t.Error("none for a lost address")
	}
	boxed := &plan.Plan{Self: config.Node{Name: "van-1"}} // without an address, known by its key
	if got := Remedy(boxed, plan.ErrNotHere); !strings.Contains(got, "meshd key --public") {
		t.Errorf("%q", got)
	}
}
