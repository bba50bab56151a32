package mesh_test

import (
	"testing"

	"example.org/meshd/internal/mesh"
)

// The lines of `meshd plan`, which are part of the manual.
func TestChangeString(t *testing.T) {
	for _, test := range []struct {
		want   string
		change mesh.Change
	}{
		{"~ this node a -> b", mesh.Change{Op: mesh.Replaced, Kind: mesh.ChangedIdentity, Old: "a", New: "b"}},
		{"+ peer edge-4 10.244.4.0/24",
			mesh.Change{Op: mesh.Added, Kind: mesh.ChangedPeer, Subject: "edge-4", New: "10.244.4.0/24"}},
		{"- peer edge-4 10.244.4.0/24",
			mesh.Change{Op: mesh.Removed, Kind: mesh.ChangedPeer, Subject: "edge-4", Old: "10.244.4.0/24"}},
		{"~ peer edge-4 address 1.2.3.4:5 -> 1.2.3.5:5",
			mesh.Change{Op: mesh.Replaced, Kind: mesh.ChangedPeer, Subject: "edge-4", Field: "address",
				Old: "1.2.3.4:5", New: "1.2.3.5:5"}},
		{"~ listening on 1.2.3.4:5 -> 1.2.3.4:6",
			mesh.Change{Op: mesh.Replaced, Kind: mesh.ChangedPort, Old: "1.2.3.4:5", New: "1.2.3.4:6"}},
		{"~ interface mesh0 -> x", mesh.Change{Op: mesh.Replaced, Kind: mesh.ChangedInterface, Old: "mesh0",
			New: "x"}},
		{"* interface mesh0 deleted",
			mesh.Change{Op: mesh.Repaired, Kind: mesh.ChangedInterface, Subject: "mesh0", Field: "deleted"}},
		{"~ mtu 1472 -> 1400", mesh.Change{Op: mesh.Replaced, Kind: mesh.ChangedMTU, Old: "1472", New: "1400"}},
		{"+ address fd00::", mesh.Change{Op: mesh.Added, Kind: mesh.ChangedAddress, New: "fd00::"}},
		{"- route fd00::/48", mesh.Change{Op: mesh.Removed, Kind: mesh.ChangedRoute, Old: "fd00::/48"}},
		{"+ underlay eth1", mesh.Change{Op: mesh.Added, Kind: mesh.ChangedUnderlay, New: "eth1"}},
		{"+ masquerade set mesh 10.0.0.0/8",
			mesh.Change{Op: mesh.Added, Kind: mesh.ChangedMasquerade, Field: "set mesh", New: "10.0.0.0/8"}},
		{"- masquerade rules", mesh.Change{Op: mesh.Removed, Kind: mesh.ChangedMasquerade, Field: "rules"}},
		{"+ accept rules for forwarded packets",
			mesh.Change{Op: mesh.Added, Kind: mesh.ChangedAccept, Field: "rules for forwarded packets"}},
		{"~ probe.interval 1s -> none",
			mesh.Change{Op: mesh.Replaced, Kind: mesh.ChangedSetting, Subject: "probe.interval", Old: "1s",
				New: "none"}},
		{"* packet loop tun-0 ended", mesh.Change{Op: mesh.Repaired, Kind: mesh.ChangedLoops, New: "tun-0 ended"}},
	} {
		t.Run(test.want, func(t *testing.T) {
			if got := test.change.String(); got != test.want {
				t.Errorf("%q", got)
			}
		})
	}
}
