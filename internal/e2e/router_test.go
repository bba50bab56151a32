package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"example.org/meshd/internal/nstest"
)

// behindRouter puts the worker and worker2 into networks of their own, with a router between them whose
// link to the worker has an MTU. It returns the pattern of their addresses, for dualStack.
func (w *world) behindRouter(v6 bool, mtu int) (underlay string) {
	w.t.Helper()
	router, err := w.Lab.Empty("router")
	if err != nil {
		w.t.Fatal(err)
	}
	network, suffix, all := "172.3%d.0.%d/24", "", "172.16.0.0/12"
	if v6 {
		network, suffix, all = "2001:db8:3%d::%d/64", " nodad", "2001:db8::/32"
	}
	hop := func(side int) string {
		address, _, _ := strings.Cut(fmt.Sprintf(network, side, 1), "/")
		return address
	}
	for _, err := range []error{
		router.Sysctl("ipv4.ip_forward", "1"), router.Sysctl("ipv6.conf.all.forwarding", "1"),
	} {
		if err != nil {
			w.t.Fatal(err)
		}
	}
	for side, h := range []*nstest.Host{w.Worker2, w.Worker} {
		device := fmt.Sprintf("to%d", side)
		err := errors.Join(
			h.IP("link add far type veth peer name "+device+" netns "+router.Name,
				"addr add "+fmt.Sprintf(network, side, 3+side)+" dev far"+suffix, "link set far up"),
			router.IP("addr add "+fmt.Sprintf(network, side, 1)+" dev "+device+suffix, "link set "+device+" up"),
			h.IP("route add "+all+" via "+hop(side)))
		if err != nil {
			w.t.Fatal(err)
		}
	}
	if err := router.IP(fmt.Sprintf("link set to1 mtu %d", mtu)); err != nil {
		w.t.Fatal(err)
	}
	return network
}

// A host learns the MTU of a path from a router's ICMP errors, also about datagrams that it sent from
// the port of a flow, which no socket has: TCP passes, and pods are told what fits.
func TestRouterWithNarrowLink(t *testing.T) { eachEngine(t, nstest.Waiting, testRouterWithNarrowLink) }

func testRouterWithNarrowLink(t *testing.T) {
	for name, v6 := range map[string]bool{"ipv4": false, "ipv6": true} {
		t.Run(name, func(t *testing.T) {
			const path = 1400
			w := newWorldMTU(t, 1452)
			network := w.behindRouter(v6, path)
			address := func(side int) string {
				address, _, _ := strings.Cut(fmt.Sprintf(network, side, 3+side), "/")
				return address
			}
			// The MTU is given: that of the interfaces does not tell of the path.
			doc := strings.NewReplacer("node-3", address(0), "node-4", address(1), "node-2", "198.18.0.2",
				"[network]\n", "[network]\nmtu = 1452\n").Replace(dualStack("node-%d"))
			if v6 {
				doc = strings.Replace(doc, "198.18.0.2", "2001:db8:ff::2", 1)
			}
			doc += "[dataplane]\nspread = true\n"
			w2, one := w.own(w.Worker2, doc), w.own(w.Worker, doc)
			known(t, w2, "worker")
			known(t, one, "worker2")
			for i, to := range []string{"10.244.1.2", "fd00:10:244:1::2"} {
				transfer(t, w.PodW2b, w.PodW, fmt.Sprintf("[%s]:%d", to, 9000+i), 4<<20)
			}
			if p := peer(t, status(t, w2), "worker"); p.Drops["too_big"] == 0 {
				t.Errorf("no pod was told: %v", p.Drops)
			}
			contains(t, run(t, w.Worker2.Namespace, "ip", "route", "get", address(1)), fmt.Sprint("mtu ", path))
		})
	}
}
