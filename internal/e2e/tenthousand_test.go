package e2e

import (
	"fmt"
	"strings"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// tenThousand is a file with the worker, worker2, and others that there is no route to, by name.
func tenThousand(last string) string {
	var doc strings.Builder
	doc.WriteString("[network]\ncidr = \"10.0.0.0/8\"\n[dataplane]\nengine = \"kernel\"\n")
	node := func(name, address, subnet string) {
		fmt.Fprintf(&doc, "[[node]]\nname = %q\naddress = %q\nsubnets = [%q]\n", name, address, subnet)
	}
	node("worker", "172.18.0.4", "10.244.1.0/24")
	node("worker2", "172.18.0.3", "10.244.2.0/24")
	const others = 9_998
	for i := range others {
		name := fmt.Sprintf("n%d", i)
		if i == others-1 {
			name = last
		}
		a, b := i/250, i%250
		node(name, fmt.Sprintf("198.18.%d.%d", a, 1+b), fmt.Sprintf("10.%d.%d.0/24", a, b))
	}
	return doc.String()
}

// The kernel engine takes ten thousand nodes: it starts with them, forwards between two of them, goes on
// where it was after kill -9, and takes over a change of one.
func TestTenThousandNodes(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	w := newWorld(t)
	w.binary = shipped // the race detector takes ten times as long for so many
	w2, one := w.own(w.Worker2, tenThousand("last")), w.own(w.Worker, tenThousand("last"))
	known(t, w2, "worker")
	known(t, one, "worker2")
	pods := func(when string) {
		t.Helper()
		transfer(t, w.PodW2b, w.PodW, "10.244.1.2:9000", 4<<20)
		s := status(t, w2)
		if s.Dataplane.Engine != "kernel" || s.Dataplane.Reason != "" || len(s.Peers) != 9_999 {
			t.Errorf("%s: engine %s, %q, %d peers", when, s.Dataplane.Engine, s.Dataplane.Reason, len(s.Peers))
		}
		if p := peer(t, s, "worker"); p.TxPackets == 0 || p.RxPackets == 0 {
			t.Errorf("%s: nothing is counted: %+v", when, p)
		}
	}
	pods("at first")
	save(t, w2, tenThousand("another"))
	waitStatus(t, w2, "the change", func(s control.Status) bool { return s.Config.Generation == 2 })
	pods("after a change")
	w2.Kill()
	w2 = w.again(w2)
	known(t, w2, "worker")
	pods("after kill -9")
}
