package daemon

import (
	"fmt"
	"time"

	"example.org/meshd/internal/health"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/plan"
)

// fileName names the meaning of a file in few digits, for people and for groups of peers.
func fileName(hash [32]byte) string { return fmt.Sprintf("%x", hash[:4]) }

// conditions returns what is wrong with the peers of a plan, causes before effects.
func (p *probes) conditions(in *plan.Plan) (all []mesh.Condition) {
	var peers []health.Peer
	at, ours := time.Now(), fileName(in.Config.Sum)
	for _, peer := range in.Engine.Mesh.Others() {
		f := p.registry.Of(peer.Name)
		all = append(all, f.Conditions(peer.Name, ours, at)...)
		peers = append(peers, health.Peer{Name: peer.Name, Underlay: peer.Underlay.AddrPort,
			Version: f.Version, File: f.File, Met: f.Met})
	}
	return health.Causes(all, peers)
}
