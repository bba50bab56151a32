package e2e

import (
	"slices"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// Whatever drops packets of pods on their way out of the encrypted interface is told by the host whose fault
// it is: by the rule where there is one.
func TestSealedWayIsMeasured(t *testing.T) {
	nstest.Share(t, nstest.Busy)
	s := newSealed(t)
	all := s.runAll(s.file())
	w, w2 := all[1], all[2]
	const chain = "add table inet fw; add chain inet fw c "
	silent := []string{"peer_down", "peer_silent", "peer_one_way"}
	for _, damage := range []struct {
		name, rules, mend string
		kinds             []string // one of them is told by worker
		peers             []string // one of them is told by worker2 of worker
	}{
		{name: "forwarding", rules: chain + "{ type filter hook forward priority 0; }; " +
			"add rule inet fw c iifname meshd-wg drop", mend: "delete table inet fw",
			kinds: []string{"pods_filtered"}, peers: []string{"path_forwarding"}},
		{name: "in front of routing", rules: chain + "{ type filter hook prerouting priority 0; }; " +
			"add rule inet fw c iifname meshd-wg drop", mend: "delete table inet fw",
			kinds: []string{"pods_filtered"}, peers: silent},
		{name: "in front of all rules", rules: "add table netdev fw; add chain netdev fw c " +
			"{ type filter hook ingress device meshd-wg priority 0; }; add rule netdev fw c drop",
			mend:  "delete table netdev fw",
			kinds: []string{"pods_lost"}, peers: silent},
	} {
		t.Run(damage.name, func(t *testing.T) {
			run(t, s.Worker.Namespace, "nft", damage.rules)
			defer func() { _, _ = s.Worker.Run("nft", damage.mend) }() // if the test fails
			waitStatus(t, w, "worker tells", func(st control.Status) bool {
				return slices.ContainsFunc(kindsOf(st, ""), func(kind string) bool {
					return slices.Contains(damage.kinds, kind)
				})
			})
			waitStatus(t, w2, "worker2 tells", func(st control.Status) bool {
				return slices.ContainsFunc(kindsOf(st, "worker"), func(kind string) bool {
					return slices.Contains(damage.peers, kind)
				})
			})
			run(t, s.Worker.Namespace, "nft", damage.mend)
			for _, d := range []*nstest.Daemon{w, w2} {
				waitStatus(t, d, "all is well", func(st control.Status) bool {
					return st.Health.Level == control.OK
				})
			}
		})
	}
}
