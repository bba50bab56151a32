package peers

import (
	"time"

	"example.org/meshd/internal/mesh"
)

// Conditions returns what is wrong with one peer, as far as its facts tell. ours names the meaning of
// this node's file; empty: drift is not judged. A peer that is not asked is judged by nothing.
func (f Facts) Conditions(name, ours string, now time.Time) (all []mesh.Condition) {
	if f.StateAt(now) == Down {
		all = append(all, mesh.Condition{Kind: mesh.PeerDown, Severity: mesh.Failed, Peer: name,
			Remedy: "check that its host runs, that meshd runs there, and that both hosts' firewalls " +
				"pass the mesh port"})
	}
	if ours != "" && f.File != "" && f.File != ours {
		all = append(all, mesh.Condition{Kind: mesh.FileDiffers, Severity: mesh.Degraded, Peer: name,
			Cause: "it runs the file " + f.File, Remedy: "copy the file that is right to both hosts"})
	}
	return all
}
