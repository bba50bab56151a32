package daemon

import (
	"time"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/health"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/mesh"
)

// watchTrouble has what was counted and said judged. lost is what the kernel dropped.
func (t *teller) watchTrouble(m mesh.Mesh, r dataplane.Reading, lost map[string]uint64, at time.Time) {
	if !t.trouble.Take(health.Counted{Mesh: m, Totals: r.Totals, Peers: r.Peers, Lost: lost,
		Troubles: r.Troubles, Strangers: r.Strangers}, func(peer string) health.Standing {
		f := t.registry.Of(peer)
		return health.Standing{Fails: f.Fails(), Maintained: f.Maintained(at), Via: f.Via()}
	}, at) {
		return
	}
	tables, _ := link.NeighbourTables() // none where the kernel does not count what we look for
	for _, table := range tables {
		t.trouble.TakeTable(health.NeighbourTable(table), at)
	}
}
