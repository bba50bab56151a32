package plan

import (
	"time"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/seal"
)

// Warnings tells what going from one plan to another would cost, or would leave out: what is worth knowing
// before it is done. told is what is known of the encrypted interface.
func Warnings(old, next *Plan, told seal.Told, now time.Time) (all []mesh.Condition) {
	for _, c := range next.Conditions {
		if c.Kind == mesh.NotPrepared {
			all = append(all, c)
		}
	}
	costs := mesh.Condition{Kind: mesh.SwitchCosts, Severity: mesh.Degraded}
	switch {
	case old.Engine.Sealed == next.Engine.Sealed:
		return all
	case !next.Engine.Sealed:
		costs.Subject = "hosts that encrypt drop what is bare"
		costs.Remedy = "change all hosts within seconds of each other"
		return append(all, costs)
	case old.Seal == nil:
		costs.Subject = "this host is not prepared for encryption"
		costs.Remedy = "give all hosts a file that lists the keys and has transport = \"udp\" first; then no " +
			"packet is lost"
		return append(all, costs)
	}
	for peer := range next.Engine.Mesh.Others() {
		if !told.Ready(peer.Name, now) {
			all = append(all, mesh.Condition{Kind: mesh.NotReady, Severity: mesh.Degraded, Peer: peer.Name,
				Remedy: "check that its file lists the keys, that it has its private key, and that firewalls pass " +
					"the port of WireGuard"})
		}
	}
	return all
}
