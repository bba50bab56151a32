package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// A nat is a router that hides one box: the box has a private address, the router's own is what others see,
// and its ports are whatever the router likes.
type nat struct {
	*nstest.Host
	t testing.TB
}

// hide puts a host behind a router of its own, whose address on the underlay is 172.18.0.N/16. Every hidden
// host has the same address.
func (w *world) hide(h *nstest.Host, n int) *nat {
	w.t.Helper()
	router, err := w.Lab.Host(fmt.Sprintf("nat%d", n), fmt.Sprintf("172.18.0.%d/16", n))
	if err == nil {
		err = errors.Join(h.IP("link del eth0"),
			router.IP("link add lan0 type veth peer name eth0 netns "+h.Name, "addr add 192.168.50.1/24 dev lan0",
				"link set lan0 up"),
			h.IP("addr add 192.168.50.2/24 dev eth0", "link set eth0 up", "route add default via 192.168.50.1"))
	}
	if err != nil {
		w.t.Fatal(err)
	}
	r := &nat{router, w.t}
	r.ports("20000-29999")
	return r
}

// ports has the router use these ports, and forget all flows, as one that was restarted does.
func (r *nat) ports(which string) {
	r.t.Helper()
	run(r.t, r.Namespace, "nft", "add table ip n; delete table ip n; add table ip n; add chain ip n post "+
		"{ type nat hook postrouting priority 100; }; "+
		"add rule ip n post oifname eth0 meta l4proto udp masquerade to :"+which+" random")
	run(r.t, r.Namespace, "conntrack", "-F")
}

// move gives the router another address.
func (r *nat) move(from, to int) {
	r.t.Helper()
	if err := r.IP(fmt.Sprintf("addr add 172.18.0.%d/16 dev eth0", to),
		fmt.Sprintf("addr del 172.18.0.%d/16 dev eth0", from), fmt.Sprintf("addr replace 172.18.0.%d/16 dev eth0",
			to)); err != nil {
		r.t.Fatal(err)
	}
	run(r.t, r.Namespace, "conntrack", "-F")
}

// vans is a file of a hub, the control-plane, and two boxes without an address, worker and worker2.
func (s *sealed) vans(via string) string {
	doc := "[network]\nname = \"vans\"\ncidr = \"10.244.0.0/16\"\ntransport = \"wireguard\"\n"
	for i, name := range []string{"hub-1", "van-1", "van-2"} {
		doc += fmt.Sprintf("[[node]]\nname = %q\nsubnets = [\"10.244.%d.0/24\"]\npublic_key = %q\n", name, i,
			s.public[s.Hosts()[i]])
		switch name {
		case "hub-1":
			doc += "address = \"172.18.0.2\"\n"
		case "van-1":
			doc += via
		}
	}
	return doc
}

// longest returns the longest time without an arrival from a time on.
func (s *timed) longest(from time.Time) (gap time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := from
	for _, a := range s.arrivals {
		if a.at.After(from) {
			gap, last = max(gap, a.at.Sub(last)), a.at
		}
	}
	return gap
}

