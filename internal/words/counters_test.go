package words

import (
	"testing"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
)

// What WireGuard does not count is null; drops are the engine's in any case.
func TestCountersOfEachEngine(t *testing.T) {
	for _, engine := range []string{dataplane.EngineUser, dataplane.EngineKernel, dataplane.EngineWireGuard} {
		t.Run(engine, func(t *testing.T) {
			one := mesh.Traffic{RxPackets: 1, RxBytes: 2, TxPackets: 3, TxBytes: 4}
			one.Drops[mesh.NotEncrypted] = 5
			r := dataplane.Reading{Totals: one, Peers: map[string]mesh.Traffic{"b": one},
				Works: dataplane.Works{Engine: engine}}
			p, all := Peer(mesh.Peer{Name: "b"}, r), Totals(r, map[string]uint64{"tun_overflow": 6})
			if p.Drops["not_encrypted"] != 5 || all.Drops["not_encrypted"] != 5 || all.Drops["tun_overflow"] != 6 {
				t.Errorf("%v, %v", p.Drops, all.Drops)
			}
			for _, c := range [][4]*uint64{{p.RxPackets, p.RxBytes, p.TxPackets, p.TxBytes},
				{all.RxPackets, all.RxBytes, all.TxPackets, all.TxBytes}} {
				for i, n := range c {
					switch sealed := engine == dataplane.EngineWireGuard; {
					case sealed && n != nil:
						t.Errorf("counter %d is %d", i, *n)
					case !sealed && (n == nil || *n != uint64(i+1)):
						t.Errorf("counter %d is %v", i, n)
					}
				}
			}
		})
	}
}
