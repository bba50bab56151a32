package mesh_test

import (
	"testing"

	"example.org/meshd/internal/mesh"
)

func TestMeaningOf(t *testing.T) {
	for _, test := range []struct {
		name       string
		kind, code uint8
		v6         bool
		want       mesh.PathMeaning
	}{
		{"net unreachable", 3, 0, false, mesh.HostUnreachable},
		{"host unreachable", 3, 1, false, mesh.HostUnreachable},
		{"port unreachable", 3, 3, false, mesh.PortClosed},
		{"fragmentation needed", 3, 4, false, mesh.TooLarge},
		{"communication prohibited", 3, 13, false, mesh.Prohibited},
		{"an unknown code", 3, 200, false, mesh.OtherError},
		{"time exceeded", 11, 0, false, mesh.RoutingLoop},
		{"source quench", 4, 0, false, mesh.OtherError},
		{"type 1 of IPv4", 1, 4, false, mesh.OtherError},
		{"no route over IPv6", 1, 0, true, mesh.HostUnreachable},
		{"prohibited over IPv6", 1, 1, true, mesh.Prohibited},
		{"address unreachable over IPv6", 1, 3, true, mesh.HostUnreachable},
		{"port unreachable over IPv6", 1, 4, true, mesh.PortClosed},
		{"packet too big", 2, 0, true, mesh.TooLarge},
		{"time exceeded over IPv6", 3, 0, true, mesh.RoutingLoop},
		{"parameter problem", 4, 1, true, mesh.OtherError},
		{"an unknown code over IPv6", 1, 200, true, mesh.OtherError},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := mesh.MeaningOf(test.kind, test.code, test.v6); got != test.want {
				t.Errorf("%d, want %d", got, test.want)
			}
		})
	}
}
