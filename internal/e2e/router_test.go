package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// behindRouter puts the worker and worker2 into networks of their own, with a router between them whose
// link to the worker has an MTU. A router that swallows errors sends none. It returns the pattern of their
// addresses, for dualStack.
func (w *world) behindRouter(v6 bool, mtu int, swallows bool) (underlay string) {
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
	// The worker's link is as wide as its interface says: its datagrams are too large for the router's other
	// side alone.
	if err := router.IP(fmt.Sprintf("link set to0 mtu %d", mtu)); err != nil {
		w.t.Fatal(err)
	}
	if swallows {
		run(w.t, router, "nft", `add table inet f; add chain inet f o { type filter hook output priority 0; };
			add rule inet f o icmp type destination-unreachable drop;
			add rule inet f o icmpv6 type packet-too-big drop`)
	}
	return network
}

// A path that is narrower than the interface is found by probes, to the byte, whether a router tells of it
// or a firewall swallows what it tells: status says so, TCP between pods passes at once, and pods that may
// not be cut are told what fits. With dataplane.spread, datagrams leave from ports that no socket has.
func TestRouterWithNarrowLink(t *testing.T) { eachEngine(t, nstest.Waiting, testRouterWithNarrowLink) }

func testRouterWithNarrowLink(t *testing.T) {
	for _, test := range []struct {
		name         string
		v6, swallows bool
		path         int // bytes, outer headers included
		more         string
	}{
		{"ipv4", false, false, 1400, "spread = true\n"},
		{"ipv6, errors are swallowed", true, true, 1280, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorldMTU(t, 1452)
			network := w.behindRouter(test.v6, test.path, test.swallows)
			address := func(side int) string {
				address, _, _ := strings.Cut(fmt.Sprintf(network, side, 3+side), "/")
				return address
			}
			// The MTU is given: that of the interfaces does not tell of the path.
			doc := strings.NewReplacer("node-3", address(0), "node-4", address(1), "node-2", "198.18.0.2",
				"[network]\n", "[network]\nmtu = 1452\n").Replace(dualStack("node-%d"))
			fits := test.path - 28
			if test.v6 {
				doc, fits = strings.Replace(doc, "198.18.0.2", "2001:db8:ff::2", 1), test.path-48
			}
			doc += "[dataplane]\n" + test.more
			w2, one := w.own(w.Worker2, doc), w.own(w.Worker, doc)
			for d, other := range map[*nstest.Daemon]string{w2: "worker", one: "worker2"} {
				waitStatus(t, d, "the path is measured", func(s control.Status) bool {
					p := peer(t, s, other)
					return p.MTU == fits && p.MTUSource == "probed" &&
						slices.Equal(peerProblems(s, other), []string{"path_large"})
				})
			}
			rules := func() string { return run(t, w.Worker2.Namespace, "nft", "list", "table", "inet", "meshd-last") }
			eventually(t, "segments are made to fit", func() bool {
				return strings.Contains(rules(), fmt.Sprintf("mtu%dv6", fits))
			}, rules)
			for i, to := range []string{"10.244.1.2", "fd00:10:244:1::2"} {
				transfer(t, w.PodW2b, w.PodW, fmt.Sprintf("[%s]:%d", to, 9000+i), 4<<20)
			}
			if p := peer(t, status(t, w2), "worker"); p.Drops["too_big"] != 0 {
				t.Errorf("TCP had to be told: %v", p.Drops)
			}
			out, _ := w.PodW2b.Run("ping", "-c", "2", "-M", "do", "-s", "1420", "10.244.1.2")
			contains(t, strings.ReplaceAll(out, " ", ""), fmt.Sprintf("mtu=%d", fits))
		})
	}
}
