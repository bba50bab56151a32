//go:build vlan

// For kernels that have VLANs: `make test-kernels` boots some.

package e2e

import (
	"strings"
	"testing"
)

// An underlay of tagged frames, by the interface of the VLAN.
func TestKernelEngineOnVLAN(t *testing.T) {
	for _, receive := range []string{"tcx", "xdp"} {
		w := newWorldMTU(t, 1472)
		doc := strings.ReplaceAll(engineFile(t, "kernel", receive), "\"172.18.0.", "\"172.30.0.")
		for i, h := range w.Hosts() {
			address := []string{"172.30.0.2", "172.30.0.4", "172.30.0.3"}[i]
			if err := h.IP("link add eth0.7 link eth0 type vlan id 7", "addr add "+address+"/24 dev eth0.7", "link set eth0.7 up"); err != nil {
				t.Fatal(err)
			}
		}
		m := w.startAll(doc)
		known(t, m.w2, "worker")
		known(t, m.w, "worker2")
		before := status(t, m.w2).Dataplane.Calls
		transfer(t, m.PodW2b, m.PodW, "10.244.1.2:9000", 16<<20)
		transfer(t, m.PodW, m.PodW2b, "10.244.2.3:9000", 16<<20)
		s := status(t, m.w2)
		if n := s.Dataplane.Calls["wire_write"].Packets - before["wire_write"].Packets; s.Dataplane.Receive != "tcx" || n > 100 {
			t.Errorf("user space sent %d packets, %+v", n, s.Dataplane)
		}
	}
}
