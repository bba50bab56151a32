package user

import (
	"testing"

	"example.org/meshd/internal/mesh"
)

// A packet like one that was just allowed is looked at anew once the mesh is another one, or its sender is.
func TestAllowedIsForgotten(t *testing.T) {
	r, m := newRig(t), threeNodes()
	b := udp4("10.244.1.2", "10.244.0.2", 62, 0)
	r.receive("172.18.0.3:8285", 0, b, b)
	r.receive("172.18.0.4:8285", 0, b)
	m.Peers[1].Subnets = prefixes("10.244.7.0/24")
	if err := r.setMesh(m); err != nil {
		t.Fatal(err)
	}
	r.receive("172.18.0.3:8285", 0, b)
	peers := r.Read().Peers
	if len(r.tun.written) != 2 || peers["b"].Drops[mesh.SpoofedSource] != 1 ||
		peers["c"].Drops[mesh.SpoofedSource] != 1 {
		t.Errorf("%d packets written, %+v", len(r.tun.written), peers)
	}
}