// Boxes behind routers that hide them, and have no fixed address or port, are nodes as others are: they
// know by their keys which ones, and reach the hub and, through it, each other, also after a router has
// begun anew.
func TestBoxesBehindNAT(t *testing.T) {
	nstest.Share(t, nstest.Busy)
	s := newSealed(t)
	routers := []*nat{s.hide(s.Worker, 21), s.hide(s.Worker2, 22)}
	doc := s.vans("via = \"hub-1\"\n")
	all := s.runAll(doc)
	hub, van1, van2 := all[0], all[1], all[2]
	for i, d := range []*nstest.Daemon{van1, van2} {
		if st := status(t, d); st.Node != fmt.Sprintf("van-%d", i+1) || st.Health.Level != control.OK {
			t.Errorf("this is %s, %+v", st.Node, st.Health)
		}
	}
	at := func(name string) string { return peer(t, status(t, hub), name).WireGuard.Endpoint }
	if e := at("van-1"); !strings.HasPrefix(e, "172.18.0.21:2") {
		t.Errorf("van-1 is answered at %s", e)
	}
	pods := []podAt{{s.PodCP, "10.244.0.2"}, {s.PodW, "10.244.1.2"}, {s.PodW2a, "10.244.2.2"}}
	meet(t, pods[0], pods[1])
	meet(t, pods[1], pods[2])
	contains(t, run(t, s.PodW, "ping", "-c", "1", "10.244.2.2"), "ttl=61")
	if w := peer(t, status(t, van1), "van-2").WireGuard; w.Path != "via hub-1" || w.Endpoint != "" {
		t.Errorf("%+v", w)
	}

	// Nothing but the boxes' own packets passes the hub.
	forge, before := rawBy(t, s.Worker.Namespace, "meshd-wg"), status(t, hub).Totals.Drops["wrong_destination"]
	outside := []string{"172.18.0.2", "172.18.0.22", "10.244.9.9", "8.8.8.8", "192.168.50.1"}
	s.wg(s.Worker, "set", "meshd-wg", "peer", s.public[s.ControlPlane], "allowed-ips", "0.0.0.0/0")
	for _, to := range outside {
		if err := forge(udpPacket("10.244.1.2", to, 7000, 64, "lie")); err != nil {
			t.Fatal(err)
		}
	}
	waitStatus(t, hub, "dropped", func(st control.Status) bool {
		return st.Totals.Drops["wrong_destination"] == before+uint64(len(outside))
	})

	// The hub carries all three ways of them, in a process that looks for races: few, for a busy machine.
	toVan := startTimed(t, s.PodCP, s.PodW, "10.244.0.2:7000", "10.244.1.2:7000", 100)
	between := startTimed(t, s.PodW2a, s.PodW, "10.244.2.2:7001", "10.244.1.2:7001", 100)
	for _, change := range []struct {
		name string
		do   func()
		now  string
	}{
		{"other ports", func() { routers[0].ports("40000-49999") }, "172.18.0.21:4"},
		{"another address", func() { routers[0].move(21, 31) }, "172.18.0.31:"},
		{"another address of the box itself", func() {
			if err := s.Worker.IP("addr del 192.168.50.2/24 dev eth0", "addr add 192.168.50.3/24 dev eth0",
				"route replace default via 192.168.50.1"); err != nil {
				t.Fatal(err)
			}
		}, "172.18.0.31:"},
	} {
		t.Run(change.name, func(t *testing.T) {
			was, before := time.Now(), at("van-1")
			change.do()
			eventually(t, "answered elsewhere", func() bool {
				return at("van-1") != before && strings.HasPrefix(at("van-1"), change.now)
			}, func() string { return at("van-1") })
			s.arrive(toVan, change.name)
			s.arrive(between, change.name)
			t.Logf("no packet arrived from the hub for %v, from the other box for %v", toVan.longest(was),
				between.longest(was))
			meet(t, pods[0], pods[1])
		})
	}
	toVan.finish()
	between.finish()
	// Without probes WireGuard keeps the way open, of the boxes alone; without via they never meet.
	for i, d := range all {
		save(t, d, s.vans("")+"[probe]\ninterval = \"0s\"\n")
		st := waitStatus(t, d, "reloaded", func(st control.Status) bool { return st.Config.Generation == 2 })
		other := map[int]string{1: "van-2", 2: "van-1"}[i]
		if slices.Contains(kindsOf(st, other), "never_meets") != (other != "") {
			t.Errorf("%+v", st.Health)
		}
		eventually(t, "keepalive", func() bool {
			out := s.wg(d.Host, "show", "meshd-wg", "persistent-keepalive")
			want := map[bool]string{true: "\toff", false: "\t25"}[i == 0]
			return strings.Count(out, want) == strings.Count(out, "\n")
		}, func() string { return s.wg(d.Host, "show", "meshd-wg") })
	}
	if out, err := s.PodW.Run("ping", "-c", "1", "-W", "1", "10.244.2.2"); err == nil {
		t.Errorf("without via: %s", out)
	}
	meet(t, pods[0], pods[1])
}
