package e2e

import (
	"fmt"
	"strings"
	"testing"

	"example.org/meshd/internal/filter"
	"example.org/meshd/internal/nstest"
)

// Two files of ten thousand nodes differ in the last node, and in who has a subnet of it.
const (
	before = iota
	edited // the last node has another name, another address and another subnet; the worker has its old one
)

// Where the last node listens before and after the edit.
const lastAddress, newAddress = "198.18.39.248", "198.19.0.1"

// tenThousand is a file with the worker, worker2, and others that there is no route to, by name.
func tenThousand(state int) string {
	var doc strings.Builder
	doc.WriteString("[network]\ncidr = \"10.0.0.0/8\"\n[dataplane]\nengine = \"kernel\"\n")
	node := func(name, address string, subnets ...string) {
		fmt.Fprintf(&doc, "[[node]]\nname = %q\naddress = %q\nsubnets = [\"%s\"]\n",
			name, address, strings.Join(subnets, `", "`))
	}
	const moving = "10.244.9.0/24"
	worker := []string{"10.244.1.0/24"}
	if state == edited {
		worker = append(worker, moving)
	}
	node("worker", "172.18.0.4", worker...)
	node("worker2", "172.18.0.3", "10.244.2.0/24")
	for i := range 9_997 {
		a, b := i/250, i%250
		node(fmt.Sprintf("n%d", i), fmt.Sprintf("198.18.%d.%d", a, 1+b), fmt.Sprintf("10.%d.%d.0/24", a, b))
	}
	if state == edited {
		node("another", newAddress, "10.244.10.0/24")
	} else {
		node("last", lastAddress, moving)
	}
	return doc.String()
}

// The kernel engine takes ten thousand nodes: it starts with them, forwards between two of them, takes
// over an edit, and goes on where it was after kill -9. A reload writes what differs and is answered before
// all rules are read back, so damage from before the edit, from the same moment and from after it is
// repaired all the same.
func TestTenThousandNodes(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	w := newWorld(t)
	long := 4 * patience // files, rules and answers are a thousand times as large as elsewhere
	w.binary = shipped   // the race detector takes ten times as long for so many
	w2, one := w.own(w.Worker2, tenThousand(before)), w.own(w.Worker, tenThousand(before))
	known(t, w2, "worker")
	known(t, one, "worker2")
	pods := func(when, to string) {
		t.Helper()
		transfer(t, w.PodW2b, w.PodW, to, 4<<20)
		s := status(t, w2)
		if s.Dataplane.Engine != "kernel" || s.Dataplane.Reason != "" || len(s.Peers) != 9_999 {
			t.Errorf("%s: engine %s, %q, %d peers", when, s.Dataplane.Engine, s.Dataplane.Reason, len(s.Peers))
		}
		if p := peer(t, s, "worker"); *p.TxPackets == 0 || *p.RxPackets == 0 {
			t.Errorf("%s: nothing is counted: %+v", when, p)
		}
	}
	guard := func() string {
		return run(t, w.Worker2.Namespace, "nft", "-s", "list", "table", "inet", filter.TableName)
	}
	damage := func(rules string) {
		t.Helper()
		run(t, w.Worker2.Namespace, "nft", strings.ReplaceAll(rules, "GUARD", "inet "+filter.TableName))
	}
	pods("at first", "10.244.1.2:9000")
	wanted := nstest.SortSets(strings.ReplaceAll(guard(), lastAddress, newAddress))
	whole := func(when string) {
		t.Helper()
		within(t, long, when+": the rules are whole", func() bool { return nstest.SortSets(guard()) == wanted },
			func() string { return brief(status(t, w2)) })
	}

	damage("flush chain GUARD output; delete element GUARD hosts4 { 198.18.0.1 }")
	save(t, one, tenThousand(edited))
	save(t, w2, tenThousand(edited))
	damage("delete element GUARD nodes4 { 198.18.20.1 . 8285 }")
	for _, d := range []*nstest.Daemon{w2, one} {
		within(t, long, "the edit", func() bool { return status(t, d).Config.Generation == 2 },
			func() string { return brief(status(t, d)) })
	}
	whole("after the edit")
	damage("delete element GUARD hosts4 { " + newAddress + " }; flush chain GUARD forward")
	whole("after damage to what was edited")
	if n := status(t, w2).Masquerade.Repairs; n < 2 {
		t.Errorf("%d repairs of rules", n)
	}
	if err := w.PodW.IP("addr add 10.244.9.2/32 dev eth0"); err != nil {
		t.Fatal(err)
	}
	if err := w.Worker.IP("route add 10.244.9.2 via 10.244.1.2"); err != nil {
		t.Fatal(err)
	}
	pods("to the subnet that has moved", "10.244.9.2:9000")

	w2.Kill()
	w2 = w.again(w2)
	known(t, w2, "worker")
	pods("after kill -9", "10.244.1.2:9000")
	whole("after kill -9")
}
